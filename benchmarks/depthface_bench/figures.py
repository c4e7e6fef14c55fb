"""What every benchmark does with its photos and its times."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from io import BytesIO

from PIL import Image

__all__ = ["excess", "jpeg", "ratio", "spread"]


def jpeg(picture: Image.Image) -> bytes:
    """A photo as a camera would save it."""
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def spread(values: Sequence[float], digits: int = 0) -> str:
    """`median (min–max)`."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def ratio(a: Sequence[float], b: Sequence[float]) -> str:
    """How many of its round's `b` each `a` is: `median× (min–max)`."""
    middle, low, high = _ratios(a, b)
    return f"{middle:.2f}× ({low:.2f}–{high:.2f})"


def excess(a: Sequence[float], b: Sequence[float]) -> str:
    """How much more each `a` is than its round's `b`: `median % (min…max)`."""
    middle, low, high = (100 * (value - 1) for value in _ratios(a, b))
    return f"{middle:+.1f} % ({low:+.1f}…{high:+.1f})"


def _ratios(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    ratios = [x / y for x, y in zip(a, b, strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)
