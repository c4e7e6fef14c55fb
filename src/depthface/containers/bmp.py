"""BMP (Microsoft's BITMAPINFOHEADER and its successors): all of it is kept."""

from __future__ import annotations

from depthface.containers.parts import Lean
from depthface.errors import ImageTooLarge

__all__ = ["lean"]

_OLDEST_HEADER_BYTES = 12
"""Of a header that knows no compression."""

_RUN_LENGTHS = (1, 2)
"""BI_RLE8 and BI_RLE4."""

_MOST_RUNS = 4_000_000
"""Pixels, and codes of two bytes each: Pillow goes through both in Python, some millions a second."""


def lean(data: bytes) -> Lean:
    """Return the file as it is; raise `ImageTooLarge` for a large one in run lengths."""
    header_bytes, compression = _number(data, 14), _number(data, 30)
    width, height = _number(data, 18), abs(_number(data, 22))
    is_large = width * height > _MOST_RUNS or len(data) > 2 * _MOST_RUNS
    if header_bytes > _OLDEST_HEADER_BYTES and compression in _RUN_LENGTHS and is_large:
        raise ImageTooLarge(
            f"The photo is {width}×{height} and compressed as BMP in run lengths, which is taken up to "
            f"{_MOST_RUNS / 1e6:g} megapixels and {2 * _MOST_RUNS / 1e6:g} MB.",
            "Save it as PNG.",
        )
    return Lean(data)


def _number(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little", signed=True)
