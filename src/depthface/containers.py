"""The part of a photo's file that makes its pixels, and how the photo is turned; all other metadata stays out.

Decoders read metadata that nobody here asks for, and some give a sound photo up for it: a long text, a broken profile,
a wrong checksum. So they get a file without it. Nothing is decompressed for this, save the two texts of a PNG that may
say how the photo is turned, up to `_TEXT_BYTES`. What a function here cannot follow stays as it is, for the decoder to
judge.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from depthface.errors import InvalidImage
from depthface.tiff import Directory

__all__ = ["Lean", "canvas_of_webp", "lean", "plain_jpeg", "turned"]

_MOST_PARTS = 1_000_000
"""Of a file: 64 MiB of the smallest parts that encoders write have fewer."""

_TEXT_BYTES = 2**20
"""How much of a text is looked at."""

_PLAIN_HEAD_BYTES, _PLAIN_SEGMENTS = 2**16, 64
"""Of a plain JPEG, before its pixels, at the most."""


@dataclass(frozen=True)
class Lean:
    """A photo's file without what its pixels do not need.

    Attributes:
        data: the file for the decoder.
        orientation: by EXIF or XMP, 1 to 8: what is still to be done to the decoded pixels.
        kind: what is special about it, for people: "64-bit floating-point samples"; empty if nothing is known.
        is_preview: its first picture is by its own word a smaller copy of another one in the file.
    """

    data: bytes
    orientation: int = 1
    kind: str = ""
    is_preview: bool = False


def lean(data: bytes, format: str) -> Lean:
    """Return the lean file of a photo of a format of `formats.FORMATS`."""
    make = _BY_FORMAT.get(format)
    return make(data) if make else Lean(data)


def _in_exif(exif: bytes) -> int | None:
    """Return the Orientation in an EXIF block (EXIF 2.32, 4.6.4 A), a TIFF file; None if it has none that counts."""
    exif = re.sub(rb"^(Exif\x00\x00){1,2}", b"", exif)
    directory = Directory.first(exif)
    return None if directory is None else directory.orientation()


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


class _Parts:
    """The parts of a file that are kept, as few slices as can be, and a count of all that went by."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._view = memoryview(data)
        self._kept: list[memoryview | bytes] = []
        self._start = self._stop = 0
        self._count = 0

    def keep(self, start: int, stop: int) -> None:
        if start != self._stop:
            self._flush()
            self._start = start
        self._stop = stop

    def put(self, piece: bytes) -> None:
        self._flush()
        self._kept.append(piece)

    def count(self, parts: int = 1) -> None:
        self._count += parts
        if self._count > _MOST_PARTS:
            raise InvalidImage(
                f"The file is in more than {_MOST_PARTS:,} pieces, which no photo is.", "Save the photo again as PNG."
            )

    def joined(self) -> bytes:
        self._flush()
        if len(self._kept) == 1 and isinstance(self._kept[0], memoryview) and len(self._kept[0]) == len(self._data):
            return self._data  # nothing was left out, and a copy of a large photo takes its time
        return b"".join(self._kept)

    def _flush(self) -> None:
        if self._stop > self._start:
            self._kept.append(self._view[self._start : self._stop])
        self._start = self._stop = 0


def _replaced(data: bytes, start: int, stop: int, piece: bytes) -> bytes:
    view = memoryview(data)
    return b"".join([view[:start], piece, view[stop:]])


# PNG (ISO/IEC 15948:2004, 5.3): length, name, data, CRC. A small first letter marks a chunk that may be left out.

_CHUNK = struct.Struct(">I4s")
_XMP_TEXT, _EXIF_TEXT = b"XML:com.adobe.xmp", b"Raw profile type exif"


def _lean_png(data: bytes) -> Lean:
    parts, at = _Parts(data), 8
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


# JPEG (ITU-T T.81, B.1): a marker, a length that counts itself, data; until the first scan.

_JPEG_NEXT = re.compile(rb"\xff([^\x00\xff])")
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
        found = _JPEG_NEXT.match(data, at)
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


def _lean_jpeg(data: bytes) -> Lean:
    parts, at = _Parts(data), 2
    parts.keep(0, at)
    exif: list[bytes] = []
    xmp: memoryview | None = None
    kind = ""
    while found := _JPEG_NEXT.search(data, at):
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


# WebP (RFC 9649): a RIFF file; chunks of a name, a length, data, filled up to even.

