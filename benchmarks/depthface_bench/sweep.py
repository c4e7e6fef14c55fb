"""perf_analyzer's sweeps of one served model: concurrency, its best one measured for longer, then rates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from depthface_bench.perf_analyzer import Load, Measured, Unstable, drive
from depthface_bench.plan import Plan
from depthface_bench.servers import Process
from depthface_bench.setup import Tool

__all__ = ["Subject", "best", "swept"]

WITHIN = 0.97
"""The best concurrency is the least that reaches this share of the highest throughput: more only waits longer."""


@dataclass(frozen=True)
class Subject:
    """What is driven: a model, with photos in a file; `inside` are the models that a pipeline asks."""

    task: str
    precision: str
    model: str
    data: Path
    inside: tuple[str, ...]


def swept(
    tool: Tool,
    served: Process,
    subject: Subject,
    concurrency: Sequence[int],
    plan: Plan,
    report: Callable[[str], None],
) -> list[dict[str, Any]]:
    """A record for each load; one that was not stable has `unstable`, the reason, in place of figures."""
    records: list[dict[str, Any]] = []

    def measure(load: Load, role: str) -> Measured | None:
        record: dict[str, Any] = {"task": subject.task, "precision": subject.precision, "role": role}
        try:
            with served.unwatched():
                found = drive(tool, served.host, subject.model, subject.data, load, subject.inside)
        except Unstable as error:
            records.append(record | {"load": asdict(load), "unstable": str(error)})
            report(f"UNSTABLE {error}")
            return None
        records.append(record | asdict(found) | {"memory_bytes": served.memory_bytes()})
        report(
            f"{subject.task} {subject.precision}, {load.kind} {load.value:g}: {found.throughput:.2f}/s, "
            f"p50 {found.p50_ms:.0f} ms, p99 {found.p99_ms:.0f} ms"
        )
        return found

    stable = [
        found
        for count in concurrency
        if (found := measure(Load("concurrency", count, max(plan.window, count)), "concurrency"))
    ]
    if stable:
        knee = best(stable)
        if plan.long_window:
            measure(Load("concurrency", knee.load.value, plan.long_window), "best")
        else:
            records.append(next(one for one in records if one.get("windows") == knee.windows) | {"role": "best"})
        for share in plan.rates:
            measure(Load("rate", round(share * knee.throughput, 3), plan.long_window or plan.window), "rate")
    return records


def best(found: Sequence[Measured]) -> Measured:
    """The least concurrency whose throughput is within 3 % of the highest."""
    highest = max(one.throughput for one in found)
    return min((one for one in found if one.throughput >= WITHIN * highest), key=lambda one: one.load.value)
