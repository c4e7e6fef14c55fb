"""What is made of every kind of container: a lean file, of the parts that are kept."""

from __future__ import annotations

from dataclasses import dataclass

from depthface.errors import InvalidImage

__all__ = ["Lean", "Parts"]

_MOST_PARTS = 1_000_000
"""Of a file: 64 MiB of the smallest parts that encoders write have fewer."""


@dataclass(frozen=True)
class Lean:
    """A photo's file without what its pixels do not need.

    Attributes:
        data: the file for the decoder.
        orientation: by EXIF or XMP, 1 to 8: what is still to be done to the decoded pixels.
        kind: what is special about it, for people: "64-bit floating-point samples"; empty if nothing is known.
        is_preview: its first picture is by its own word a smaller copy of another one in the file.
        tile: width and height of the tiles of its pixels, by its own word; zeros where it has none.
    """

    data: bytes
    orientation: int = 1
    kind: str = ""
    is_preview: bool = False
    tile: tuple[int, int] = (0, 0)


class Parts:
    """The parts of a file that are kept, as few slices as can be, and a count of all that went by."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._view = memoryview(data)
        self._kept: list[memoryview | bytes] = []
        self._start = self._stop = 0
        self._count = 0

    def keep(self, start: int, stop: int) -> None:
        """Keep what lies from `start` to `stop`."""
        if start != self._stop:
            self._flush()
            self._start = start
        self._stop = stop

    def put(self, piece: bytes) -> None:
        """Put a piece behind what is kept so far."""
        self._flush()
        self._kept.append(piece)

    def count(self) -> None:
        """Count a part; raise `InvalidImage` if there are more than any photo has."""
        self._count += 1
        if self._count > _MOST_PARTS:
            raise InvalidImage(
                f"The file is in more than {_MOST_PARTS:,} pieces, which no photo is.", "Save the photo again as PNG."
            )

    def joined(self) -> bytes:
        """Return what is kept, as one."""
        self._flush()
        if len(self._kept) == 1 and isinstance(self._kept[0], memoryview) and len(self._kept[0]) == len(self._data):
            return self._data  # nothing was left out, and a copy of a large photo takes its time
        return b"".join(self._kept)

    def _flush(self) -> None:
        if self._stop > self._start:
            self._kept.append(self._view[self._start : self._stop])
        self._start = self._stop = 0
