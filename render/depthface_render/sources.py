"""What a clip is made of: the photo, its depth from a file or from a server, and what is said of that depth."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from zipfile import BadZipFile

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from depthface import image
from depthface.errors import InvalidInput
from depthface.photos import encoded
from depthface.weights import origin_of
from depthface_client import Client, draw
from depthface_render.frames import AnyDepth, covering_size

__all__ = ["Map", "asked", "banner", "from_file", "photo_at_least"]

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Map:
    """A depth map and which weights made it; empty where nobody says."""

    array: AnyDepth
    weights: str


def photo_at_least(data: bytes, size: tuple[int, int]) -> Pixels:
    """Return the photo, upright, no finer than frames of `size` (height, width) need: more would only fill memory."""
    pixels = image.decode(data, at_least=size)
    height, width = covering_size(pixels.shape, size)
    if pixels.shape[0] <= height:
        return pixels
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def asked(photo: bytes, url: str, timeout_s: float) -> Map:
    """Ask a server for the depth of a photo; raises the client's errors."""
    with Client(url, timeout_s=timeout_s) as client:
        depth = client.depth(photo)
    return Map(depth.array, depth.weights)


def from_file(path: Path) -> Map:
    """Read a depth map as `depthface depth` writes it: a grey PNG of 16 or 8 bits, or a .npy array.

    Raises:
        InvalidInput: it cannot be read, or is neither.
    """
    file = BytesIO(encoded(path))  # read once: it may be a pipe
    if path.suffix.lower() == ".npy":
        try:
            array = np.load(file, allow_pickle=False)
            if not isinstance(array, np.ndarray):  # numpy looks into the file: an archive of several is an .npz
                raise ValueError("it is an archive")
        except (ValueError, EOFError, OSError, BadZipFile) as error:
            raise InvalidInput(
                f"{path} is not a numpy array.", "Give the .npy of `depthface depth --as npy`."
            ) from error
        return Map(array, "")
    try:
        with Image.open(file, formats=("PNG",)) as picture:
            picture.load()
            if picture.mode not in ("L", "I", "I;16"):
                raise InvalidInput(
                    f"{path} has colours and is not a depth map.", "Give the grey PNG of `depthface depth`, or a .npy."
                )
            source = str(picture.info.get("Source", ""))
            return Map(np.asarray(picture), origin_of(source))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InvalidInput(
            f"{path} is not a depth map that can be read.", "Give the grey PNG of `depthface depth`, or a .npy."
        ) from error


def banner(height: int, width: int, text: str) -> Pixels:
    """Return what is laid over the foot of frames of this size to say `text`: `(h, width, 3) uint8`."""
    black = Image.new("RGB", (width, height))
    labelled = np.asarray(draw.banner(black, text))
    return labelled[labelled.any(axis=(1, 2)).argmax() :].copy()
