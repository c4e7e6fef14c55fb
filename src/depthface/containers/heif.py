"""AVIF and HEIC (ISO/IEC 23008-12).

How they are turned is said by properties of the picture, which the decoders obey; EXIF and XMP do not count (6.5.10).
"""

from __future__ import annotations

import re
import struct

from depthface.containers.parts import Lean, replaced

__all__ = ["lean"]

_BOX = struct.Struct(">I4s")
_ITEM = re.compile(rb"(infe(?:\x02.{7}|\x03.{9}))(?:Exif|mime)", re.DOTALL)


def lean(data: bytes) -> Lean:
    """Return a file in which an item of EXIF or XMP is one of a type that nobody knows."""
    at = 0
    while at + 8 <= len(data):
        length, name = _BOX.unpack_from(data, at)
        length = length if length >= 8 else len(data) - at
        if name == b"meta":
            meta = _ITEM.sub(rb"\1skip", data[at : at + length])
            return Lean(replaced(data, at, at + length, meta))
        at += length
    return Lean(data)
