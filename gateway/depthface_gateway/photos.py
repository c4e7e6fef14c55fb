"""What a gateway itself looks at in a photo: its size, from its header."""

from __future__ import annotations

import asyncio
import warnings
from io import BytesIO

from PIL import ExifTags, Image

from depthface.errors import InvalidImage

__all__ = ["upright_size"]

_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height


async def upright_size(data: bytes) -> tuple[int, int]:
    """Return width and height in pixels of an encoded photo, turned as its EXIF orientation says.

    Ask the server first: it refuses what is too large or no photo, with the better reason.

    Raises:
        InvalidImage: it is none that can be read.
    """
    return await asyncio.to_thread(_upright_size, data)  # Pillow inflates a whole PNG to look for its EXIF


def _upright_size(data: bytes) -> tuple[int, int]:
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(BytesIO(data)) as picture:
            width, height = picture.size
            is_sideways = picture.getexif().get(ExifTags.Base.Orientation) in _SIDEWAYS
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InvalidImage("The size of the photo cannot be read.", "Save it as JPEG or PNG.") from error
    return (height, width) if is_sideways else (width, height)
