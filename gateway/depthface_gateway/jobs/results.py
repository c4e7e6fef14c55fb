"""The files of jobs. A job's folder appears whole or not at all.

<root>/<job_id>/embedding.bin          of a photo: NumPy's format (.npy), float32 (D,), unit length
<root>/<job_id>/faces/<n>.bin          of a face: the same
<root>/<job_id>/faces/<n>.jpg          a face, cut out
<root>/<job_id>/clip.<kind>            a clip, of a kind that its contract has
<root>/.partial/<claim>/               what a worker is writing
<root>/.uploads/<job_id>               a photo that came with its job, until the job ends
<root>/.store                          a random word, by which this folder is told from another in the same place
"""

from __future__ import annotations

import errno
import math
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Collection
from contextlib import suppress
from io import BytesIO, FileIO
from pathlib import Path

import numpy as np
import numpy.typing as npt

from depthface.errors import ConfigError

__all__ = ["MARK", "ResultStore", "StoreAway", "write_vector", "write_whole"]

MARK = ".store"

_PARTIAL, _UPLOADS = ".partial", ".uploads"
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_RESULT = re.compile(r"embedding\.bin|faces/[0-9]{1,6}\.(bin|jpg)|clip\.[a-z0-9]{1,8}")
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)  # the last is a link's
_YOUNG_S = 3600.0  # an upload without a job may have one in a moment


class StoreAway(OSError):
    """The folder of the jobs' files cannot be used now, whatever the job: a share that is not mounted, or fails."""


