"""What a gateway itself looks at in a photo: its size, from its head."""

from __future__ import annotations

import asyncio

from depthface import picture

__all__ = ["upright_size"]

_MOST_BYTES, _MOST_HEAD_BYTES, _MOST_SEGMENTS = 2 * 2**20, 2**16, 64
"""Of a JPEG, and before its pixels: one that has no more is read at once, in 0.1 ms as a rule, in 3 ms at worst."""

_PIXELS = 0xDA
_WITH_LENGTH = frozenset({*range(0xC0, 0xFF)} - {*range(0xD0, 0xDA)})
"""JPEG's markers that a length follows (ITU-T T.81, B.1)."""


async def upright_size(data: bytes) -> tuple[int, int]:
    """Return width and height in pixels of an encoded photo, turned as it says it is; nothing is decoded.

    Raises:
        InvalidInput: it is no photo, or one that is too large.
    """
    # A thread takes longer to wake than a usual head to read. Others may be long, or be read in a process of their own.
    return _upright_size(data) if _is_light(data) else await asyncio.to_thread(_upright_size, data)


def _is_light(data: bytes) -> bool:
    if len(data) > _MOST_BYTES or not data.startswith(b"\xff\xd8"):
        return False
    at = 2
    for _ in range(_MOST_SEGMENTS):
        mark = data[at : at + 4]
        if at > _MOST_HEAD_BYTES or len(mark) < 4 or mark[0] != 0xFF or mark[1] not in _WITH_LENGTH:
            return False
        if mark[1] == _PIXELS:
            return True
        at += 2 + int.from_bytes(mark[2:], "big")
    return False


def _upright_size(data: bytes) -> tuple[int, int]:
    with picture.opened(data) as photo:
        height, width = photo.size
    return width, height
