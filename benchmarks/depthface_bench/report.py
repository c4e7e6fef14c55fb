"""The results of a run as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from depthface_bench.figures import Spread, ratio, spread
from depthface_bench.placement import PHOTO, TENSOR
from depthface_bench.reading import (
    Key,
    Results,
    against,
    best_at_once,
    label,
    machine_tail,
    rates,
    share_of_peak,
    tail,
    ways_of,
)
from depthface_bench.targets import Target, targets

__all__ = ["left_out", "losing", "markdown", "ours_left_out", "unstable"]

_SERVICE: Key = ("service", "fp32")
_TITLES = {
    "depth": "## Depth: JPEG to 8-bit PNG",
    "faces": "## Faces: JPEG to boxes, keypoints and embeddings",
    "photo embedding": "## Embeddings: JPEG to a vector",
    "text embedding": "## Embeddings: a text to a vector",
}
"""Of each task whose ways stand side by side."""

_OF_ONE_SIZE = (
    "The usual 518×518 file squeezes every photo into a square: it sees fewer pixels than the others, and its maps are "
    "others."
)

_STEADY = (
    "How steady: p99 / p50 at the best concurrency, and of the machine itself: the same fp32 matrix products on the "
    "CPU, again and again, each as long as a request takes, 3 s at most, in between the measurements."
)
_STEADY_ALONE = (
    "Where the machine has no figure, it was not measured, or several requests were under way and the products were "
    "too short to stand beside them."
)
"""Of older runs."""

_MEMORY = (
    "Each server of depthface has everything loaded, each service its one library. Memory is that of all its "
    "processes, the most that was seen: when it was ready, and right after requests of its own."
)
_MEMORY_AT_REST = (
    "In this run depthface may have rested for 13 s after its requests, and a network gives memory back after ten."
)
"""Of older runs."""


def markdown(results: Results, pictures: Sequence[str]) -> str:
    """The whole report; `pictures` are the names of the plots beside it."""
    parts = [
        _head(results),
        *(f"![{name.rpartition('.')[0]}]({name})" for name in pictures),
        "## Targets\n\nMedians; for two cores, whatever this machine has.\n\n" + _targets(targets(results)),
        _losing(results),
        _left_out(results),
        *(_rounds(results, task) for task in _TITLES if any(one["task"] == task for one in results["rounds"])),
        _driven(results),
        _placement(results),
        _limits(results),
        _growth(results),
        _start(results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def losing(results: Results) -> list[str]:
    """Where this project is behind what a user would take instead, by the median of the ratios."""
    found = []
    for task, photo in _photos(results):
        keys = ways_of(results, task, photo)
        for ours in (key for key in keys if key[0] == "server"):
            for peer in (key for key in keys if _is_peer(key, ours)):
                times = against(results, task, photo, ours, peer)
                if times and times.median < 1:
                    who, whom = label(task, ours), label(task, peer)
                    found.append(f"{task} {photo}: {who} against {whom} {times.text(2, '×')}")
    for size, link, there, here in _placed(results):
        times = ratio(there["ms"], here["ms"])
        if times.median > 1:
            found.append(f"preprocessing on the server, {size}, {link}: {times.text(2, '×')} the client's time")
    return found


def _is_peer(key: Key, ours: Key) -> bool:
    """True for what stands against a way of ours: as exact as it, or more, or the same file in its plain runtime."""
    if key[0] == "plain":
        return key[1] == ours[1]
    return key[0] != "server" and key[1] in ("fp32", ours[1])


def left_out(results: Results) -> list[str]:
    """The ways that were not measured, or not to the end, and why."""
    return [
        f"{one['task']}: {label(one['task'], (one['kind'], one['precision']))}. {one['reason']}"
        for one in results.get("left_out", [])
    ]


def ours_left_out(results: Results) -> list[str]:
    """Those of them that are this project's own: a run without them has failed."""
    kept = [one for one in results.get("left_out", []) if one["kind"] in ("plain", "server")]
    return left_out({"left_out": kept})


def unstable(results: Results) -> list[str]:
    """The loads without a figure, and why."""
    return [f"{one['task']}, {one['precision']}: {one['unstable']}" for one in results["driven"] if "unstable" in one]


def _head(results: Results) -> str:
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    return (
        f"# Measured on {machine['title']}\n\n"
        f"{results['date']}, revision {results['revision']}, by `{results['command']}`. {machine['system']}; "
        f"{', '.join(machine['flags'])}.\n{versions}.\n\n"
        f"Weights: {results['weights']} (speed does not depend on them). All ways in one run, in turn, on the same "
        "photos and weights, with as many threads as cores.\nFigures: median (least–most). Ratios are of the same "
        "round. Absolute figures are this machine's alone."
    )


