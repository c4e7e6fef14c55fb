"""Questions that tables and plots ask of the results of a run (the data of `run.measure`)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from depthface_bench.figures import Spread, ratio, spread

__all__ = [
    "Key",
    "Results",
    "against",
    "best_at_once",
    "driven_best",
    "label",
    "machine_tail",
    "rates",
    "share_of_peak",
    "tail",
    "ways_of",
]

Results = Mapping[str, Any]
Key = tuple[str, str]
"""The kind of a way, and its precision."""

_LABELS = {
    ("depth", "library"): "transformers, in process",
    ("depth", "service"): "transformers behind FastAPI",
    ("faces", "library"): "insightface, in process",
    ("faces", "service"): "insightface behind FastAPI",
    **{
        (task, kind): text
        for task in ("photo embedding", "text embedding")
        for kind, text in (
            ("library", "transformers, in process"),
            ("openclip", "OpenCLIP, in process"),
            ("service", "transformers behind FastAPI"),
        )
    },
}


def label(task: str, key: Key) -> str:
    """How a table or plot names a way."""
    kind, precision = key
    if kind == "plain":
        return f"plain runtime, in process, {precision}"
    return _LABELS.get((task, kind), f"depthface, over HTTP, {precision}")


def ways_of(results: Results, task: str, photo: str) -> list[Key]:
    """The ways that were measured, in their order."""
    return list(dict.fromkeys((one["kind"], one["precision"]) for one in _rounds(results, task, photo)))


def rates(results: Results, task: str, photo: str, key: Key, at_once: int) -> list[float]:
    """Images a second of one way, round by round; empty if it was not measured."""
    for one in _rounds(results, task, photo):
        if (one["kind"], one["precision"], one["at_once"]) == (*key, at_once):
            return list(one["images_s"])
    return []


def best_at_once(results: Results, task: str, photo: str, key: Key) -> int:
    """With how many requests under way this way is fastest; 0 if it was not measured."""
    medians = {
        one["at_once"]: statistics.median(one["images_s"])
        for one in _rounds(results, task, photo)
        if (one["kind"], one["precision"]) == key
    }
    return max(medians, key=lambda count: medians[count]) if medians else 0


def against(results: Results, task: str, photo: str, ours: Key, theirs: Key, at_once: int = 0) -> Spread | None:
    """How many times as fast one way is as another, both with `at_once` requests under way; 0: with as many as suit
    each best.
    """
    found = [
        rates(results, task, photo, key, at_once or best_at_once(results, task, photo, key)) for key in (ours, theirs)
    ]
    return ratio(found[0], found[1]) if all(found) else None


def driven_best(results: Results, task: str, precision: str) -> list[Mapping[str, Any]]:
    """perf_analyzer's long measurements at the best concurrency, without those that were unstable."""
    return [
        one
        for one in results["driven"]
        if (one["task"], one["precision"], one["role"]) == (task, precision, "best") and "unstable" not in one
    ]


def tail(results: Results, task: str, precision: str) -> Spread | None:
    """p99 / p50 at the best concurrency, of each long measurement; None if there is none."""
    found = driven_best(results, task, precision)
    return spread([one["p99_ms"] / one["p50_ms"] for one in found]) if found else None


def machine_tail(results: Results, task: str, precision: str) -> float | None:
    """p99 / p50 of the same matrix products again and again, each of a request's length, in between those."""
    times = sorted(ms for one in driven_best(results, task, precision) for ms in one["machine_ms"])
    return times[math.ceil(0.99 * len(times)) - 1] / statistics.median(times) if times else None


def share_of_peak(results: Results, task: str, photo: str, key: Key) -> Spread | None:
    """The share of the machine's matrix-product rate that a way's best rate is, by its network's operations.

    None for a precision whose peak was not measured.
    """
    measured = results["limits"]["gemm_gflop_s"].get(key[1])
    found = rates(results, task, photo, key, best_at_once(results, task, photo, key))
    if not measured or not found:
        return None
    peak = max(statistics.median(of_library) for of_library in measured.values())
    return spread([one * results["limits"]["gflop"][photo] / peak for one in found])


def _rounds(results: Results, task: str, photo: str) -> Iterator[Mapping[str, Any]]:
    return (one for one in results["rounds"] if (one["task"], one["photo"]) == (task, photo))
