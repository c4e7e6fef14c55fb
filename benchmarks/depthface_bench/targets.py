"""What was aimed at, on two cores, and whether this run shows it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from depthface_bench.figures import Spread, spread
from depthface_bench.reading import Results, against, share_of_peak, tail_over_machine

__all__ = ["Target", "targets"]

# (task, photo, precision) to how many times as many images a second as the service people deploy today.
_AGAINST_SERVICE: Mapping[tuple[str, str, str], float] = {
    ("depth", "1920×1280", "fp32"): 1.6,
    ("depth", "1920×1280", "bf16"): 3.0,
    ("depth", "4000×3000", "fp32"): 2.3,
    ("depth", "4000×3000", "bf16"): 4.0,
    ("faces", "6 faces", "fp32"): 1.05,
    ("faces", "6 faces", "bf16"): 1.8,
    ("photo embedding", "1280×960", "fp32"): 1.3,
    ("photo embedding", "1280×960", "bf16"): 2.2,
}
_AGAINST_SERVICE_WITH_AMX = {("depth", "1920×1280", "bf16"): 6.0, ("depth", "4000×3000", "bf16"): 8.0}

# (task, photo, precision) to the share of the best library's matrix-product peak.
_OF_PEAK: Mapping[tuple[str, str, str], float] = {
    ("depth", "1920×1280", "fp32"): 0.85,
    ("depth", "1920×1280", "bf16"): 0.75,
    ("faces", "6 faces", "fp32"): 0.85,
    ("faces", "6 faces", "bf16"): 0.85,
}
_OF_PEAK_WITH_AMX = {("depth", "1920×1280", "bf16"): 0.5, ("faces", "6 faces", "bf16"): 0.6}

_AGAINST_PLAIN_ALONE, _AGAINST_PLAIN = 0.97, 1.0
_TAIL_OVER_MACHINE = 1.25

_OUTSIDE_MS = {"exact": 80.0, "fast_decode": 45.0}
_READY_S = 3.0
_MEMORY_GB = {"fp32": 0.7, "int8": 0.35}
_CPU_AT_REST_PERCENT = 1.0


@dataclass(frozen=True)
class Target:
    """One aim.

    Attributes:
        measured: by the median; None where this machine or this run could not show it.
    """

    text: str
    aim: float
    measured: Spread | None
    is_at_least: bool = True

    @property
    def is_met(self) -> bool | None:
        """By the median."""
        if self.measured is None:
            return None
        return self.measured.median >= self.aim if self.is_at_least else self.measured.median <= self.aim


def targets(results: Results) -> list[Target]:
    """All of them, in the order of the tables."""
    return [*_shares(results), *_floors(results), *_services(results), *_tails(results), *_costs(results)]


def _shares(results: Results) -> Iterator[Target]:
    for (task, photo, precision), aim in _aims(results, _OF_PEAK, _OF_PEAK_WITH_AMX):
        share = share_of_peak(results, task, photo, ("server", precision))
        yield Target(f"{task} {photo}, {precision}, share of the matrix-product peak", aim, share)


def _services(results: Results) -> Iterator[Target]:
    for (task, photo, precision), aim in _aims(results, _AGAINST_SERVICE, _AGAINST_SERVICE_WITH_AMX):
        best = against(results, task, photo, ("server", precision), ("service", "fp32"))
        yield Target(f"{task} {photo}, {precision}, against the service, each at its best", aim, best)


def _floors(results: Results) -> Iterator[Target]:
    """Of every precision that a task was served in."""
    for task, photo, precision in _served(results):
        ours, plain = ("server", precision), ("plain", precision)
        alone, best = (against(results, task, photo, ours, plain, count) for count in (1, 0))
        what = f"{task} {photo}, {precision}, against the plain runtime in process"
        yield Target(f"{what}, one at a time", _AGAINST_PLAIN_ALONE, alone)
        yield Target(f"{what}, each at its best", _AGAINST_PLAIN, best)


def _tails(results: Results) -> Iterator[Target]:
    driven = {one["task"] for one in results["driven"]} or {"depth", "faces"}
    for task, precision in dict.fromkeys((task, precision) for task, _, precision in _served(results)):
        if task in driven:
            found = tail_over_machine(results, task, precision)
            text = f"{task}, {precision}, p99 / p50 at the best concurrency, over the machine's own"
            yield Target(text, _TAIL_OVER_MACHINE, found, is_at_least=False)


def _costs(results: Results) -> Iterator[Target]:
    """Of what a server costs besides its answers (`costs`)."""
    costs: Mapping[str, Any] = results.get("costs", {})
    for way, most in _OUTSIDE_MS.items():
        text = f"a photo of 4000×3000 outside the network, one core, {way}, ms"
        yield Target(text, most, _spread(costs.get("outside_ms", {}).get(way)), is_at_least=False)
    for precision, most in _MEMORY_GB.items():
        alone = costs.get("depth_alone", {}).get(precision, {})
        ready = _spread(alone.get("start_s"))
        yield Target(f"depth alone, {precision}, ready after `serve`, s", _READY_S, ready, is_at_least=False)
        for when, name in (("when ready", "ready"), ("after an answer", "answered"), ("at rest", "rested")):
            memory = _spread(alone.get(f"{name}_gb"))
            text = f"depth alone, {precision}, memory of all its processes {when}, GB"
            yield Target(text, most, memory, is_at_least=False)
    at_rest = _spread(costs.get("cpu_at_rest_percent"))
    yield Target("CPU at rest, everything loaded, % of a core", _CPU_AT_REST_PERCENT, at_rest, is_at_least=False)


def _aims(
    results: Results, aims: Mapping[tuple[str, str, str], float], with_amx: Mapping[tuple[str, str, str], float]
) -> Iterator[tuple[tuple[str, str, str], float]]:
    has_amx = "amx_bf16" in results["machine"]["flags"]
    yield from (dict(aims) | (dict(with_amx) if has_amx else {})).items()


def _served(results: Results) -> list[tuple[str, str, str]]:
    """Task, photo and precision of every way of the server's."""
    return list(
        dict.fromkeys(
            (one["task"], one["photo"], one["precision"]) for one in results["rounds"] if one["kind"] == "server"
        )
    )


def _spread(values: list[float] | None) -> Spread | None:
    return spread(values) if values else None
