"""Files to pieces that are small enough to travel, and back: only the standard library, for a bare machine.

The files lie end to end in the pieces. A piece is a folder of its own, so that it can travel alone: `piece-03/data`,
and `piece-03/pack.json`, the same in each, which has the sizes and the sha256 of all files and pieces.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

__all__ = ["MOST_PIECE_BYTES", "PackError", "join", "read", "split"]

MOST_PIECE_BYTES = 48 * 2**20
"""60 MiB may travel at once: a piece, and beside it this checkout, which grows with the results of each machine."""

_BLOCK_BYTES = 2**20
_DATA, _LIST = "data", "pack.json"


class PackError(Exception):
    """The pieces are not those of one whole pack; the text says what to do."""


def split(files: Sequence[Path], folder: Path, piece_bytes: int = MOST_PIECE_BYTES) -> dict[str, Any]:
    """Write `folder` anew, with the pieces of `files`; return what `pack.json` has."""
    aside = folder.with_name(f".{folder.name}-new")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    found: dict[str, Any] = {
        "files": [{"name": path.name, "bytes": path.stat().st_size, "sha256": _sha256(path)} for path in files],
        "pieces": [],
    }
    for number, blocks in enumerate(_cut(_blocks(files), piece_bytes)):
        piece = aside / f"piece-{number:02d}"
        piece.mkdir()
        digest, size = hashlib.sha256(), 0
        with (piece / _DATA).open("wb") as out:
            for block in blocks:
                out.write(block)
                digest.update(block)
                size += len(block)
        found["pieces"].append({"name": piece.name, "bytes": size, "sha256": digest.hexdigest()})
    for piece in sorted(aside.iterdir()):
        (piece / _LIST).write_text(json.dumps(found, indent=1) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)
    return found


def read(folder: Path) -> dict[str, Any]:
    """Return what the pieces in `folder` say of their pack.

    Raises:
        PackError: there is none, or they are of two packs.
    """
    lists = {path.read_text() for path in folder.glob(f"piece-*/{_LIST}")}
    if not lists:
        raise PackError(f"There is no piece of a pack in {folder}. Run tools/gpu/pack.py, and bring its pieces.")
    if len(lists) > 1:
        raise PackError(f"The pieces in {folder} are of different packs. Bring all of them anew.")
    found: dict[str, Any] = json.loads(lists.pop())
    return found


def join(folder: Path, target: Path) -> list[Path]:
    """Write the files whose pieces are in `folder` into `target`; return them in their order.

    Raises:
        PackError: a piece is missing or damaged. Nothing is written then.
    """
    pack = read(folder)
    wrong = [
        f"{piece['name']} is {'damaged' if path.is_file() else 'missing'}"
        for piece in pack["pieces"]
        if not (path := folder / piece["name"] / _DATA).is_file()
        or path.stat().st_size != piece["bytes"]
        or _sha256(path) != piece["sha256"]
    ]
    if wrong:
        raise PackError(f"{', '.join(wrong)}, of {len(pack['pieces'])} pieces in {folder}. Bring those anew.")
    target.mkdir(parents=True, exist_ok=True)
    blocks = _blocks([folder / piece["name"] / _DATA for piece in pack["pieces"]])
    rest, written = b"", []
    for file in pack["files"]:
        path = target / Path(file["name"]).name
        digest, left = hashlib.sha256(), file["bytes"]
        with path.open("wb") as out:
            while left:
                rest = rest or next(blocks)
                part, rest = rest[:left], rest[left:]
                out.write(part)
                digest.update(part)
                left -= len(part)
        if digest.hexdigest() != file["sha256"]:
            raise PackError(f"{path.name} is not what was packed. Run tools/gpu/pack.py anew.")
        written.append(path)
    return written


def _blocks(files: Sequence[Path]) -> Iterator[bytes]:
    for path in files:
        with path.open("rb") as source:
            while block := source.read(_BLOCK_BYTES):
                yield block


def _cut(blocks: Iterator[bytes], most_bytes: int) -> Iterator[Iterator[bytes]]:
    """Yield the blocks in groups of `most_bytes`, the last shorter; each group is to be used up before the next."""
    rest = b""

    def group() -> Iterator[bytes]:
        nonlocal rest
        left = most_bytes
        while left and (block := rest or next(blocks, b"")):
            part, rest = block[:left], block[left:]
            left -= len(part)
            yield part

    while rest := rest or next(blocks, b""):
        yield group()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
