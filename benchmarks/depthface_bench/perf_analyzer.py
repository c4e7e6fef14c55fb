"""NVIDIA's `perf_analyzer` driven and read: one load at a time, a figure only where its windows agree."""

from __future__ import annotations

import base64
import csv
import json
import re
import struct
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from depthface.errors import DepthfaceError
from depthface_bench.setup import Tool

__all__ = ["Load", "Measured", "Step", "Unstable", "drive", "input_data", "report_of"]

_PASS = re.compile(r"Pass \[(\d+)\] throughput: ([\d.]+) infer/sec\. \S+ latency: (\d+) usec")
_COUNT = re.compile(r"Request count: (\d+)")
_MODEL = re.compile(r"^\s*(\S+), version: \d+")
_SPLIT = re.compile(
    r"queue (\d+) usec \+ compute input (\d+) usec \+ compute infer (\d+) usec \+ compute output (\d+) usec"
)
_UNSTABLE = "Failed to obtain stable measurement"
_WINDOWS = 3
"""The last so many windows have to agree, and are what is reported (perf_analyzer's own rule)."""


class Unstable(DepthfaceError):
    """The windows did not agree: there is no figure."""


@dataclass(frozen=True)
class Load:
    """What is asked of the server.

    Attributes:
        kind: `concurrency`, so many requests under way at every moment; or `rate`, so many sent a second.
        requests: in each window, at least.
        tolerance_percent: how far throughput and median latency of three windows in a row may lie apart.
        windows: after so many without that, it is a failure.
    """

    kind: Literal["concurrency", "rate"]
    value: float
    requests: int
    tolerance_percent: float = 10.0
    windows: int = 8


@dataclass(frozen=True)
class Step:
    """What one model of a pipeline did for a request on average, ms; `queue_ms` is waiting."""

    model: str
    queue_ms: float
    compute_ms: float


@dataclass(frozen=True)
class Measured:
    """One load, measured.

    Attributes:
        windows: throughput in each of the windows that agree, requests a second.
        requests: counted in those windows. p99 of fewer than 100 is the slowest but one, or the slowest.
        steps: the server's own account, the models inside one by one.
    """

    load: Load
    throughput: float
    windows: tuple[float, ...]
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    requests: int
    steps: tuple[Step, ...]


def input_data(tensors: Sequence[Mapping[str, bytes]]) -> str:
    """The text of an `--input-data` file: one request for each entry, taken in turn.

    A BYTES element carries its length as 4 bytes, little-endian, in front (Triton's binary tensor extension).
    """
    return json.dumps({"data": [{name: _tensor(value) for name, value in entry.items()} for entry in tensors]})


def drive(tool: Tool, host: str, model: str, data: Path, load: Load, inside: Sequence[str] = ()) -> Measured:
    """Measure one load.

    Args:
        host: `host:port` of the server's HTTP endpoint.
        data: a file with what `input_data` gives.
        inside: the networks that a pipeline asks.

    Raises:
        Unstable: the windows did not agree.
        DepthfaceError: perf_analyzer failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder, "report.csv")
        command = [
            *(str(tool.binary), "-m", model, "-u", host, "--input-data", str(data.resolve())),
            *("--percentile", "50", "-s", str(load.tolerance_percent), "-r", str(load.windows), "-v"),
            *("-f", table.name),  # and beside it, in its working folder, one for each model inside
            *_arguments(load),
            *(("--bls-composing-models", ",".join(inside)) if inside else ()),
        ]
        done = subprocess.run(command, cwd=folder, env=tool.environment, capture_output=True, text=True, check=False)
        text = done.stdout + done.stderr
        if _UNSTABLE in text:
            raise Unstable(f"{model} at {load.kind} {load.value:g}: {_seen(text)}")
        if done.returncode or not table.is_file():
            raise DepthfaceError(f"perf_analyzer failed on {model} (exit {done.returncode}): {_last(text)}")
        return report_of(load, text, table.read_text())


def report_of(load: Load, text: str, table: str) -> Measured:
    """Read what perf_analyzer printed with `-v`, and its CSV report.

    Raises:
        Unstable: it says so, or there are fewer windows than have to agree.
    """
    passes = [float(match[2]) for match in _PASS.finditer(text)]
    if _UNSTABLE in text or len(passes) < _WINDOWS:
        raise Unstable(_seen(text))
    (row,) = csv.DictReader(table.splitlines())
    count = _COUNT.search(text)
    if count is None:
        raise DepthfaceError(f"perf_analyzer's report has no count of requests: {_last(text)}")
    return Measured(
        load=load,
        throughput=float(row["Inferences/Second"]),
        windows=tuple(passes[-_WINDOWS:]),
        p50_ms=float(row["p50 latency"]) / 1000,
        p90_ms=float(row["p90 latency"]) / 1000,
        p95_ms=float(row["p95 latency"]) / 1000,
        p99_ms=float(row["p99 latency"]) / 1000,
        requests=int(count[1]),
        steps=_steps(text),
    )


def _arguments(load: Load) -> tuple[str, ...]:
    if load.kind == "concurrency":
        windows = ("--measurement-mode", "count_windows", "--measurement-request-count", str(load.requests))
        return ("--concurrency-range", f"{load.value:g}", *windows)
    # Its windows of a count do not end at a fixed rate: a window as long as the requests take to be sent.
    window_ms = round(1000 * load.requests / load.value)
    return ("--request-rate-range", f"{load.value:g}", "--measurement-interval", str(window_ms))


def _tensor(value: bytes) -> dict[str, object]:
    return {"b64": base64.b64encode(struct.pack("<I", len(value)) + value).decode("ascii"), "shape": [1]}


def _steps(text: str) -> tuple[Step, ...]:
    """The parts of the models inside, or of the model itself where it has none inside."""
    steps = []
    model = ""
    for line in text.splitlines():
        named, split = _MODEL.match(line), _SPLIT.search(line)
        if named:
            model = named[1]
        elif split:
            queue, *compute = (int(part) / 1000 for part in split.groups())
            steps.append(Step(model, queue, round(sum(compute), 3)))
    return tuple(steps)


def _seen(text: str) -> str:
    passes = ", ".join(match[2] for match in _PASS.finditer(text))
    return f"no stable measurement; requests a second in its windows: {passes or 'none'}"


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
