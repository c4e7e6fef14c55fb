"""Servers to measure: started for one benchmark, gone after it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from depthface.errors import DepthfaceError

__all__ = ["ENDS_WITHIN_S", "Process", "reserved_port", "serving"]

ENDS_WITHIN_S = 120
"""Whatever was started has ended so soon after it was told to; else that is an error."""


@dataclass(frozen=True)
class Process:
    """A server that runs.

    Attributes:
        host: `host:port` of its HTTP endpoint.
        start_s: from its command to its being ready.
    """

    host: str
    pid: int
    start_s: float

    def memory_bytes(self) -> int:
        """Of it and all its children: the sum of their proportional set sizes (shared pages counted once).

        Ask between the measurements, not along with them: the kernel counts pages for 50 ms.
        """
        return int(self._summed(lambda process: process.memory_full_info().pss))

    def cpu_s(self) -> float:
        """Seconds that it and all its children have computed, so far."""
        return self._summed(lambda process: time.clock_gettime(_clock_of(process.pid)))

    def _summed(self, of_one: Callable[[psutil.Process], float]) -> float:
        total = 0.0
        root = psutil.Process(self.pid)
        for process in [root, *root.children(recursive=True)]:
            try:
                total += of_one(process)
            except (psutil.Error, OSError):  # it has ended meanwhile
                continue
        return total


def _clock_of(pid: int) -> int:
    """Return the clock of the time that a process computes (clock_getcpuclockid(3), as Linux numbers them).

    In nanoseconds: /proc counts in hundredths of a second, of which a process at rest computes one in twenty seconds.
    """
    return (~pid << 3) | 2


@contextmanager
def serving(repository: Path, *options: str) -> Iterator[Process]:
    """Run `depthface serve` on `repository` and free ports, with more options, until the block ends."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "depthface", "serve", "--repository", str(repository), *options),
            *("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"),
        ],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("ready: "):
            served = Process(line.split("//")[1].strip(), process.pid, time.perf_counter() - started)
            break
    else:
        raise DepthfaceError(f"`depthface serve` did not start (exit {process.wait()}); it has said why.")
    try:
        yield served
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(ENDS_WITHIN_S)
        process.stdout.close()


@contextmanager
def reserved_port() -> Iterator[int]:
    """Give a port of this machine that nobody else gets who asks for any, until the block ends.

    Whoever asks for it by its number and with SO_REUSEADDR, as servers do, may listen there: this socket does not.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield int(holder.getsockname()[1])
