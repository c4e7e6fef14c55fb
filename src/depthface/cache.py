"""Where depthface keeps what it can make again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from depthface.errors import ServeError

__all__ = ["expanded", "folder", "make_folder", "writing"]


def expanded(path: str) -> Path:
    """Return a path, with its user's home where it begins with `~`; as it is, if there is no such user or no home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def folder() -> Path:
    """Return the user's cache folder for depthface, an absolute path; it may not exist yet.

    Raises:
        ServeError: neither XDG_CACHE_HOME nor the user's home says where.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "depthface"
    except (RuntimeError, OSError) as error:  # no home in the environment or in the list of users; no working folder
        raise ServeError(
            f"There is no folder to keep files in ({error}).", "Set XDG_CACHE_HOME to a folder that can be written."
        ) from error


def make_folder(name: str, mode: int = 0o777) -> Path:
    """Make a folder in the cache, if it is not there yet; raises `ServeError` naming it where that cannot be."""
    path = folder() / name
    with writing(path):
        path.mkdir(parents=True, exist_ok=True, mode=mode)
    return path


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's errors of the block, which writes `path` in the cache, into a `ServeError` naming it."""
    try:
        yield
    except OSError as error:
        raise ServeError(
            f"{path} cannot be written ({error.strerror or error}).",
            "Make room there or give this user the folder, or set XDG_CACHE_HOME to a folder that can be written.",
        ) from error
