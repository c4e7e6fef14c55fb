"""How a server is operated: its key, its limits, its queues, and how long an idle network stays."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from depthface.admin import chosen_key
from depthface.contract import ADMIN_HEADER
from depthface.limits import Limits

__all__ = ["IDLE_MINUTES", "Options", "hide_secret"]

IDLE_MINUTES = "DEPTHFACE_IDLE_MINUTES"
"""The variable that says how long a network that nobody asks stays in memory; 0 or nothing: for ever."""

_RESTRICTED = "model-repository,shared-memory,trace,logging"
"""Triton's names of the APIs that change the server, read its memory, or write files where they are told."""

_PHOTOS_IN_A_BODY = 8
"""As many of the largest as depth takes in one request."""


@dataclass(frozen=True)
class Options:
    """What an operator chooses; the defaults are those of `depthface serve`.

    Attributes:
        admin_key: what the restricted APIs ask for.
        limits: of one photo.
        queue_size: requests that wait before one pipeline; 0 for queues without any limit; None for what the
            repository says.
        queue_time_s: how long one may wait there; None for what the repository says.
        load_threads: models that load at once.
        idle_minutes: how long a network that nobody asks stays in memory; 0 for ever.
    """

    admin_key: str = field(default_factory=chosen_key, repr=False)
    limits: Limits = field(default_factory=Limits)
    queue_size: int | None = None
    queue_time_s: float | None = None
    load_threads: int = 4
    idle_minutes: float = 0.0

    def arguments(self, limits_bodies: bool) -> list[str]:
        """Triton's command line; `limits_bodies` if this Triton can refuse an HTTP body for its length."""
        longest = _PHOTOS_IN_A_BODY * self.limits.max_bytes
        return [
            *([f"--http-max-input-size={longest}"] if limits_bodies else []),
            f"--http-restricted-api={_RESTRICTED}:{ADMIN_HEADER}={self.admin_key}",
            f"--grpc-restricted-protocol={_RESTRICTED}:{ADMIN_HEADER}={self.admin_key}",
            f"--model-load-thread-count={self.load_threads}",
        ]

    def environment(self) -> dict[str, str]:
        """Return what the Python models read."""
        return self.limits.environment() | {IDLE_MINUTES: str(self.idle_minutes)}


def hide_secret(pid: int, secret: str) -> bool:
    """Overwrite a secret in the command line of a child process, which /proc shows to every user of the machine.

    Triton takes the key on its command line alone, and keeps a copy of its own; so call this once it is up. Until then
    it can be seen. False where the kernel does not let a parent do so.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        start, end = int(fields[45]), int(fields[46])  # proc(5): arg_start and arg_end, the 48th and 49th
        with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
            memory.seek(start)
            line = memory.read(end - start)
            for match in re.finditer(re.escape(secret.encode()), line):
                memory.seek(start + match.start())
                memory.write(b"*" * len(secret))
    except OSError:
        return False
    return True
