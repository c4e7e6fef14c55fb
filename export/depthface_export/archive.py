"""A downloaded archive to the files that are wanted of it, and nothing else."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path

from depthface.errors import WeightsCorrupt
from depthface.spec import HubFile

__all__ = ["MAX_FILE_BYTES", "unpack"]

MAX_FILE_BYTES = 2**30
"""The largest file that is unpacked where its size is not published: twice the largest that is."""

_BLOCK_BYTES = 1 << 20


def unpack(archive: Path, files: Iterable[HubFile], inner: str, folder: Path) -> None:
    """Take `files` out of a zip, from its top or from its folder `inner`, into `folder`.

    Only names that are wanted are looked up, so no name in the archive ever becomes a path; and no file gets longer
    than it should be, however much more the archive holds. A file that is not in it is left out.

    Raises:
        WeightsCorrupt: a file is longer than the published one.
        zipfile.BadZipFile, NotImplementedError, RuntimeError: not a zip, damaged, or encrypted.
    """
    with zipfile.ZipFile(archive) as opened:
        held = set(opened.namelist())
        for file in files:
            name = next((name for name in (file.name, f"{inner}/{file.name}") if name in held), None)
            if name is None:
                continue
            limit_bytes = file.size_bytes or MAX_FILE_BYTES
            with opened.open(name) as source, (folder / file.name).open("wb") as target:
                written = 0
                while block := source.read(_BLOCK_BYTES):
                    written += len(block)
                    if written > limit_bytes:
                        raise WeightsCorrupt(
                            f"{file.name} in {archive.name} is longer than the {limit_bytes} bytes that it may have.",
                            "Nothing was kept; fetch it anew, or give --weights a folder of your own.",
                        )
                    target.write(block)