def _targets(found: Sequence[Target]) -> str:
    words = {True: "yes", False: "**no**", None: "not measured here"}
    rows = [
        (
            one.text,
            ("≥ " if one.is_at_least else "≤ ") + f"{one.aim:g}",
            one.measured.text(2) if one.measured else "–",
            words[one.is_met],
        )
        for one in found
    ]
    return _table(("", "target", "measured", "met"), rows)


def _losing(results: Results) -> str:
    lines = [f"- {line}" for line in losing(results)] + [f"- no figure: {line}" for line in unstable(results)]
    return "## Where it loses\n\n" + ("\n".join(lines) or "Nowhere in this run.")


def _left_out(results: Results) -> str:
    lines = [f"- {line}" for line in left_out(results)]
    return "## Left out\n\nWays that could not be made here, or did other work.\n\n" + "\n".join(lines) if lines else ""


def _rounds(results: Results, task: str) -> str:
    parts = [_TITLES[task]]
    if any(one["kind"] == "onnx" for one in results["rounds"] if one["task"] == task):
        parts.append(_OF_ONE_SIZE)
    for photo in (photo for one, photo in _photos(results) if one == task):
        rows = []
        for key in ways_of(results, task, photo):
            counts = [one["at_once"] for one in results["rounds"] if _is(one, task, photo, key)]
            for count in counts:
                values = rates(results, task, photo, key, count)
                service = rates(results, task, photo, _SERVICE, count)
                times = ratio(values, service).text(2, "×") if service else "–"
                rows.append((label(task, key), count, spread(values).text(2), times))
            if len(counts) > 1:
                times_best = against(results, task, photo, key, _SERVICE)
                at = f"best ({best_at_once(results, task, photo, key)})"
                rows.append((label(task, key), at, "", times_best.text(2, "×") if times_best else "–"))
        parts.append(f"### {photo}\n\n" + _table(("", "at once", "images/s", "against the service"), rows))
    return "\n\n".join(parts)


def _driven(results: Results) -> str:
    rows = []
    for one in results["driven"]:
        load = one["load"]
        asked = f"{load['value']:g} at once" if load["kind"] == "concurrency" else f"{load['value']:g}/s sent"
        if one["role"] == "best":
            asked += ", for longer"
        if one["tries"] > 1:
            asked += f", try {one['tries']}"
        head = (one["task"], one["precision"], asked)
        if "unstable" in one:
            rows.append((*head, "unstable: no figure", *6 * ("–",)))
            continue
        inside = "; ".join(
            f"{step['model']} {step['queue_ms']:.0f} + {step['compute_ms']:.0f}" for step in one["steps"]
        )
        times = (f"{one[name]:.0f}" for name in ("p50_ms", "p90_ms", "p95_ms", "p99_ms"))
        rows.append((*head, _throughput(one).text(2), *times, one["requests"], inside))
    header = ("", "", "load", "requests/s", "p50 ms", "p90", "p95", "p99", "requests", "queue + compute ms, by model")
    return (
        "## Under load, by perf_analyzer\n\nPhotos of mixed sizes for depth, six faces each for faces; one server. "
        "Three windows in a row have to agree within a tenth, or there is no figure; their spread is in brackets. A "
        "load measured anew says which try it is. The p99 of fewer than 100 requests is the slowest of them.\n\n"
        + _table(header, rows)
    )


def _throughput(one: Mapping[str, Any]) -> Spread:
    return Spread(one["throughput"], min(one["windows"]), max(one["windows"]))


def _placement(results: Results) -> str:
    rows = []
    for size, link, there, here in _placed(results):
        times = ratio(here["ms"], there["ms"])
        wins = "server" if times.median > 1 else "client"
        for one, where in ((there, "server"), (here, "client")):
            rows.append(
                (
                    *(size, link, where, spread(one["ms"]).text(), spread(one["client_cpu_ms"]).text()),
                    *(f"{one['sent_bytes'] / 1000:.0f}", f"{one['received_bytes'] / 1000:.0f}"),
                    f"{times.text(2, '×')}: {wins}" if where == "client" else "",
                )
            )
    header = ("photo", "link", "preprocessing on", "ms", "client's CPU ms", "kB sent", "kB back", "time, and who wins")
    return (
        "## Preprocessing on the client or on the server\n\nJPEG to the depth map at the network's grid. On the "
        "client: decoded and resized there, the uint8 grid sent to the network itself. The ratio is the client's time "
        "to the server's.\n\n" + _table(header, rows)
    )


def _placed(results: Results) -> list[tuple[str, str, Mapping[str, Any], Mapping[str, Any]]]:
    """Size, link, and the records of the two ways."""
    found = {(one["photo"], one["link_mbit_s"], one["way"]): one for one in results["placement"]}
    return [
        (size, "this machine" if link is None else f"{link:g} Mbit/s", one, found[size, link, TENSOR])
        for (size, link, way), one in found.items()
        if way == PHOTO
    ]


