"""Photos on their way to a server, and to the eye: what a path, bytes, a picture and an array mean.

A photo means the same in each form (see `depthface.picture`), so what is drawn on is what the server saw.
"""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from depthface import picture
from depthface.errors import InvalidImage

__all__ = ["Photo", "encoded", "probe_picture", "read_whole", "shown", "upright"]

Photo = (
    str
    | os.PathLike[str]
    | bytes
    | bytearray
    | memoryview
    | Image.Image
    | npt.NDArray[np.uint8]
    | npt.NDArray[np.uint16]
    | npt.NDArray[np.bool_]
)
"""A path, the bytes of an encoded photo, a PIL picture, or an array: `(H, W, 3)` RGB or `(H, W)` grey.

Arrays are uint8, or uint16 (white is 65535), or bool (white is True); they are upright. A picture is turned as its
EXIF says; of one with several frames it is the frame that it stands at. One of mode I or F does not say what is white.
"""

_MOST_BYTES = 512 * 2**20
"""Of a file: what no server takes; so a device that never ends does not fill the memory."""

_SHOWN_CHARACTERS = 120


def encoded(photo: Photo) -> bytes:
    """Return what travels: files and bytes as they are, pictures in memory and arrays as lossless PNG.

    Raises:
        InvalidImage: it is none of these, cannot be read, or has no pixels.
    """
    if isinstance(photo, bytes | bytearray | memoryview):
        return _bytes(photo)
    if isinstance(photo, str | os.PathLike):
        return _read(photo)
    buffer = BytesIO()
    try:
        _picture(photo).save(buffer, "PNG", compress_level=1)
    except (OSError, ValueError, MemoryError) as error:
        raise InvalidImage(f"The picture cannot be sent as PNG ({error}).", "Scale it down first.") from error
    return buffer.getvalue()


def upright(photo: Photo) -> Image.Image:
    """Return the photo as an RGB picture of its own, turned as it says it is: the pixels that a server counts in.

    Raises:
        InvalidImage, ImageTooLarge: as `encoded`, and what a server would refuse.
    """
    if isinstance(photo, bytes | bytearray | memoryview | str | os.PathLike):
        with picture.opened(encoded(photo)) as opened:
            made = opened.decoded()
            return made.copy() if made.readonly else made
    return _picture(photo)


def probe_picture() -> npt.NDArray[np.uint8]:
    """Return a small picture, `(48, 64) uint8` grey, for asking whether a server truly answers."""
    return np.add.outer(np.arange(48), np.arange(64)).astype(np.uint8)


def _picture(photo: Any) -> Image.Image:
    """Return a picture or an array, as an upright RGB picture."""
    if isinstance(photo, np.ndarray):
        return _of_array(photo)
    if isinstance(photo, Image.Image):
        return picture.upright(photo)
    raise InvalidImage(
        f"{type(photo).__name__} is not a photo.", "Give a path, the bytes of a file, a PIL picture or a numpy array."
    )


def _of_array(array: npt.NDArray[Any]) -> Image.Image:
    levels = array.astype(np.uint8) * 255 if array.dtype == np.bool_ else array
    if levels.dtype.kind == "u" and levels.dtype.itemsize == 2:
        levels = picture.eight_bits(levels)
    if levels.dtype != np.uint8 or not (levels.ndim == 2 or (levels.ndim == 3 and levels.shape[2] == 3)):
        raise InvalidImage(
            f"An array of {array.dtype} and shape {array.shape} is not a photo.",
            "Give (H, W, 3) RGB or (H, W) grey, of uint8, uint16 or bool.",
        )
    if not levels.size:
        raise InvalidImage(f"An array of shape {array.shape} has no pixels.", "Give another one.")
    return Image.fromarray(np.ascontiguousarray(levels)).convert("RGB")


def _bytes(data: bytes | bytearray | memoryview) -> bytes:
    try:
        return bytes(data)
    except ValueError as error:  # a memoryview after its release
        raise InvalidImage(
            f"The bytes of the photo cannot be read ({error}).", "Pass the bytes before their buffer is released."
        ) from error


def read_whole(file: BinaryIO, name: str) -> bytes:
    """Return what an open file holds; raise `InvalidImage` if it cannot be read, or is no photo by its length."""
    try:
        data = _whole(file)
    except OSError as error:
        raise _unreadable(name, error) from error
    if len(data) > _MOST_BYTES:
        raise InvalidImage(
            f"{name} has more than {_MOST_BYTES / 2**20:.0f} MiB, which is no photo.", "Give another file."
        )
    if not data:
        raise InvalidImage(f"{name} is empty: it has no bytes.", "Give another file.")
    return data


def _read(path: str | os.PathLike[str]) -> bytes:
    name = shown(path)
    try:
        with Path(os.fsdecode(path)).open("rb") as file:
            return read_whole(file, name)
    except OSError as error:
        raise _unreadable(name, error) from error
    except (ValueError, TypeError) as error:  # a NUL in it, or no path after all
        raise InvalidImage(f"{name} is not a path of a file ({error}).", "Give another one.") from error


def _whole(file: BinaryIO) -> bytes:
    """Return the file, but of one over `_MOST_BYTES` only so much that it is known."""
    data = BytesIO()
    while (chunk := file.read(2**22)) and data.tell() <= _MOST_BYTES:
        data.write(chunk)
    return data.getvalue()


def _unreadable(name: str, error: OSError) -> InvalidImage:
    if isinstance(error, FileNotFoundError):
        remedy = "Give the path of a file that exists."
    elif isinstance(error, PermissionError):
        remedy = "Give yourself the right to read it."
    else:
        remedy = "Give the path of a photo."
    return InvalidImage(f"{name} cannot be read ({error.strerror}).", remedy)


def shown(path: str | os.PathLike[str]) -> str:
    """Return a path as it can be said in one line, in any encoding that has its characters."""
    try:
        name = os.fsdecode(path)
    except TypeError:
        return type(path).__name__
    name = name if len(name) <= _SHOWN_CHARACTERS else f"{name[:_SHOWN_CHARACTERS]}…"
    return name if name.isprintable() and name else ascii(name)
