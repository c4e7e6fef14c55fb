"""perf_analyzer's sweeps of one served model: concurrency, its best one measured for longer, then rates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from depthface.errors import DepthfaceError
from depthface_bench.limits import products_ms
from depthface_bench.perf_analyzer import Load, Measured, drive
from depthface_bench.plan import Plan
from depthface_bench.servers import Process
from depthface_bench.setup import Tool

__all__ = ["Subject", "best", "piece", "swept"]

TRIES = 2
"""Of a load whose windows do not agree: on a shared machine a neighbour may have passed through them."""

PIECES, PIECES_S = 20, 60.0
"""Of the machine's own work beside the best concurrency: at least so many, and about so many seconds of them."""


@dataclass(frozen=True)
class Subject:
    """What is driven.

    Attributes:
        model: with the requests in the file `data`.
        inside: the models that a pipeline asks.
        pace: windows hold so many times as many requests as the plan says.
    """

    task: str
    precision: str
    model: str
    data: Path
    inside: tuple[str, ...]
    pace: int = 1


def swept(
    tool: Tool,
    served: Process,
    subject: Subject,
    plan: Plan,
    cores: int,
    report: Callable[[str], None],
) -> list[dict[str, Any]]:
    """A record for each load.

    `tries` is how often it was measured. One that was never stable has `unstable`, the reason, in place of figures.
    The best concurrency, measured for longer, has `machine_ms` too: the times of pieces of work that were to take
    `piece_ms` each (`limits.products_ms`).
    """
    records: list[dict[str, Any]] = []

    def measure(load: Load, role: str, **more: Any) -> Measured | None:
        record = {"task": subject.task, "precision": subject.precision, "role": role} | more
        for tries in range(1, TRIES + 1):
            try:
                found = drive(tool, served.host, subject.model, subject.data, load, subject.inside)
                break
            except DepthfaceError as error:  # it wavers, or perf_analyzer fails
                report(f"UNSTABLE, try {tries} of {TRIES}: {error}")
                reason = str(error)
        else:
            records.append(record | {"tries": tries, "load": asdict(load), "unstable": reason})
            return None
        records.append(record | {"tries": tries} | asdict(found) | {"memory_bytes": served.memory_bytes()})
        report(
            f"{subject.task} {subject.precision}, {load.kind} {load.value:g}: {found.throughput:.2f}/s, "
            f"p50 {found.p50_ms:.0f} ms, p99 {found.p99_ms:.0f} ms"
        )
        return found

    window, long_window = (subject.pace * requests for requests in (plan.window, plan.long_window))
    stable = [
        found
        for count in plan.concurrency
        if (found := measure(Load("concurrency", count, max(window, count)), "concurrency"))
    ]
    if stable:
        knee = best(stable)
        each_s, count = piece(knee.p50_ms / 1000, plan.long_window)
        for _ in range(plan.long_rounds):
            machine_ms = products_ms(cores, each_s, count)
            load = Load("concurrency", knee.load.value, long_window)
            measure(load, "best", piece_ms=1000 * each_s, machine_ms=machine_ms)
        for share in plan.rates:
            measure(Load("rate", round(share * knee.throughput, 3), long_window), "rate")
    return records


def piece(request_s: float, most: int) -> tuple[float, int]:
    """Return how many seconds each piece of the machine's own work takes, and how many there are.

    As long as a request from end to end, with the others that are under way: what passes through the machine meanwhile
    is in both. There are `most` of them, or as many as fit into `PIECES_S`; so that they are never fewer than `PIECES`,
    none is longer than three seconds.
    """
    each_s = min(request_s, PIECES_S / PIECES)
    return each_s, min(most, int(PIECES_S / each_s))


def best(found: Sequence[Measured]) -> Measured:
    """The least concurrency whose windows reach those of the highest throughput: more only waits longer.

    A window counts whole requests, one more or less of some fifteen, so that any fixed share would be met by chance.
    """
    fastest = max(found, key=lambda one: one.throughput)
    return min((one for one in found if max(one.windows) >= min(fastest.windows)), key=lambda one: one.load.value)
