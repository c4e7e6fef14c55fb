"""How much a server takes of one photo. `depthface serve` sets it, its pipelines read it from their environment."""

from __future__ import annotations

import functools
import os
from dataclasses import asdict, dataclass, replace

__all__ = ["LARGEST_PIXELS", "MAX_FACES", "Limits", "current"]

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
        max_faces: the most faces in a photo that are analysed; 0 for as many as the detector has room for.
    """

    max_bytes: int = 64 * 2**20
    max_pixels: int = LARGEST_PIXELS
    max_faces: int = 0

    def environment(self) -> dict[str, str]:
        """Return the variables that tell them to a step."""
        return {f"{_PREFIX}{name.upper()}": str(value) for name, value in asdict(self).items()}


@functools.cache
def current() -> Limits:
    """Return the limits of this process; of pixels, whatever its environment says, no more than `LARGEST_PIXELS`."""
    told = {name: os.environ.get(f"{_PREFIX}{name.upper()}") for name in asdict(Limits())}
    found = Limits(**{name: int(value) for name, value in told.items() if value})
    return replace(found, max_pixels=min(found.max_pixels, LARGEST_PIXELS))
