"""What a gateway itself reads of a photo: the base64 that it comes in, and its size, from its head."""

from __future__ import annotations

import asyncio
import base64

from depthface import containers, picture
from depthface.errors import InvalidInput
from depthface.limits import LARGEST_PIXELS

__all__ = ["from_base64", "upright_size"]


def from_base64(text: bytes | str) -> bytes:
    """Return the bytes of base64, with or without `data:…;base64,` before it, and with or without line breaks.

    Raises:
        InvalidInput: it is none.
    """
    try:
        data = text.encode() if isinstance(text, str) else text
        return base64.b64decode(b"".join(data.rpartition(b",")[2].split()), validate=True)
    except ValueError as error:
        raise InvalidInput(f"This is no base64 ({error}).", "Encode the photo's file.") from error


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
