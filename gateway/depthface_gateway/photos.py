"""What a gateway itself looks at in a photo: its size, from its head."""

from __future__ import annotations

import asyncio

from depthface import containers, picture
from depthface.limits import LARGEST_PIXELS

__all__ = ["upright_size"]


async def upright_size(data: bytes) -> tuple[int, int]:
    """Return width and height in pixels of an encoded photo, turned as it says it is; nothing is decoded.

    Raises:
        InvalidInput: it is no photo, or one that is too large.
    """
    # A thread takes longer to wake than a usual head to read. Others may be long, or be read in a process of their own.
    plain = containers.plain_jpeg(data)
    if plain is None or plain[0] * plain[1] > LARGEST_PIXELS:
        return await asyncio.to_thread(_upright_size, data)
    height, width, orientation = plain
    return (height, width) if orientation in picture.TURNING else (width, height)


def _upright_size(data: bytes) -> tuple[int, int]:
    with picture.opened(data) as photo:
        height, width = photo.size
    return width, height
