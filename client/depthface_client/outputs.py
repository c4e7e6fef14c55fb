"""Results into files: where each goes, decided before anything is written, and written whole or not at all."""

from __future__ import annotations

import os
import secrets
import stat
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from depthface.errors import InvalidImage, InvalidInput, OutputError
from depthface.photos import encoded, read_whole

__all__ = ["STANDARD", "check_place", "move", "of_name", "read", "refuse_overwriting", "targets", "write"]

STANDARD = Path("-")
"""Standard input, where a photo is asked for; standard output, where a file is."""

_ALSO_STANDARD = frozenset({Path("/dev/stdout"), Path("/dev/fd/1"), Path("/proc/self/fd/1")})


def read(photo: Path) -> bytes:
    """Return the bytes of a photo's file, or of standard input; raise `InvalidImage` if it cannot be read."""
    if photo != STANDARD:
        return encoded(photo)
    if sys.stdin is None:  # closed by whoever started us
        raise InvalidImage("Standard input is closed.", "Send a photo through it, or give the path of one.")
    return read_whole(sys.stdin.buffer, "Standard input")


def targets(photos: Sequence[Path], out: str, ending: str) -> list[Path]:
    """Return where the result of each photo goes.

    Args:
        photos: the files, or `STANDARD`.
        out: a file for one photo, or `-`; a folder for several, or if it is one, or ends in a slash.
        ending: of a file in that folder, after the photo's name without its suffix: `_depth.png`.

    Raises:
        InvalidInput: two results would be one file, or a result one of the photos.
        OutputError: a result cannot be written there, as `check_place` says.
    """
    is_folder = len(photos) > 1 or out.endswith(os.sep) or _is_folder(Path(out))
    if not is_folder:
        found = [of_name(out)]
    else:
        if Path(out) == STANDARD:
            raise InvalidInput("Standard output takes the result of one photo.", "Give --out a folder for several.")
        found = [Path(out, ("stdin" if photo == STANDARD else photo.stem) + ending) for photo in photos]
    made_by: dict[Path, Path] = {}
    for photo, target in zip(photos, found, strict=True):
        if target in made_by:
            raise InvalidInput(
                f"{made_by[target]} and {photo} would both be written to {target}.",
                "Give them in two commands, each with a folder of its own.",
            )
        made_by[target] = photo
    refuse_overwriting(found, photos)
    for target in found:
        check_place(target)
    return found


def of_name(out: str) -> Path:
    """Return the file that is meant by a name on the command line: standard output has several."""
    return STANDARD if Path(out) in _ALSO_STANDARD else Path(out)


def refuse_overwriting(results: Sequence[Path], inputs: Sequence[Path]) -> None:
    """Raise `InvalidInput` if two results would be one file, or one would be written over what they are made of."""
    places: dict[str, Path] = {}
    given: dict[tuple[int, int], Path] = {}
    for one in inputs:
        if (file := _file(one)) is not None:
            given.setdefault(file, one)
    for result in results:
        other = places.setdefault(os.path.realpath(result), result)
        if other is not result:
            raise InvalidInput(f"{other} and {result} would be one file.", "Give each a name of its own.")
        if (file := _file(result)) is not None and file in given:
            raise InvalidInput(f"{result} would be written over {given[file]}.", "Choose another name for it.")


def check_place(result: Path, *, is_made_beside: bool = False) -> None:
    """Raise `OutputError` if a result cannot get its name, as far as that can be told before it is made.

    Args:
        is_made_beside: its folder has to take other files too, whatever is there by that name.
    """
    if result == STANDARD:
        return
    try:
        mode = _mode(result)
        if mode is not None and stat.S_ISDIR(mode):
            raise OutputError(f"{result} cannot be written (it is a folder).", "Choose another name.")
        if mode is not None and not is_made_beside and (not stat.S_ISREG(mode) or os.access(result, os.W_OK)):
            return
        beside = Path(os.path.realpath(result)).parent
        there = next(folder for folder in (beside, *beside.parents) if folder.exists())
        if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
            raise OutputError(
                f"{result} cannot be written (nothing can be made in {there}).", "Choose another place for it."
            )
    except (OSError, ValueError) as error:
        raise OutputError(
            f"{result} cannot be written ({getattr(error, 'strerror', None) or error}).", "Choose another name."
        ) from error


def write(target: Path, content: bytes) -> None:
    """Write a file whole or not at all; raise `OutputError` where that cannot be, with nothing left of it.

    A link stays a link, an existing file keeps its permissions, a new one has those of the user's umask; a device or a
    pipe is written to as it is, and `STANDARD` is standard output.
    """
    try:
        if target == STANDARD:
            if sys.stdout is None:  # closed by whoever started us
                raise OutputError("Standard output is closed.", "Choose another --out.")
            sys.stdout.buffer.write(content)
            sys.stdout.buffer.flush()
            return
        mode = _mode(target)
        if mode is not None and not stat.S_ISREG(mode):  # of which a link may lead to no path: /dev/fd/63
            target.open("wb").close() if stat.S_ISDIR(mode) else _write_as_it_is(target, content)
            return
        real = Path(os.path.realpath(target))
        made = _make_folders(real.parent)
        try:
            _replace(real, content, mode)
        except BaseException:
            for folder in made:
                with suppress(OSError):
                    folder.rmdir()
            raise
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:
        raise OutputError(
            f"{target} cannot be written ({getattr(error, 'strerror', None) or error}).", "Choose another --out."
        ) from error


def move(made: Path, target: Path) -> None:
    """Move a file that was made beside `target` to its place, with `write`'s regard for what is there.

    Raises:
        OSError: it cannot be; `made` is where it was.
    """
    mode = _mode(target)
    if mode is None or stat.S_ISREG(mode):
        if mode is not None:
            made.chmod(stat.S_IMODE(mode))
        made.replace(os.path.realpath(target))
    elif stat.S_ISDIR(mode):
        target.open("wb").close()  # raises what it is
    else:
        _write_as_it_is(target, made.read_bytes())


def _replace(target: Path, content: bytes, mode: int | None) -> None:
    aside = target.with_name(f".{secrets.token_hex(4)}.part")
    try:
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except PermissionError:
        if mode is None:
            raise
        _write_as_it_is(target, content)  # a file that may be written in a folder that may not
        return
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        if mode is not None:
            aside.chmod(stat.S_IMODE(mode))
        aside.replace(target)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def _write_as_it_is(target: Path, content: bytes) -> None:
    with target.open("r+b" if target.is_file() else "wb", buffering=0) as file:
        view = memoryview(content)
        while view:
            view = view[file.write(view) :]
        if target.is_file():
            file.truncate()


def _make_folders(folder: Path) -> list[Path]:
    """Make a folder and those above it; return the new ones, the innermost first."""
    new = []
    while not folder.exists():
        new.append(folder)
        folder = folder.parent
    for one in reversed(new):
        one.mkdir(exist_ok=True)
    return new


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError) as error:
        raise OutputError(
            f"{path} can be no file ({getattr(error, 'strerror', None) or error}).", "Choose another --out."
        ) from error


def _file(path: Path) -> tuple[int, int] | None:
    """Return what two names of one regular file have in common; None for anything else."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISREG(found.st_mode) else None