def _limits(results: Results) -> str:
    limits = results["limits"]
    peaks = [
        (f"matrix product, {precision}, by {library}", f"{spread(values).text()} GFLOP/s")
        for precision, measured in limits["gemm_gflop_s"].items()
        for library, values in measured.items()
    ]
    bandwidth = ("memory, copied", f"{spread(limits['bandwidth_gb_s']).text(1)} GB/s, read and written")
    steady = []
    for task, precision in dict.fromkeys((one["task"], one["precision"]) for one in results["driven"]):
        ours, machine = tail(results, task, precision), machine_tail(results, task, precision)
        if ours:
            steady.append((f"{task}, {precision}", ours.text(2), f"{machine:.2f}" if machine else "–"))
    rows = []
    for task, photo in _photos(results):
        for key in ways_of(results, task, photo):
            share = share_of_peak(results, task, photo, key)
            percent = Spread(*(100 * value for value in vars(share).values())).text(0, " %") if share else "–"
            gflop = f"{limits['gflop'][photo]:.0f}" if photo in limits["gflop"] else "–"
            rows.append((f"{task} {photo}", gflop, label(task, key), percent))
    whose = "the faster library's" + (" in the same round" if results.get("peaks") else "")
    header = ("", "GFLOP a photo", "", f"of the matrix-product peak of its precision, {whose}")
    tables = [_table(("", "measured"), [*peaks, bandwidth]), _table(header, rows)]
    if steady:
        text = f"{_STEADY} {_STEADY_ALONE}" if any(machine == "–" for *_, machine in steady) else _STEADY
        tables.append(f"{text}\n\n" + _table(("", "p99 / p50", "the machine's own"), steady))
    return "## The limit\n\n" + "\n\n".join(tables)


def _growth(results: Results) -> str:
    names = {"megapixels": "megapixels", "faces": "faces in the photo", "batch": "photos in a request"}
    parts = [
        "## Growth\n\nMemory is all that the server has right after it. One is measured after the other, and what one "
        "took may still be there at the next: a network gives memory back after ten seconds of rest at the earliest."
    ]
    for over, name in names.items():
        records = [one for one in results["growth"] if one["over"] == over]
        rows = []
        for one in (record for record in records if record["at_once"] == 1):
            several = [r for r in records if r["at_once"] > 1 and _same_point(r, one)]
            photos = one["value"] if over == "batch" else 1
            ms = [1000 * photos / value for value in one["images_s"]]
            rows.append(
                (
                    *(one["task"], one["precision"], f"{one['value']:.3g}", spread(ms).text()),
                    spread(several[0]["images_s"] if several else one["images_s"]).text(2),
                    f"{one['memory_bytes'] / 1e9:.2f}",
                )
            )
        header = ("", "", name, "ms a request, one at a time", "images/s at the most at once", "server's memory, GB")
        parts.append(_table(header, rows) if rows else "")
    return "\n\n".join(part for part in parts if part)


def _start(results: Results) -> str:
    grouped: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for one in results["start"]:
        grouped.setdefault((one["kind"], one.get("task", ""), one["precision"]), []).append(one)
    rows = []
    for (kind, task, precision), ones in grouped.items():
        name = f"{task}: {label(task, (kind, precision))}" if task else f"depthface serve, {precision}"
        start = spread([one["start_s"] for one in ones if "start_s" in one]).text(1)
        rows.append((name, start, *(f"{max(one) / 1e9:.2f}" if one else "–" for one in _memory(ones))))
    text = f"{_MEMORY} {_MEMORY_AT_REST}" if any("memory_bytes" in one for one in results["start"]) else _MEMORY
    header = ("", "s until it answers", "GB when ready", "GB after the work")
    return f"## Start and memory\n\n{text}\n\n" + _table(header, rows)


def _memory(ones: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[int]]:
    """Return the bytes of one server when it was ready, and after work.

    Older runs call both `memory_bytes`: first after the work, and then, of depthface, when ready.
    """
    ready, worked, before = (
        [one[name] for one in ones if name in one] for name in ("ready_bytes", "worked_bytes", "memory_bytes")
    )
    return ready or before[1:], worked or before[:1]


def _photos(results: Results) -> list[tuple[str, str]]:
    return list(dict.fromkeys((one["task"], one["photo"]) for one in results["rounds"]))


def _is(one: Mapping[str, Any], task: str, photo: str, key: Key) -> bool:
    return (one["task"], one["photo"], one["kind"], one["precision"]) == (task, photo, *key)


def _same_point(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return all(a[name] == b[name] for name in ("task", "precision", "over", "value"))


def _table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
