"""JPEG (ITU-T T.81, B.1): a marker, a length that counts itself, data; until the first scan."""

from __future__ import annotations

import re

from depthface.containers.parts import Lean, Parts
from depthface.containers.turning import turned

__all__ = ["lean", "plain_jpeg"]

_PLAIN_HEAD_BYTES, _PLAIN_SEGMENTS = 2**16, 64
"""Of a plain JPEG, before its pixels, at the most."""

_NEXT = re.compile(rb"\xff([^\x00\xff])")
_ALONE = frozenset([0x01, *range(0xD0, 0xD9)])
"""TEM, RST and SOI have no data."""
_END, _SCAN = 0xD9, 0xDA
_FRAMES = frozenset([0xC0, 0xC1, 0xC2])
"""Baseline, extended and progressive, of Huffman codes: what nearly all are."""
_PLAIN = frozenset([*_FRAMES, 0xC4, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE])
"""And what comes with them: tables, the applications' segments, comments."""

_EXIF_HEAD, _XMP_HEAD = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"


def plain_jpeg(data: bytes) -> tuple[int, int, int] | None:
    """Return height, width and orientation of a JPEG with a short and usual head, in 0.1 ms at worst; None for others.

    The height and width are of the encoded pixels, and not 0. Whether the rest of the file is sound is not looked at.
    """
    if not data.startswith(b"\xff\xd8"):
        return None
    at, size = 2, (0, 0)
    exif, xmp = b"", None
    for _ in range(_PLAIN_SEGMENTS):
        found = _NEXT.match(data, at)
        if found is None or at > _PLAIN_HEAD_BYTES:
            break
        marker, body = found[1][0], found.end()
        if marker == _SCAN:
            return None if 0 in size else (*size, turned(exif, xmp))
        if marker not in _PLAIN:
            break
        at = body + int.from_bytes(data[body : body + 2], "big")
        if marker in _FRAMES:
            if data[body + 2 : body + 3] != b"\x08":
                return None
            size = int.from_bytes(data[body + 3 : body + 5], "big"), int.from_bytes(data[body + 5 : body + 7], "big")
        elif marker == 0xE1 and data.startswith(_EXIF_HEAD, body + 2):
            exif += data[body + 8 : at]
        elif marker == 0xE1 and data.startswith(_XMP_HEAD, body + 2):
            xmp = data[body + 2 + len(_XMP_HEAD) : at]
    return None


def lean(data: bytes) -> Lean:
    """Return the segments that make pixels."""
    parts, at = Parts(data), 2
    parts.keep(0, at)
    exif: list[bytes] = []
    xmp: memoryview | None = None
    kind = ""
    while found := _NEXT.search(data, at):
        marker, start, body = found[1][0], found.end() - 2, found.end()
        parts.count()
        if marker in _ALONE:
            at = body
            continue
        length = int.from_bytes(data[body : body + 2], "big")
        stop = body + length
        if marker in (_END, _SCAN) or length < 2 or stop > len(data):
            parts.keep(start, len(data))
            break
        if marker == 0xE1 and data.startswith(_EXIF_HEAD, body + 2):
            exif.append(data[body + 8 : stop])
        elif marker == 0xE1 and data.startswith(_XMP_HEAD, body + 2):
            xmp = memoryview(data)[body + 2 + len(_XMP_HEAD) : stop]
        elif _makes_pixels(data, marker, body, length):
            parts.keep(start, stop)
        if marker in (0xC3, 0xF7):
            kind = "lossless"
        elif 0xC0 <= marker <= 0xC2 and length > 2 and data[body + 2] != 8:
            kind = f"{data[body + 2]} bits a sample"
        at = stop
    return Lean(parts.joined(), turned(b"".join(exif), xmp), kind)


def _makes_pixels(data: bytes, marker: int, body: int, length: int) -> bool:
    """Whether a segment is needed: all but comments and applications', save the two that tell of colours."""
    if marker == 0xE0:
        return length >= 16 and data.startswith(b"JFIF\0", body + 2)
    if marker == 0xEE:
        return length >= 14 and data.startswith(b"Adobe", body + 2)
    return marker != 0xFE and not 0xE0 <= marker <= 0xEF
