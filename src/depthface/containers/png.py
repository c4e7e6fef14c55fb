"""PNG (ISO/IEC 15948:2004, 5.3): length, name, data, CRC. A small first letter marks a chunk that may be left out."""

from __future__ import annotations

import struct
import zlib

from depthface.containers.parts import Lean, Parts
from depthface.containers.turning import turned

__all__ = ["lean"]

_TEXT_BYTES = 2**20
"""How much of a text is looked at."""

_CHUNK = struct.Struct(">I4s")
_XMP_TEXT, _EXIF_TEXT = b"XML:com.adobe.xmp", b"Raw profile type exif"


def lean(data: bytes) -> Lean:
    """Return the chunks that no decoder may leave out."""
    parts, at = Parts(data), 8
    parts.keep(0, at)
    exif: bytes | None = None
    texts: dict[bytes, tuple[bytes, bytes]] = {}
    while at + 8 <= len(data):
        length, name = _CHUNK.unpack_from(data, at)
        stop = at + 12 + length
        parts.count()
        if not name.isalpha():
            parts.keep(at, len(data))
            break
        if name[0] & 0x20 == 0:
            parts.keep(at, min(stop, len(data)))
            if name == b"IEND":
                break
        elif name == b"eXIf":
            exif = _whole_chunk(data, at, stop) or exif
        elif name in (b"tEXt", b"zTXt", b"iTXt") and data.startswith((_XMP_TEXT, _EXIF_TEXT), at + 8):
            key, _, text = _whole_chunk(data, at, stop).partition(b"\0")
            texts[key] = name, text
        at = stop
    if exif is None and _EXIF_TEXT in texts:
        exif = _exif_of_hex(_png_text(*texts[_EXIF_TEXT]))
    return Lean(parts.joined(), turned(exif, _png_text(*texts[_XMP_TEXT]) if _XMP_TEXT in texts else None))


def _whole_chunk(data: bytes, at: int, stop: int) -> bytes:
    """Return a chunk's data; none if they are not whole, by their length and their CRC."""
    if stop > len(data) or zlib.crc32(data[at + 4 : stop - 4]) != int.from_bytes(data[stop - 4 : stop], "big"):
        return b""
    return data[at + 8 : stop - 4]


def _png_text(name: bytes, text: bytes) -> bytes:
    """Return the text of a chunk of this name. It may come often: unpack the last alone."""
    is_compressed = name == b"zTXt"
    if name == b"iTXt":  # compressed or not, the method, the language, the key in that language
        is_compressed = text[:1] != b"\0"
        text = text[1:2] + text[2:].split(b"\0", 2)[-1]
    elif name == b"tEXt":
        return text[:_TEXT_BYTES]
    if not is_compressed:
        return text[1:_TEXT_BYTES]
    try:
        return zlib.decompressobj().decompress(text[1:], _TEXT_BYTES)
    except zlib.error:
        return b""


def _exif_of_hex(text: bytes) -> bytes | None:
    """Return the EXIF block in ImageMagick's text: three lines of head, then hexadecimal digits."""
    try:
        return bytes.fromhex("".join(text.decode("latin-1").split("\n")[3:]))
    except ValueError:
        return None
