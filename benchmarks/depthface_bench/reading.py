"""Questions that tables and plots ask of the results of a run (the data of `run.measure`)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Iterator, Mapping
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
    "tail_over_machine",
    "ways_of",
]

Results = Mapping[str, Any]
Key = tuple[str, str]
"""The kind of a way, and its precision."""

_LIBRARIES = {"faces": "insightface"}
"""What its users take for a task; else it is transformers."""

_LABELS = {
    "library": "{library}, in process",
    "compiled": "{library} with torch.compile, in process",
    "openvino": "OpenVINO's own conversion, in process",
    "onnx": "ONNX Runtime on the usual 518×518 file, in process",
    "openclip": "OpenCLIP, in process",
    "service": "{library} behind FastAPI",
    "torch": "a matrix product by torch",
    "OpenVINO": "a matrix product by OpenVINO",
}
"""Of the peers and of the machine's limit, by kind; their precision is fp32 unless it is said."""

_OURS = {"plain": "plain runtime, in process", "server": "depthface, over HTTP"}

_OTHER_SIZE = "onnx"
"""The kind of way whose network sees another number of pixels: its operations are not those that are counted."""


def label(task: str, key: Key) -> str:
    """How a table or plot names a way."""
    kind, precision = key
    if kind in _OURS:
        return f"{_OURS[kind]}, {precision}"
    text = _LABELS[kind].format(library=_LIBRARIES.get(task, "transformers"))
    return text if precision == "fp32" else f"{text}, {precision}"


def ways_of(results: Results, task: str, photo: str) -> list[Key]:
    """The ways that were measured, in their order."""
    return list(dict.fromkeys((one["kind"], one["precision"]) for one in _rounds(results, task, photo)))


def rates(results: Results, task: str, photo: str, key: Key, at_once: int) -> list[float]:
    """Images a second of one way, round by round; empty if it was not measured."""
    for one in _rounds(results, task, photo):
        if (one["kind"], one["precision"], one["at_once"]) == (*key, at_once):
            return list(one["images_s"])
    return []


def best_at_once(results: Results, task: str, photo: str, key: Key, among: Collection[int] | None = None) -> int:
    """With how many requests under way this way is fastest; 0 if it was not measured.

    Args:
        among: the numbers that count; None for all.
    """
    medians = {
        one["at_once"]: statistics.median(one["images_s"])
        for one in _rounds(results, task, photo)
        if (one["kind"], one["precision"]) == key and (among is None or one["at_once"] in among)
    }
    return max(medians, key=lambda count: medians[count]) if medians else 0


def against(results: Results, task: str, photo: str, ours: Key, theirs: Key, at_once: int = 0) -> Spread | None:
    """How many times as fast one way is as another, both with `at_once` requests under way; 0: with as many as suit
    each best, of those that both were measured with.
    """
    counts = _counts(results, task, photo, ours) & _counts(results, task, photo, theirs)
    found = [
        rates(results, task, photo, key, at_once or best_at_once(results, task, photo, key, counts))
        for key in (ours, theirs)
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
    """p99 / p50 of the same matrix products again and again, each of a request's length, in between.

    `sweep.piece` says how long that is. None too for several requests under way in older runs, which have no
    `piece_ms`: their pieces were too short.
    """
    found = [one for one in driven_best(results, task, precision) if "piece_ms" in one or one["load"]["value"] == 1]
    times = sorted(ms for one in found for ms in one["machine_ms"])
    return times[math.ceil(0.99 * len(times)) - 1] / statistics.median(times) if times else None


def tail_over_machine(results: Results, task: str, precision: str) -> Spread | None:
    """`tail`, as so many times the machine's own; None if one of the two was not measured."""
    ours, machine = tail(results, task, precision), machine_tail(results, task, precision)
    return Spread(*(value / machine for value in vars(ours).values())) if ours and machine else None


def share_of_peak(results: Results, task: str, photo: str, key: Key) -> Spread | None:
    """The share of the machine's matrix-product rate that a way's best rate is, by its network's operations.

    None for a precision whose peak was not measured, and for a network that sees other sizes.
    """
    found = rates(results, task, photo, key, best_at_once(results, task, photo, key))
    peaks = [] if key[0] == _OTHER_SIZE else _peaks(results, task, photo, key[1], len(found))
    if not peaks or not found or photo not in results["limits"]["gflop"]:
        return None
    return ratio([one * results["limits"]["gflop"][photo] for one in found], peaks)


def _peaks(results: Results, task: str, photo: str, precision: str, rounds: int) -> list[float]:
    """The faster library's matrix-product rate in each round; of runs before 2026-11-27 that of their start."""
    wanted = (task, photo, precision)
    found = [
        one["gflop_s"] for one in results.get("peaks", []) if (one["task"], one["photo"], one["precision"]) == wanted
    ]
    if found:
        return [max(of_round) for of_round in zip(*found, strict=True)]
    at_start = results["limits"]["gemm_gflop_s"].get(precision, {}).values()
    return [max(statistics.median(of_library) for of_library in at_start)] * rounds if at_start else []


def _rounds(results: Results, task: str, photo: str) -> Iterator[Mapping[str, Any]]:
    return (one for one in results["rounds"] if (one["task"], one["photo"]) == (task, photo))


def _counts(results: Results, task: str, photo: str, key: Key) -> set[int]:
    return {one["at_once"] for one in _rounds(results, task, photo) if (one["kind"], one["precision"]) == key}
