"""AVIF and HEIC (ISO/IEC 23008-12).

How they are turned is said by properties of the picture, which the decoders obey; EXIF and XMP do not count (6.5.10).
"""

from __future__ import annotations

import re
import struct

from depthface.containers.parts import Lean, Parts

__all__ = ["lean"]

_BOX = struct.Struct(">I4s")
_ITEM = re.compile(rb"infe(?:\x02.{7}|\x03.{9})(?:Exif|mime)", re.DOTALL)


def lean(data: bytes) -> Lean:
    """Return a file in which an item of EXIF or XMP is one of a type that nobody knows."""
    parts, at = Parts(data), 0
    while at + 8 <= len(data):
        parts.count()
        length, name = _BOX.unpack_from(data, at)
        length = length if length >= 8 else len(data) - at
        if name == b"meta":
            made = bytearray(data)
            for item in _ITEM.finditer(data, at, at + length):
                parts.count()
                made[item.end() - 4 : item.end()] = b"skip"
            return Lean(bytes(made))
        at += length
    return Lean(data)