class ResultStore:
    """The folder of all jobs' files.

    Attributes:
        root: is made if it is not there.
        mark: what `.store` in it says; it is written by who opens the folder first.

    Raises:
        ConfigError: it cannot be written to.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            for folder in (root / _PARTIAL, root / _UPLOADS):
                folder.mkdir(parents=True, exist_ok=True)
            self._try_to_write()
            self._leave_a_mark()
            self.mark = self._mark()
        except OSError as error:
            raise ConfigError(
                f"The folder for jobs, {root}, cannot be written to ({error.strerror}).",
                "Name another one with --data (or STORAGE_DIR), or give this user the right to write there.",
            ) from error

    # The folder itself

    def check(self) -> None:
        """Raise `StoreAway` unless it is the folder that it was at the start: what another one lacks is not lost."""
        try:
            mark = self._mark()
        except OSError as error:
            raise StoreAway(f"The folder for jobs, {self.root}, is away ({error.strerror})") from error
        if mark != self.mark:
            raise StoreAway(f"The folder for jobs, {self.root}, is another than before: its {MARK} says {mark}")

    def probe(self) -> None:
        """Raise `StoreAway` unless files can be kept in it now."""
        self.check()
        try:
            self._try_to_write()
        except OSError as error:
            raise StoreAway(f"The folder for jobs, {self.root}, cannot be written to ({error.strerror})") from error

    def _try_to_write(self) -> None:
        probe = self.root / _PARTIAL / f"probe-{uuid.uuid4().hex}"
        try:
            probe.write_bytes(b"?")
        finally:
            probe.unlink(missing_ok=True)

    def _mark(self) -> str:
        return (self.root / MARK).read_text("ascii", "replace").strip()

    def _leave_a_mark(self) -> None:
        """Give the folder its mark unless it has one; of several who do so at once, all find the first one's."""
        mark = self.root / MARK
        if mark.exists():
            return
        own = self.root / _PARTIAL / f"mark-{uuid.uuid4().hex}"
        write_whole(own, f"{uuid.uuid4().hex}\n".encode())
        try:
            os.link(own, mark)
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            with suppress(FileExistsError), mark.open("xb") as file:
                file.write(own.read_bytes())
        own.unlink(missing_ok=True)
        _sync(self.root)

    # Uploads

    def upload(self, job_id: str) -> Path:
        """Where the photo of a job is that came with it."""
        return self.root / _UPLOADS / _checked(job_id)

    def keep_upload(self, job_id: str, data: bytes) -> None:
        """Store the photo that came with a job."""
        self.check()
        write_whole(self.upload(job_id), data)

    def read_upload(self, job_id: str) -> bytes | None:
        """Return the photo that came with a job; None if it is gone."""
        try:
            return self.upload(job_id).read_bytes()
        except FileNotFoundError:
            self.check()
            return None

    def drop_upload(self, job_id: str) -> None:
        """Delete it, if there is one."""
        self.upload(job_id).unlink(missing_ok=True)

    # Results

    def begin(self, claim: str) -> Path:
        """Return a new empty folder for what one try writes."""
        self.check()
        folder = self.root / _PARTIAL / claim
        folder.mkdir()
        return folder

    def ready(self, partial: Path, job_id: str) -> Callable[[], None]:
        """Have what a try has written on the disk, which may take its time.

        Returns:
            What moves it to where its job's files belong, in place of what an earlier try left there: it is quick, for
            it is called inside a transaction. Only who holds the job's latest claim may call it.
        """
        _flush(partial)
        return lambda: self._publish(partial, job_id)

    def _publish(self, partial: Path, job_id: str) -> None:
        target = self.root / _checked(job_id)
        if target.exists():
            old = self.root / _PARTIAL / f"old-{uuid.uuid4().hex}"
            target.rename(old)
            shutil.rmtree(old, ignore_errors=True)
        if any(partial.iterdir()):
            partial.rename(target)
            _sync(self.root)

    def abandon(self, claim: str) -> None:
        """Delete what a try has written, if anything is left."""
        shutil.rmtree(self.root / _PARTIAL / claim, ignore_errors=True)

    def delete(self, job_id: str) -> int:
        """Delete a job's files, and its upload; return how many result files there were.

        Whoever then forgets the job asks `check` first: of a folder that is away nothing can be deleted.
        """
        folder = self.root / _checked(job_id)
        count = sum(path.is_file() for path in folder.rglob("*")) if folder.is_dir() else 0
        shutil.rmtree(folder, ignore_errors=True)
        self.drop_upload(job_id)
        return count

    def open(self, job_id: str, name: str) -> FileIO | None:
        """Open one of a job's files by its name in the job's folder; None if there is no such file.

        Whoever deletes it meanwhile takes nothing from who has it open.
        """
        if not _UUID.fullmatch(job_id) or not _RESULT.fullmatch(name):
            return None
        try:
            return FileIO(self.root / job_id / name, opener=lambda path, flags: os.open(path, flags | os.O_NOFOLLOW))
        except OSError as error:
            if error.errno in _NOT_THERE:
                self.check()
                return None
            raise

    # What is left over

    def sweep(self, active_claims: Callable[[], Collection[str]], is_waiting: Callable[[str], bool]) -> None:
        """Delete what dead workers and broken requests left.

        Args:
            active_claims: is called after the folders have been listed, so that none is younger than its claim.
            is_waiting: whether a job still needs its upload.
        """
        self.check()
        partial = [path for path in (self.root / _PARTIAL).iterdir() if path.is_dir()]
        held = active_claims()
        for path in partial:
            if path.name not in held:
                shutil.rmtree(path, ignore_errors=True)
        for path in (self.root / _UPLOADS).iterdir():
            with suppress(FileNotFoundError):
                is_old = time.time() - path.stat().st_mtime > _YOUNG_S
                if is_old and not (_UUID.fullmatch(path.name) and is_waiting(path.name)):
                    path.unlink()

    def folders(self, older_than_s: float | None = None) -> list[str]:
        """Return the ids of all jobs whose files have been here for so long; None for any time."""
        before_s = math.inf if older_than_s is None else time.time() - older_than_s
        return [path.name for path in self.root.iterdir() if _UUID.fullmatch(path.name) and _is_older(path, before_s)]

    def usage_bytes(self) -> int:
        """Return what all files take together."""
        total = 0
        for folder, _, names in os.walk(self.root):
            for name in names:
                with suppress(FileNotFoundError):
                    total += (Path(folder) / name).stat().st_size
        return total


def _is_older(folder: Path, before_s: float) -> bool:
    with suppress(FileNotFoundError):
        return folder.is_dir() and folder.stat().st_mtime <= before_s
    return False


def write_vector(path: Path, vector: npt.NDArray[np.float32]) -> None:
    """Write a vector in NumPy's format. `np.save` by a path would add `.npy` to its name."""
    buffer = BytesIO()
    np.save(buffer, np.ascontiguousarray(vector, np.float32), allow_pickle=False)
    path.write_bytes(buffer.getvalue())


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that there is all of it or none, even after a power cut."""
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        partial.write_bytes(data)
        _sync(partial)
        partial.rename(path)
        _sync(path.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _flush(folder: Path) -> None:
    """Have all of a folder on the disk."""
    for path in (*folder.rglob("*"), folder):
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _checked(job_id: str) -> str:
    """Return a job's id, which is a UUID and so no path to elsewhere."""
    if not _UUID.fullmatch(job_id):
        raise ValueError(f"{job_id!r} is no job id")
    return job_id
