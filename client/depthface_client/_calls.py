"""How a call to the server is made: its id, its time limit, and when it is made again. What the two clients share."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from depthface.errors import InvalidInput
from depthface_client import _protocol
from depthface_client.errors import ServerOverloaded, ServerUnavailable

__all__ = ["SAFE_TO_RETRY", "checked_retries", "new_id", "options", "pauses_s"]

SAFE_TO_RETRY = (ServerOverloaded, ServerUnavailable)
"""The server turned the request away before it ran, or nobody was there. An inference changes nothing on the server,
so that one whose connection broke half way may be sent again too."""

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0


def new_id() -> str:
    """An id for a request that was given none."""
    return uuid.uuid4().hex[:16]


def checked_retries(retries: int) -> int:
    """How often to try again; raises `InvalidInput` if that means nothing."""
    if retries < 0:
        raise InvalidInput(f"{retries} retries mean nothing. Give a number from 0.")
    return retries


def pauses_s(retries: int) -> Iterator[float | None]:
    """How long to wait after each attempt that failed; None after the last. Doubled, and drawn at random below that,
    so that clients that were turned away together do not come back together."""
    for attempt in range(retries):
        yield random.uniform(0, min(_FIRST_PAUSE_S * 2**attempt, _LONGEST_PAUSE_S))
    yield None


def options(
    outputs: tuple[str, ...], request_id: str, timeout_s: float, parameters: Mapping[str, bool]
) -> dict[str, Any]:
    """What tritonclient's `infer` is told besides model and inputs; nobody waits in the server's queues longer than
    the client does."""
    return {
        "outputs": _protocol.outputs(*outputs),
        "request_id": request_id,
        "timeout": round(timeout_s * 1e6),
        "parameters": {name: value for name, value in parameters.items() if value},
    }
