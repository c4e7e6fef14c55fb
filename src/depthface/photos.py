"""A photo, in whatever form a caller has it, to the bytes that travel, and to a picture to draw on."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from depthface.errors import InvalidImage

__all__ = ["Photo", "encoded", "probe_picture", "upright"]

Photo = str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[np.uint8]
"""A path, the bytes of an encoded photo, a PIL image, or an array `(H, W, 3) uint8 RGB` or `(H, W) uint8 grey`."""


def upright(photo: Photo) -> Image.Image:
    """The photo as an RGB picture, turned as its EXIF orientation says: what the server's pixels count."""
    if isinstance(photo, Image.Image):
        return ImageOps.exif_transpose(photo).convert("RGB")
    try:
        with Image.open(BytesIO(encoded(photo))) as picture:
            return ImageOps.exif_transpose(picture).convert("RGB")
    except (OSError, SyntaxError) as error:
        raise InvalidImage("The bytes are not a photo that can be drawn on. Save it as JPEG or PNG.") from error


def encoded(photo: Photo) -> bytes:
    if isinstance(photo, bytes | bytearray | memoryview):
        return bytes(photo)
    if isinstance(photo, str | os.PathLike):
        try:
            return Path(photo).read_bytes()
        except OSError as error:
            raise InvalidImage(f"{photo} cannot be read ({error.strerror}).") from error
    if isinstance(photo, np.ndarray):
        if photo.dtype != np.uint8 or not (photo.ndim == 2 or (photo.ndim == 3 and photo.shape[2] == 3)):
            raise InvalidImage(
                f"An array of {photo.dtype} and shape {photo.shape} is not a photo. Give (H, W, 3) uint8 RGB or "
                "(H, W) uint8 grey."
            )
        photo = Image.fromarray(photo)
    if not isinstance(photo, Image.Image):
        raise InvalidImage(f"{type(photo).__name__} is not a photo. Give a path, bytes, a PIL image or an array.")
    buffer = BytesIO()
    ImageOps.exif_transpose(photo).convert("RGB").save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def probe_picture() -> npt.NDArray[np.uint8]:
    """Return a small picture, `(48, 64) uint8` grey, for asking whether a server truly answers."""
    return np.add.outer(np.arange(48), np.arange(64)).astype(np.uint8)
