"""Photographs to measure with, as JPEG: real ones at every size for depth, drawn people for faces."""

from __future__ import annotations

import os
from importlib.resources import files
from io import BytesIO
from pathlib import Path

from PIL import Image

from depthface_standins.insightface import scenes

__all__ = ["CROWD", "FACES_A_PHOTO", "FACE_PHOTOS", "MIXED", "crowd", "jpeg", "mixed", "opened", "photograph", "sized"]

MIXED = ((640, 480), (1280, 960), (1920, 1280), (2880, 2160), (4000, 3000))
"""Width and height of what a server gets from its users: thumbnails to cameras. An odd number of them: then a window's
median is one photo's latency, while of an even number it falls now on this, now on that of two that lie apart."""

CROWD, FACES_A_PHOTO, FACE_PHOTOS = (886, 1280), 6, 3
"""Height and width of a photo of people, how many are on it, and of how many photos: one before each background."""

_IN_A_WHEEL = ("motorcycle_left.png", "coffee.png", "rocket.jpg", "astronaut.png")


def photograph(index: int = 0) -> Image.Image:
    """One of the photographs in the folder that DEPTHFACE_PHOTOS names, else of scikit-image's; RGB."""
    folder = os.environ.get("DEPTHFACE_PHOTOS")
    paths = sorted(path for path in Path(folder).iterdir() if path.suffix == ".jpg") if folder else []
    if not paths:
        paths = [Path(str(files("skimage") / "data" / name)) for name in _IN_A_WHEEL]
    return Image.open(paths[index % len(paths)]).convert("RGB")


def sized(width: int, height: int, index: int = 0) -> bytes:
    """A photograph cut to the aspect and brought to the size, as JPEG."""
    photo = photograph(index)
    scale = min(photo.width / width, photo.height / height)
    cut_w, cut_h = scale * width, scale * height
    left, top = int((photo.width - cut_w) / 2), int((photo.height - cut_h) / 2)
    box = (left, top, min(left + cut_w, photo.width), min(top + cut_h, photo.height))
    return jpeg(photo.resize((width, height), Image.Resampling.BICUBIC, box=box))


def mixed() -> list[bytes]:
    """A photograph of each size of `MIXED`, no two of the same picture."""
    return [sized(width, height, index) for index, (width, height) in enumerate(MIXED)]


def crowd(count: int, seed: int = 0, size: tuple[int, int] = CROWD) -> bytes:
    """A drawn scene with so many people, `size` its height and width."""
    return jpeg(Image.fromarray(scenes.draw_crowd(count, seed, size).image))


def opened(data: bytes) -> Image.Image:
    """The picture in an encoded photo, RGB."""
    return Image.open(BytesIO(data)).convert("RGB")


def jpeg(picture: Image.Image) -> bytes:
    """A photo as a camera would save it."""
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()
