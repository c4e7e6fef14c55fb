"""GIF (89a, 1990)."""

from __future__ import annotations

from depthface.containers.parts import Lean, Parts

__all__ = ["lean"]

_DISPOSAL = 0b11100
"""Of the flags of a graphic control extension."""


def lean(data: bytes) -> Lean:
    """Return all but the extensions before the first picture; of those, the one that says what is transparent."""
    if len(data) < 13:
        return Lean(data)
    parts, at = Parts(data), 13 + _colours(data[10])
    parts.keep(0, at)
    while data[at : at + 1] == b"!":
        parts.count()
        start, at = at, at + 2
        while at < len(data) and data[at]:
            parts.count()
            at += 1 + data[at]
        at += 1
        if data[start + 1 : start + 2] == b"\xf9":
            parts.put(_without_disposal(data[start:at]))
    parts.keep(at, len(data))
    return Lean(parts.joined())


def _without_disposal(extension: bytes) -> bytes:
    """Return a graphic control extension that says not what the second picture finds in the place of the first.

    For that Pillow sets the first picture's memory aside as it opens the file, when no limit has been looked at yet.
    """
    return extension[:3] + bytes(flags & ~_DISPOSAL for flags in extension[3:4]) + extension[4:]


def _colours(flags: int) -> int:
    """Return the bytes of a GIF's table of colours."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0