_WEBP_CHUNK = struct.Struct("<4sI")
_WEBP_PIXELS = frozenset({b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF"})


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


def _lean_webp(data: bytes) -> Lean:
    parts, at = _Parts(data), 12
    exif = xmp = None
    while at + 8 <= len(data):
        name, length = _WEBP_CHUNK.unpack_from(data, at)
        stop = at + 8 + length + length % 2
        parts.count()
        if name == b"VP8X" and length >= 10:
            parts.put(data[at : at + 8] + bytes([data[at + 8] & ~0x2C]) + data[at + 9 : stop])  # no ICC, EXIF, XMP
        elif name in _WEBP_PIXELS:
            parts.keep(at, min(stop, len(data)))
        elif name == b"EXIF" and stop <= len(data) + 1:
            exif = exif or data[at + 8 : at + 8 + length]
        elif name == b"XMP " and stop <= len(data) + 1:
            xmp = xmp or data[at + 8 : at + 8 + length]
        at = stop
    body = parts.joined()
    return Lean(b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body, turned(exif, xmp))


# GIF (89a, 1990): of what stands before the first picture, the extensions but the one that says what is transparent.


def _lean_gif(data: bytes) -> Lean:
    if len(data) < 13:
        return Lean(data)
    parts, at = _Parts(data), 13 + _colours(data[10])
    parts.keep(0, at)
    while data[at : at + 1] == b"!":
        start, at = at, at + 2
        while at < len(data) and data[at]:
            parts.count()
            at += 1 + data[at]
        at += 1
        if data[start + 1 : start + 2] == b"\xf9":
            parts.keep(start, min(at, len(data)))
    parts.keep(at, len(data))
    return Lean(parts.joined())


def _colours(flags: int) -> int:
    """Return the bytes of a GIF's table of colours."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


# TIFF (6.0, 1992; and its form of 64 bits): the tags of the first picture that libtiff decodes by, and no others.

_TIFF_PIXELS = frozenset(
    {256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325, 332, 334, 338, 339}
    | {347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532, 32997, 32998, 50674}
)
_XMP_TAG, _SUBFILE, _SUB_IFDS = 700, 254, 330
_MOST_VALUES = 2**18
"""Of one tag: a strip for each row of each of four samples, of the highest photo. Pillow takes 150 bytes for each."""


def _lean_tiff(data: bytes) -> Lean:
    directory = Directory.first(data)
    if directory is None:
        raise InvalidImage("This TIFF is damaged: it has no directory of tags.", "Send the whole file.")
    entries = list(directory.entries())
    last = {tag: at for tag, at in entries if tag in _TIFF_PIXELS}  # as Pillow has it of a tag that comes twice
    for at in last.values():
        if directory.count_at(at) > _MOST_VALUES:
            raise InvalidImage(
                f"The TIFF has a tag of more than {_MOST_VALUES:,} values, which no photo has.",
                "Save the photo again as PNG.",
            )
    kept = [data[at : at + directory.entry_bytes] for tag, at in entries if last.get(tag) == at]
    xmp = next((directory.value(at) for tag, at in entries if tag == _XMP_TAG), None)
    count = struct.pack(directory.order + ("Q" if directory.is_big else "H"), len(kept))
    body = count + b"".join(kept)
    # Zeros where the next directory's place was: there is none. And where entries were: so all else stays in place.
    start, stop = directory.start - len(count), directory.stop + (8 if directory.is_big else 4)
    lean_data = _replaced(data, start, stop, body.ljust(stop - start, b"\0"))
    orientation = directory.orientation()
    if orientation is None:
        orientation = turned(None, xmp)
    is_smaller = bool((directory.numbers(_SUBFILE) or (0,))[0] & 1)
    is_preview = is_smaller and any(tag == _SUB_IFDS for tag, _ in entries)
    return Lean(lean_data, orientation, directory.kind(), is_preview)


# AVIF and HEIC (ISO/IEC 23008-12): how they are turned is said by properties of the picture, which the decoders obey;
# EXIF and XMP do not count (6.5.10). An item of them becomes one of a type that nobody knows.

_ITEM = re.compile(rb"(infe(?:\x02.{7}|\x03.{9}))(?:Exif|mime)", re.DOTALL)


def _lean_heif(data: bytes) -> Lean:
    at = 0
    while at + 8 <= len(data):
        length, name = _CHUNK.unpack_from(data, at)
        length = length if length >= 8 else len(data) - at
        if name == b"meta":
            meta = _ITEM.sub(rb"\1skip", data[at : at + length])
            return Lean(_replaced(data, at, at + length, meta))
        at += length
    return Lean(data)


_BY_FORMAT: dict[str, Callable[[bytes], Lean]] = {
    "JPEG": _lean_jpeg,
    "PNG": _lean_png,
    "WebP": _lean_webp,
    "TIFF": _lean_tiff,
    "GIF": _lean_gif,
    "AVIF": _lean_heif,
    "HEIC": _lean_heif,
}
