"""The part of a photo's file that makes its pixels, and how the photo is turned; all other metadata stays out.

Decoders read metadata that nobody here asks for, and some give a sound photo up for it: a long text, a broken profile,
a wrong checksum. So they get a file without it. Nothing is decompressed for this, save the two texts of a PNG that may
say how the photo is turned, and of those no more than a start. What a module here cannot follow stays as it is, for the
decoder to judge.
"""

from __future__ import annotations

from collections.abc import Callable

from depthface.containers import bmp, gif, heif, jpeg, png, tiff, webp
from depthface.containers.jpeg import plain_jpeg
from depthface.containers.parts import Lean
from depthface.containers.turning import turned
from depthface.containers.webp import canvas_of_webp

__all__ = ["Lean", "canvas_of_webp", "lean", "plain_jpeg", "turned"]

_BY_FORMAT: dict[str, Callable[[bytes], Lean]] = {
    "JPEG": jpeg.lean,
    "PNG": png.lean,
    "WebP": webp.lean,
    "BMP": bmp.lean,
    "TIFF": tiff.lean,
    "GIF": gif.lean,
    "AVIF": heif.lean,
    "HEIC": heif.lean,
}


def lean(data: bytes, format: str) -> Lean:
    """Return the lean file of a photo of a format of `formats.FORMATS`."""
    return _BY_FORMAT[format](data)
