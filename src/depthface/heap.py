"""The C library's heap of a process that photos go through: kept while they come, given back seconds after the last.

glibc maps a large buffer anew for every photo and zeroes it. Kept in the heap instead, it saves a fifth of a step's
time in Triton (see docs/operating.md), and 1 ms of 6 in the gateway; but then it stays after the photo. So the heap is
trimmed once nobody has asked for a while. glibc reads `MALLOC_…` variables for a whole program; Triton's own heap and
NVIDIA's backends in it are to give their memory back as ever, so each Python process sets its own (mallopt(3)).
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable

__all__ = ["IDLE_S", "Trimmer", "give_back", "keep"]

IDLE_S = 3.0
"""After so many seconds without a request the memory of large photos goes back to the system."""

# malloc.h of glibc: the parameter, its value. One arena, as each further one gives its pages back at once.
_OPTIONS = ((-1, 2**31 - 1), (-3, 2**30), (-8, 1))  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX

_LIBC = ctypes.CDLL(None)


def keep() -> None:
    """Let this process keep what it frees, from now on; other C libraries than glibc go on as they do."""
    if hasattr(_LIBC, "mallopt"):
        for parameter, value in _OPTIONS:
            _LIBC.mallopt(parameter, value)


def give_back() -> None:
    """Give what is free back to the system."""
    if hasattr(_LIBC, "malloc_trim"):
        _LIBC.malloc_trim(0)


class Trimmer:
    """Gives memory back once after each burst of work, from a thread that sleeps all the rest of the time."""

    def __init__(self, idle_s: float = IDLE_S, give_back: Callable[[], None] = give_back) -> None:
        self._idle_s = idle_s
        self._give_back = give_back
        self._used_at = 0.0
        self._used = threading.Event()
        threading.Thread(target=self._watch, name="trimmer", daemon=True).start()

    def touch(self) -> None:
        """Note that a request came, or was answered, just now."""
        self._used_at = time.monotonic()
        self._used.set()

    def _watch(self) -> None:
        while self._used.wait():
            while (left_s := self._used_at + self._idle_s - time.monotonic()) > 0:
                time.sleep(left_s)
            self._used.clear()
            self._give_back()
