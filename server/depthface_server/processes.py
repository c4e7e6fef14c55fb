"""The processes and the shared memory of servers on this machine: whose they are, and which a killed server left."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

__all__ = ["SHM", "by_model", "end", "prefix", "sweep"]

SHM = Path("/dev/shm")


def prefix() -> str:
    """Return what the names of this process's shared memory and folders begin with."""
    return f"depthface_{os.getpid()}_{_pid_namespace()}_"


def by_model(repository: Path, region: str) -> dict[str, set[int]]:
    """Return the living Python processes by model, of the server of this repository and of regions named `region…`."""
    found: dict[str, set[int]] = {}
    for pid, words in _stubs():
        if any(word.startswith(region) for word in words):
            for word in words:
                if word.startswith(f"{repository}/"):
                    found.setdefault(word.removeprefix(f"{repository}/").partition("/")[0], set()).add(pid)
    return found


def end(processes: Iterable[int]) -> None:
    """Kill processes; those that have ended are passed over."""
    for pid in processes:
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def sweep(folders: Iterable[Path] = ()) -> None:
    """Remove what killed servers left: regions in /dev/shm, their own folders in `folders`, and Python processes.

    Those wait for ever if Triton ended before it took their answer (python_backend, pb_stub.cc, `ProcessRequests`).
    """
    end(pid for pid, words in _stubs() if any(map(_is_left, words)))
    for parent in {SHM, *folders}:
        for path in parent.glob("depthface_*"):
            if _is_left(path.name):
                _remove(path)


def _remove(path: Path) -> None:
    with suppress(OSError):  # another user's, or another server was first
        if path.lstat().st_uid != os.getuid():
            return
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def _stubs() -> Iterator[tuple[int, list[str]]]:
    """Go over the processes of Triton's Python backend, of whichever server: ID, and the words after the program."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            program, *words = (process / "cmdline").read_text(errors="replace").split("\0")
            if program.endswith("/triton_python_backend_stub"):
                yield int(process.name), words


def _is_left(name: str) -> bool:
    """Whether a region's name is of a server that has ended; of another container's only that one knows who lives."""
    found = re.match(rf"depthface_(\d+)_{_pid_namespace()}_", name)
    return found is not None and not Path("/proc", found[1]).exists()


def _pid_namespace() -> str:
    """Where process IDs mean what they mean here (pid_namespaces(7)); containers may share /dev/shm and not these."""
    return str(Path("/proc/self/ns/pid").stat().st_ino)
