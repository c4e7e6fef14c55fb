"""Where an export is made, and how it comes into its place: aside and under a lock, then in one step."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from depthface.contract import STAGING_FOLDER
from depthface.errors import ExportError
from depthface_export.job import Report, say_nothing

__all__ = ["install", "install_all", "stage", "write_whole"]


@contextmanager
def stage(repository: Path, report: Report = say_nothing) -> Iterator[Path]:
    """Yield a folder on the repository's file system to build in. One export at a time; leftovers of killed ones go.

    Args:
        report: is told of leftovers that stay: of another user's export, or with a file that a server has open on NFS.

    Raises:
        ExportError: another export is at work in this repository, or it cannot be written to, now or later.
    """
    root = repository / STAGING_FOLDER
    try:
        lock = _lock(root)
    except BlockingIOError as error:
        raise ExportError(f"Another export is at work in {repository}.", "Wait for it to end.") from error
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            _leave(root)
            raise ExportError(
                f"The file system of {repository} has no locks ({error.strerror}), so that two exports could mix.",
                "Export to a folder of this machine, and copy what is in it.",
            ) from error
        raise ExportError(
            f"{repository} cannot be written to ({error.strerror}).", "Choose another --repository."
        ) from error
    with lock:
        for leftover in root.glob("build-*"):
            shutil.rmtree(leftover, ignore_errors=True)
            if leftover.exists():
                report(f"{leftover} stays: it cannot be removed now. It is of no use")
        folder = Path(tempfile.mkdtemp(prefix="build-", dir=root))
        try:
            yield folder
        except OSError as error:
            raise ExportError(
                f"A file could not be written ({error.strerror or error}): the disk of {repository}, or of the "
                "temporary folder, may be full.",
                "What was exported before is still whole; make room and export again.",
            ) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            _leave(root)


def _leave(root: Path) -> None:
    with suppress(OSError):
        (root / "lock").unlink()
        root.rmdir()


def _lock(root: Path) -> IO[bytes]:
    """Return the lock of a repository, held; raises BlockingIOError if another process holds it, and other OSErrors.

    Who held it before removes it in the end. So a lock that was opened may be no longer the one that others will see.
    """
    while True:
        try:
            root.mkdir(parents=True, exist_ok=True)
            lock = (root / "lock").open("wb")
        except (FileNotFoundError, FileExistsError):
            if root.is_file() or not root.parent.is_dir():
                raise
            continue  # it was removed a moment ago
        with suppress(FileNotFoundError), ExitStack() as stack:
            stack.enter_context(lock)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock.fileno()), (root / "lock").stat()):
                stack.pop_all()
                return lock


def install_all(moves: Sequence[tuple[Path, Path]]) -> None:
    """`install` folders, each as `(built, target)`; where one cannot be, those before it are taken back.

    All that takes time, to have every file on the disk, is done before the first is moved: if this process is killed
    between two moves, networks of two exports lie side by side.
    """
    for built, target in moves:
        _prepare(built, target)
    for index, (built, target) in enumerate(moves):
        try:
            _move(built, target)
        except OSError:
            for before in reversed(moves[:index]):
                _take_back(*before)
            raise


def install(built: Path, target: Path) -> None:
    """Put the folder `built` in the place of `target` in one step: at every moment one of the two is whole there.

    What was in `target` is afterwards in `built`.
    """
    install_all([(built, target)])


def _prepare(built: Path, target: Path) -> None:
    """Have all of a folder on the disk, and a place for it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for path in built.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _move(built: Path, target: Path) -> None:
    """Do `install` of a folder that is ready for it."""
    if target.exists():
        _exchange(built, target)
    else:
        built.rename(target)


def _take_back(built: Path, target: Path) -> None:
    """Undo `_move`."""
    if built.exists():
        _exchange(built, target)
    else:
        target.rename(built)


def _exchange(a: Path, b: Path) -> None:
    """Swap two folders by renameat2(2) with RENAME_EXCHANGE; where there is none, by two renames."""
    at_fdcwd, rename_exchange = -100, 2
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "renameat2"):
        if libc.renameat2(at_fdcwd, os.fsencode(a), at_fdcwd, os.fsencode(b), rename_exchange) == 0:
            return
        code = ctypes.get_errno()
        if code not in (errno.EINVAL, errno.ENOSYS):
            raise OSError(code, os.strerror(code), str(b))
    aside = a.with_name(a.name + ".old")
    b.rename(aside)
    try:
        a.rename(b)
    except OSError:
        aside.rename(b)
        raise
    aside.rename(a)


def write_whole(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, prefix=".", delete=False) as file:
        try:
            file.write(text)
            file.flush()
        except OSError:
            Path(file.name).unlink()
            raise
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)
