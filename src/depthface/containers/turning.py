"""How a photo is turned, by the metadata that may say so."""

from __future__ import annotations

import re

from depthface.tiff import Directory

__all__ = ["turned"]


def _in_exif(exif: bytes) -> int | None:
    """Return the Orientation in an EXIF block (EXIF 2.32, 4.6.4 A), a TIFF file; None if it has none that counts."""
    exif = re.sub(rb"^(Exif\x00\x00){1,2}", b"", exif)
    directory = Directory.first(exif)
    return None if directory is None or directory.is_big else directory.orientation()


def _in_xmp(xmp: bytes | memoryview) -> int | None:
    """Return the `tiff:Orientation` of an XMP packet; None if it has none. As Pillow finds it (Image.getexif)."""
    found = re.search(rb'tiff:Orientation(?:="|>)([0-9])', xmp)
    return int(found[1]) if found else None


def turned(exif: bytes | None, xmp: bytes | memoryview | None) -> int:
    """How a photo with this EXIF block and this XMP packet is turned, 1 to 8 (EXIF); EXIF goes first."""
    orientation = _in_exif(exif) if exif else None
    if orientation is None and xmp is not None:
        orientation = _in_xmp(xmp)
    return orientation or 1
