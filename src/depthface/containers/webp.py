"""WebP (RFC 9649): a RIFF file; chunks of a name, a length, data, filled up to even."""

from __future__ import annotations

import struct

from depthface.containers.parts import Lean, Parts
from depthface.containers.turning import turned

__all__ = ["canvas_of_webp", "lean"]

_CHUNK = struct.Struct("<4sI")
_PIXELS = frozenset({b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF"})


def canvas_of_webp(data: bytes) -> tuple[int, int]:
    """Return the width and height that the first chunk of a WebP says, in pixels; zeros where it says none."""
    kind, body = data[12:16], data[20:30]
    if len(body) < 10:
        return 0, 0
    if kind == b"VP8X":  # 2.7
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if kind == b"VP8L":  # 3.4
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":  # RFC 6386, 9.1
        return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF
    return 0, 0


def lean(data: bytes) -> Lean:
    """Return the chunks that make pixels."""
    parts, at = Parts(data), 12
    exif = xmp = None
    while at + 8 <= len(data):
        name, length = _CHUNK.unpack_from(data, at)
        stop = at + 8 + length + length % 2
        parts.count()
        if name == b"VP8X" and length >= 10:
            parts.put(data[at : at + 8] + bytes([data[at + 8] & ~0x2C]) + data[at + 9 : stop])  # no ICC, EXIF, XMP
        elif name in _PIXELS:
            parts.keep(at, min(stop, len(data)))
        elif name == b"EXIF" and stop <= len(data) + 1:
            exif = exif or data[at + 8 : at + 8 + length]
        elif name == b"XMP " and stop <= len(data) + 1:
            xmp = xmp or data[at + 8 : at + 8 + length]
        at = stop
    body = parts.joined()
    return Lean(b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body, turned(exif, xmp))
