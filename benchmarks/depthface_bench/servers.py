"""Servers to measure: started for one benchmark, gone after it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

__all__ = ["Served", "serving"]


@dataclass
class Served:
    """A running `depthface serve`.

    Attributes:
        host: `host:port` of its HTTP endpoint.
        peak_bytes: the largest memory of the server and all its children together when it was asked for: the sum of
            their proportional set sizes (shared pages counted once).
    """

    host: str
    process: subprocess.Popen[str]
    peak_bytes: int = 0

    def measure_memory(self) -> None:
        """Between the measurements, not along with them: the kernel counts pages for 50 ms."""
        total = 0
        root = psutil.Process(self.process.pid)
        for process in [root, *root.children(recursive=True)]:
            try:
                total += process.memory_full_info().pss
            except psutil.Error:
                continue
        self.peak_bytes = max(self.peak_bytes, total)


@contextmanager
def serving(repository: Path) -> Iterator[Served]:
    """Serve `repository` on free ports until the block ends."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "depthface", "serve", "--repository", str(repository)),
            *("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"),
        ],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("ready: "):
            served = Served(line.split("//")[1].strip(), process)
            break
    else:
        raise SystemExit(f"The server did not start (exit {process.wait()}).")
    try:
        yield served
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)
