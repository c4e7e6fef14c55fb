"""What the first directory of a TIFF file says (6.0, 1992; and its form of 64 bits). An EXIF block is such a file.

Pillow reads a directory whole, and what its tags point to: of a small file that is made for it, gigabytes. Here one
tag is read where it is asked for.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Directory"]

_ORIENTATION, _BITS, _COMPRESSION, _SAMPLES = 0x0112, 258, 259, 339
_USUAL_COMPRESSIONS = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946})
_SAMPLE_KINDS = {1: "integer", 2: "signed integer", 3: "floating-point", 5: "complex", 6: "complex"}

_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_FEW = 4
"""Numbers of a tag are read: it may have millions."""
_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 16: "Q", 17: "q"}
_NUMBERS = {3: "H", 4: "I", 5: "II", 6: "b", 8: "h", 9: "i", 10: "ii", 11: "f", 12: "d", 13: "I", 16: "Q"}
"""Types of which Pillow makes numbers, fractions of two; it makes none of text and bytes, nor then do we."""


@dataclass(frozen=True)
class Directory:
    """Entries of a tag, a type, a count, and the value or where it lies."""

    data: bytes
    order: str
    is_big: bool
    start: int
    count: int

    @classmethod
    def first(cls, data: bytes) -> Directory | None:
        """Return the first directory of a TIFF file; None if the data are none."""
        order = {b"II": "<", b"MM": ">"}.get(data[:2])
        if order is None or len(data) < 8:
            return None
        (version,) = struct.unpack_from(order + "H", data, 2)
        is_big = version == 43
        if version not in (42, 43) or (is_big and len(data) < 16):
            return None
        (start,) = struct.unpack_from(order + "Q", data, 8) if is_big else struct.unpack_from(order + "I", data, 4)
        head = struct.Struct(order + ("Q" if is_big else "H"))
        if start + head.size > len(data):
            return None
        directory = cls(data, order, is_big, start + head.size, head.unpack_from(data, start)[0])
        return directory if directory.count <= 0xFFFF else None

    @property
    def entry_bytes(self) -> int:
        """The size of an entry."""
        return 20 if self.is_big else 12

    @property
    def stop(self) -> int:
        """Where the entries end, and where the next directory lies is written."""
        return self.start + self.count * self.entry_bytes

    def entries(self) -> Iterator[tuple[int, int]]:
        """Yield the tag of each entry that is there, and where it begins."""
        for at in range(self.start, min(self.stop, len(self.data) - self.entry_bytes + 1), self.entry_bytes):
            yield struct.unpack_from(self.order + "H", self.data, at)[0], at

    def count_at(self, at: int) -> int:
        """Return how many values an entry has by its own word."""
        count: int = struct.unpack_from(self.order + ("Q" if self.is_big else "I"), self.data, at + 4)[0]
        return count

    def value(self, at: int, most: int | None = None) -> bytes:
        """Return the bytes of an entry's value, the first `most` of them; none where they are not all in the file."""
        size = _TYPE_BYTES.get(self._type_at(at), 0) * self.count_at(at)
        place = at + self.entry_bytes - (8 if self.is_big else 4)
        if size > (8 if self.is_big else 4):
            (place,) = struct.unpack_from(self.order + ("Q" if self.is_big else "I"), self.data, place)
        stop = place + (size if most is None else min(size, most))
        return self.data[place:stop] if place + size <= len(self.data) else b""

    def entry_of(self, tag: int) -> int | None:
        """Return where the first entry of a tag begins that can be read, which libtiff and Pillow 13 take."""
        return next((at for each, at in self.entries() if each == tag and self.value(at, 1)), None)

    def numbers(self, tag: int) -> tuple[int, ...]:
        """Return the first few whole numbers of a tag."""
        at = self.entry_of(tag)
        letter = "" if at is None else _INTEGERS.get(self._type_at(at), "")
        if at is None or not letter:
            return ()
        width = struct.calcsize(letter)
        value = self.value(at, _FEW * width)
        return struct.unpack_from(f"{self.order}{len(value) // width}{letter}", value)

    def orientation(self) -> int | None:
        """Return what the tag Orientation says, 1 to 8, and 1 where that is no such number; None if there is none."""
        at = self.entry_of(_ORIENTATION)
        if at is None:
            return None
        letters = self.order + _NUMBERS.get(self._type_at(at), "")
        above, below = (*struct.unpack(letters, self.value(at, struct.calcsize(letters))), 1, 1)[:2]
        return next((turn for turn in range(1, 9) if above == turn * below), 1)

    def _type_at(self, at: int) -> int:
        kind: int = struct.unpack_from(self.order + "H", self.data, at + 2)[0]
        return kind

    def kind(self) -> str:
        """Return what is unusual about the samples or their compression, for people; empty if nothing is."""
        bits, samples, compression = ((self.numbers(tag) or (1,))[0] for tag in (_BITS, _SAMPLES, _COMPRESSION))
        if samples != 1 or bits not in (1, 2, 4, 8, 16):
            return f"{bits}-bit {_SAMPLE_KINDS.get(samples, 'other')} samples"
        return "" if compression in _USUAL_COMPRESSIONS else f"compression {compression}"
