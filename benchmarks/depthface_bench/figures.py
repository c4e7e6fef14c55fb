"""Figures with their spread, and ratios of the same round."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Spread", "of_median", "ratio", "spread"]


@dataclass(frozen=True)
class Spread:
    """Median, least and most of some values."""

    median: float
    low: float
    high: float

    def text(self, digits: int = 0, unit: str = "") -> str:
        """`median (low–high)`."""
        return f"{self.median:.{digits}f}{unit} ({self.low:.{digits}f}–{self.high:.{digits}f})"


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value."""
    return Spread(statistics.median(values), min(values), max(values))


def of_median(values: Sequence[float]) -> Spread:
    """Median, and between what it lies in 19 of 20 runs: by order statistics, whatever the distribution (H. A. David,
    Order Statistics, 7.1).
    """
    ordered, count = sorted(values), len(values)
    rank = max(0, math.floor(count / 2 - 0.98 * math.sqrt(count)))
    return Spread(statistics.median(ordered), ordered[rank], ordered[count - 1 - rank])


def ratio(a: Sequence[float], b: Sequence[float]) -> Spread:
    """How many of its round's `b` each `a` is."""
    return spread([x / y for x, y in zip(a, b, strict=True)])
