"""How often something has died of late, which says how long to wait before it is started again."""

from __future__ import annotations

__all__ = ["WITHIN_S", "Deaths", "doubled"]

WITHIN_S = 600.0
"""Deaths longer ago do not count."""


class Deaths:
    """The deaths of one process, or of those of one model.

    Attributes:
        total: all of them, also those that count no more.
    """

    def __init__(self) -> None:
        self.total = 0
        self._times: list[float] = []

    def add(self, now_s: float) -> int:
        """Note a death; return how many there were within `WITHIN_S`, with this one."""
        self._times = [*(time_s for time_s in self._times if now_s - time_s < WITHIN_S), now_s]
        self.total += 1
        return len(self._times)


def doubled(first_s: float, times: int) -> float:
    """Return a pause that is `first_s` at first and twice as long each further time."""
    return float(first_s * 2 ** (times - 1))
