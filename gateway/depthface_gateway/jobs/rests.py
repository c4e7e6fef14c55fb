"""What has failed is left alone for a while, longer each time, so that a backlog does not use up its tries in vain."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

__all__ = ["EVERYTHING", "Rests"]

EVERYTHING = ""
"""What all tasks need: the database, a server, the disk."""

_SHORTEST_S, _LONGEST_S = 0.25, 10.0
_MOST_DOUBLINGS = 20


@dataclass
class _Rest:
    """How often in a row it was begun, and when it ends, by the monotonic clock."""

    times: int = 0
    until_s: float = 0.0


class Rests:
    """What rests: tasks, or `EVERYTHING`."""

    def __init__(self) -> None:
        self._rests: dict[str, _Rest] = {}

    def begin(self, what: str) -> None:
        """Leave it alone, longer than the last time; what rests already has failed for those at hand once more."""
        rest = self._rests.setdefault(what, _Rest())
        now_s = time.monotonic()
        if now_s < rest.until_s:
            return
        rest.times += 1
        longest_s = min(_SHORTEST_S * 2 ** min(rest.times, _MOST_DOUBLINGS), _LONGEST_S)
        rest.until_s = now_s + random.uniform(longest_s / 2, longest_s)

    def end(self, *what: str) -> None:
        """Note that these work: they may be used at once, and their next rest is a short one."""
        for one in what:
            self._rests.pop(one, None)

    def left_s(self, what: str) -> float:
        """Return how long it still rests; 0.0 if it does not."""
        rest = self._rests.get(what)
        return max(rest.until_s - time.monotonic(), 0.0) if rest is not None else 0.0
