"""What the environment says, typed: the frame's own settings, and the readers that every contract uses for its own.

A contract keeps the names that its users have set already (`IMMICH_PORT`, `DEPTH_MODEL`, …). The frame's begin with
`DEPTHFACE_GATEWAY_`. A variable that is set to nothing counts as not set.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from depthface.errors import InvalidInput

__all__ = ["Environment", "Settings", "flag", "number", "text", "words"]

Environment = Mapping[str, str]

_PREFIX = "DEPTHFACE_GATEWAY_"
_YES, _NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


def text(environment: Environment, name: str, default: str = "") -> str:
    """Return a variable without the blanks round it."""
    return environment.get(name, "").strip() or default


def words(environment: Environment, name: str) -> tuple[str, ...]:
    """Return the parts of a variable, without the empty ones: between commas, or as a JSON list, which pydantic reads.

    Raises:
        InvalidInput: it begins as a list, and is not one of texts.
    """
    said = text(environment, name)
    parts: object = said.split(",")
    if said.startswith("["):
        try:
            parts = json.loads(said)
        except ValueError:
            parts = None
        if not (isinstance(parts, list) and all(isinstance(part, str) for part in parts)):
            raise InvalidInput(f"{name} is {said!r}, which is not a JSON list of texts.", 'Write a,b or ["a", "b"].')
    return tuple(part.strip() for part in cast(list[str], parts) if part.strip())


def flag(environment: Environment, name: str, default: bool = False) -> bool:
    """Return a yes or no; raises `InvalidInput` for anything else."""
    said = text(environment, name).lower()
    if said and said not in (*_YES, *_NO):
        raise InvalidInput(f"{name} is {said!r}, which is neither yes nor no.", "Set it to 1 or 0.")
    return said in _YES if said else default


def number(
    environment: Environment, name: str, default: float, least: float = 0.0, most: float = float(2**40)
) -> float:
    """Return a number from `least` to `most`; raises `InvalidInput` for anything else."""
    said = text(environment, name)
    if not said:
        return default
    try:
        value = float(said)
    except ValueError:
        value = float("nan")
    if not least <= value <= most:  # NaN is in no range
        raise InvalidInput(
            f"{name} is {said!r}, which is not a number from {least:g} to {most:g}.", "Give one, or leave it out."
        )
    return value


@dataclass(frozen=True)
class Settings:
    """What holds for every contract.

    Attributes:
        max_body_bytes: the largest request.
        max_held_bytes: the most that all requests hold that are being answered; more are refused with 503.
        deadline_s: the longest that a request may take, from its first byte to the last of the answer, unless
            that is a stream of events.
        in_flight: the most requests at one Triton at once; more wait here.
        waiting: the most requests that wait; more are refused with 503.
        origins: the web origins whose pages may ask (CORS); empty for what each contract's original allows.
        api_key: what callers must show in `x-api-key`; empty: nobody is asked.
        aliases: a foreign model name to the name that Triton's model has, without its task.
    """

    max_body_bytes: int
    max_held_bytes: int
    deadline_s: float
    in_flight: int
    waiting: int
    origins: tuple[str, ...]
    api_key: str
    aliases: Mapping[str, str]

    @classmethod
    def of(cls, environment: Environment) -> Settings:
        """Read them; raises `InvalidInput` naming the variable that cannot be."""
        pairs = [pair.partition("=") for pair in words(environment, f"{_PREFIX}ALIASES")]
        for foreign, equals, ours in pairs:
            if not (foreign.strip() and equals and ours.strip()):
                raise InvalidInput(
                    f"{_PREFIX}ALIASES has {foreign + equals + ours!r}, which is no alias.",
                    "Write it as THEIR-NAME=OUR-NAME, with commas between several.",
                )
        max_mib = number(environment, f"{_PREFIX}MAX_MIB", 64, 0.001, 1024)
        return cls(
            max_body_bytes=round(max_mib * 2**20),
            max_held_bytes=round(number(environment, f"{_PREFIX}HELD_MIB", 1024, max_mib, 2**20) * 2**20),
            deadline_s=number(environment, f"{_PREFIX}DEADLINE_S", 280, 0.1, 86400),
            in_flight=round(number(environment, f"{_PREFIX}IN_FLIGHT", 32, 1, 1000)),
            waiting=round(number(environment, f"{_PREFIX}WAITING", 1000, 0, 100_000)),
            origins=words(environment, f"{_PREFIX}ORIGINS"),
            api_key=text(environment, f"{_PREFIX}API_KEY"),
            aliases={foreign.strip(): ours.strip() for foreign, _, ours in pairs},
        )
