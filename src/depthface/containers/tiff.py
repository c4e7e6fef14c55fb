"""TIFF (6.0, 1992; and its form of 64 bits)."""

from __future__ import annotations

import struct
from dataclasses import replace

from depthface.containers.parts import Lean
from depthface.containers.turning import turned
from depthface.errors import InvalidImage
from depthface.tiff import Directory

__all__ = ["lean"]

_PIXELS = frozenset(
    {256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325, 332, 334, 338, 339}
    | {347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532, 32997, 32998, 50674}
)
_XMP_TAG, _SUBFILE, _SUB_IFDS, _TILE_WIDTH, _TILE_LENGTH = 700, 254, 330, 322, 323
_MOST_VALUES = 2**18
"""Of one tag: a strip for each row of each of four samples, of the highest photo. Pillow takes 150 bytes for each."""


def lean(data: bytes) -> Lean:
    """Return the tags of the first picture that libtiff decodes by, and no others."""
    directory = Directory.first(data)
    if directory is None:
        raise InvalidImage("This TIFF is damaged: it has no directory of tags.", "Send the whole file.")
    if directory.is_big and directory.order == ">":  # Pillow takes the head for one of 32 bits, and finds another place
        raise InvalidImage(
            "This TIFF is of 64 bits, with the high byte first, which is not taken.", "Save the photo again as PNG."
        )
    entries = list(directory.entries())
    backwards = [(tag, at) for tag, at in reversed(entries) if tag in _PIXELS]
    # Of a tag that comes twice the first that can be read, as libtiff and Pillow 13 have it; Pillow 11 had the last.
    taken = dict(backwards) | {tag: at for tag, at in backwards if directory.value(at, 1)}
    for at in taken.values():
        if directory.count_at(at) > _MOST_VALUES:
            raise InvalidImage(
                f"The TIFF has a tag of more than {_MOST_VALUES:,} values, which no photo has.",
                "Save the photo again as PNG.",
            )
    kept = [data[at : at + directory.entry_bytes] for tag, at in entries if taken.get(tag) == at]
    packet = directory.entry_of(_XMP_TAG)
    xmp = None if packet is None else directory.value(packet)
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
    decoded_by = replace(directory, data=lean_data, count=len(kept))  # in which no tag comes twice
    width, height = ((decoded_by.numbers(tag) or (0,))[0] for tag in (_TILE_WIDTH, _TILE_LENGTH))
    return Lean(lean_data, orientation, directory.kind(), is_preview, (width, height))


def _replaced(data: bytes, start: int, stop: int, piece: bytes) -> bytes:
    view = memoryview(data)
    return b"".join([view[:start], piece, view[stop:]])
