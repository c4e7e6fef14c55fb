"""How much is taken of one photo. `depthface serve` sets it, its pipelines read it from their environment."""

from __future__ import annotations

import functools
import os
from dataclasses import asdict, dataclass, replace

from depthface.errors import ImageTooLarge, InvalidImage

__all__ = ["LARGEST_PIXELS", "MAX_FACES", "Limits", "current", "refuse_too_large", "refuse_too_long", "too_large"]

LARGEST_PIXELS = 89_478_485
"""Pillow's own limit (Image.MAX_IMAGE_PIXELS): a 256 MiB picture. No server takes more."""

MAX_FACES = 512
"""Faces that a detector can give for one photo: its networks are built for as many."""

_PREFIX = "DEPTHFACE_"


@dataclass(frozen=True)
class Limits:
    """The limits of one photo.

    Attributes:
        max_bytes: the largest encoded photo.
        max_pixels: the largest photo in pixels, up to `LARGEST_PIXELS`; looked at before it is decoded.
        max_faces: the most faces in a photo that are analysed, up to `MAX_FACES`.
    """

    max_bytes: int = 64 * 2**20
    max_pixels: int = LARGEST_PIXELS
    max_faces: int = MAX_FACES

    def environment(self) -> dict[str, str]:
        """Return the variables that tell them to a step."""
        return {f"{_PREFIX}{name.upper()}": str(value) for name, value in asdict(self).items()}


@functools.cache
def current() -> Limits:
    """Return the limits of this process; whatever its environment says, no more than `LARGEST_PIXELS`, `MAX_FACES`."""
    told = {name: os.environ.get(f"{_PREFIX}{name.upper()}") for name in asdict(Limits())}
    found = Limits(**{name: int(value) for name, value in told.items() if value})
    # 0 meant no limit of faces in 0.1.0.
    most_faces = min(found.max_faces or MAX_FACES, MAX_FACES)
    return replace(found, max_pixels=min(found.max_pixels, LARGEST_PIXELS), max_faces=most_faces)


def too_large(width: int, height: int, max_pixels: int) -> ImageTooLarge:
    """Return the error of a photo of more than `max_pixels`."""
    return ImageTooLarge(
        f"The photo is {width}×{height}, the limit is {max_pixels / 1e6:.4g} megapixels.", "Scale it down first."
    )


def refuse_too_large(width: int, height: int, max_pixels: int) -> None:
    """Raise `ImageTooLarge` for a photo of more than `max_pixels`."""
    if width * height > max_pixels:
        raise too_large(width, height, max_pixels)


def refuse_too_long(width: int, height: int, most: float) -> None:
    """Raise `InvalidImage` for a photo whose longer side is more than `most` times the shorter one."""
    if max(height, width) > most * min(height, width):
        raise InvalidImage(
            f"The photo is {width}×{height}, more than {most:.0f} times as long as it is wide.",
            "Cut it into shorter pieces.",
        )
