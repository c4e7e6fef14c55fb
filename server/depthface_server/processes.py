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


def by_model(leader: int, repository: Path) -> dict[str, frozenset[int]]:
    """Return the living Python processes by model, of the server of this repository whose session `leader` leads.

    Of all other processes of the machine no file is read: a server that rests is looked at every two seconds.
    """
    found: dict[str, set[int]] = {}
    for pid in _all():
        with suppress(OSError):  # it has ended meanwhile
            if os.getsid(pid) == leader and (model := _model_of(_words_of_stub(pid), f"{repository}/")):
                found.setdefault(model, set()).add(pid)
    return {model: frozenset(pids) for model, pids in found.items()}


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
    for pid in _all():
        with suppress(OSError):  # it has ended meanwhile
            if words := _words_of_stub(pid):
                yield pid, words


def _all() -> Iterator[int]:
    """Go over the processes of this machine, or of this container."""
    return map(int, filter(str.isdecimal, os.listdir("/proc")))  # noqa: PTH208, a third of the time of `iterdir`


def _words_of_stub(pid: int) -> list[str]:
    """Return the words after the program of a process of Triton's Python backend; none of another process."""
    with open(f"/proc/{pid}/cmdline", "rb", buffering=0) as file:  # noqa: PTH123, half of the time of `read_bytes`
        program, *words = os.fsdecode(file.read()).split("\0")
    return words if program.endswith("/triton_python_backend_stub") else []


def _model_of(words: Iterable[str], prefix: str) -> str:
    return next((word.removeprefix(prefix).partition("/")[0] for word in words if word.startswith(prefix)), "")


def _is_left(name: str) -> bool:
    """Whether a region's name is of a server that has ended; of another container's only that one knows who lives."""
    found = re.match(rf"depthface_(\d+)_{_pid_namespace()}_", name)
    return found is not None and not Path("/proc", found[1]).exists()


def _pid_namespace() -> str:
    """Where process IDs mean what they mean here (pid_namespaces(7)); containers may share /dev/shm and not these."""
    return str(Path("/proc/self/ns/pid").stat().st_ino)
