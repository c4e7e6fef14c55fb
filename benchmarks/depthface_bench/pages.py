"""The tables of figures on the pages, made of the results in the repository: none of them is typed.

A table stands between `<!-- measured: NAME -->` and `<!-- end -->`. `python -m depthface_bench pages` writes them anew.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depthface.errors import DepthfaceError
from depthface_bench import report
from depthface_bench.figures import Spread, spread
from depthface_bench.reading import (
    Key,
    against,
    best_at_once,
    label,
    machine_tail,
    rates,
    share_of_peak,
    tail,
    ways_of,
)
from depthface_bench.targets import targets

__all__ = ["PAGES", "Processor", "filled", "processors"]

PAGES = (Path("README.md"), Path("docs/speed.md"), Path("docs/operating.md"))

_QUICK = "-quick"
_NAMES = {
    "AMD EPYC (family 26, model 2)": "Zen 5",
    "AMD EPYC (family 25, model 17)": "Zen 4",
    "Intel Xeon (family 6, model 207)": "Xeon with AMX",
    "Intel Xeon (family 6, model 207) without AMX": "Xeon without AMX",
}
"""What virtual machines call processors that hide their names; and the order of the columns."""

_SERVICE: Key = ("service", "fp32")
_PRECISIONS = ("fp32", "int8", "bf16")
_ITEMS = {
    ("depth", "1920×1280"): "depth, 1920×1280 JPEG to 8-bit PNG",
    ("depth", "4000×3000"): "depth, 4000×3000",
    ("faces", "6 faces"): "six faces at 1280×886",
    ("photo embedding", "1280×960"): "embedding of a photo, 1280×960",
    ("text embedding", "a few words"): "embedding of a text",
}
_WHEN = {"ready": "ready", "answered": "after a photo of 1920×1280", "rested": "at rest"}
_MARKED = re.compile(r"(<!-- measured: ([a-z ]+) -->\n).*?(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True)
class Processor:
    """One machine's results: those of the full run, or of the quick one where there is no other."""

    stem: str
    results: Mapping[str, Any]

    @property
    def name(self) -> str:
        """How a column is headed."""
        cpu: str = self.results["machine"]["cpu"]
        return _NAMES.get(cpu, cpu)

    @property
    def is_quick(self) -> bool:
        """True if there is no full run of it."""
        return self.stem.endswith(_QUICK)


def processors(folder: Path) -> list[Processor]:
    """Return every machine on the CPU that has results in a folder, in the order of the columns."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    kept = [
        Processor(stem, results)
        for stem, results in found.items()
        if not (stem.endswith(_QUICK) and stem.removesuffix(_QUICK) in found) and not results["machine"].get("gpus")
    ]
    order = list(_NAMES.values())
    return sorted(kept, key=lambda one: (order.index(one.name) if one.name in order else len(order), one.name))


def filled(text: str, some: Sequence[Processor]) -> str:
    """Return a page with its tables made anew; raises `DepthfaceError` for one that is not known."""

    def table(found: re.Match[str]) -> str:
        if found[2] not in _TABLES:
            raise DepthfaceError(f"There is no table {found[2]!r}. Choose from: {', '.join(_TABLES)}.")
        return f"{found[1]}\n{_TABLES[found[2]](some)}\n\n{found[3]}"

    return _MARKED.sub(table, text)


def _rates(some: Sequence[Processor], *, is_whole: bool = False) -> str:
    """Images a second, and how many times the service's; `is_whole` with the service's own, and the ranges."""
    rows = []
    for (task, photo), what in _ITEMS.items():
        if is_whole:
            rows.append((f"{what}: the service", *(_rate(one, task, photo, _SERVICE) for one in some)))
        for precision in _PRECISIONS:
            cells = [_times(one, task, photo, ("server", precision), is_whole) for one in some]
            if any(cells):
                rows.append((f"{what}, {precision}", *cells))
    return _table(("", *_heads(some)), [row for row in rows if any(row[1:])])


def _rate(one: Processor, task: str, photo: str, key: Key) -> str:
    values = rates(one.results, task, photo, key, best_at_once(one.results, task, photo, key))
    return f"{spread(values).median:.2f}" if values else ""


def _times(one: Processor, task: str, photo: str, key: Key, is_whole: bool) -> str:
    times = against(one.results, task, photo, key, _SERVICE)
    if times is None:
        return ""
    reach = f" ({times.low:.2f}–{times.high:.2f})" if is_whole else ""
    return f"{_rate(one, task, photo, key)}: **{times.median:.2f}×**{reach}"


def _floors(some: Sequence[Processor]) -> str:
    """Through the server against the plain runtime in process: one at a time, and each at its best."""
    rows = []
    for (task, photo), what in _ITEMS.items():
        for precision in _PRECISIONS:
            ours, plain = ("server", precision), ("plain", precision)
            both = [[against(one.results, task, photo, ours, plain, count) for count in (1, 0)] for one in some]
            cells = [f"{pair[0].median:.2f}, {pair[1].median:.2f}" if pair[0] and pair[1] else "" for pair in both]
            if any(cells):
                rows.append((f"{what}, {precision}", *cells))
    return _table(("", *_heads(some)), rows)


def _tails(some: Sequence[Processor]) -> str:
    """p99 / p50 at the best concurrency, and beside it the machine's own where it was measured."""
    rows = []
    for task in dict.fromkeys(task for task, _ in _ITEMS):
        for precision in _PRECISIONS:
            cells = []
            for one in some:
                ours, machine = tail(one.results, task, precision), machine_tail(one.results, task, precision)
                beside = f", {machine:.2f}" if machine else ""
                cells.append(f"{ours.median:.2f}{beside}" if ours else "")
            if any(cells):
                rows.append((f"{task}, {precision}", *cells))
    return _table(("", *_heads(some)), rows)


def _limits(some: Sequence[Processor]) -> str:
    """What the processors multiply at most, and what share of it a network reaches through the server."""
    rows = []
    for precision in ("fp32", "bf16"):
        for library in ("torch", "OpenVINO"):
            values = [one.results["limits"]["gemm_gflop_s"].get(precision, {}).get(library) for one in some]
            cells = [f"{spread(each).median:.0f}" if each else "" for each in values]
            rows.append((f"matrix product, {precision}, by {library}, GFLOP/s", *cells))
    for (task, photo), what in _ITEMS.items():
        for precision in ("fp32", "bf16"):
            shares = [share_of_peak(one.results, task, photo, ("server", precision)) for one in some]
            if any(shares) and task in ("depth", "faces"):
                cells = [f"{100 * share.median:.0f} %" if share else "" for share in shares]
                rows.append((f"{what}, {precision}: share of the quicker of the two", *cells))
    return _table(("", *_heads(some)), rows)


def _peers(some: Sequence[Processor]) -> str:
    """Depth in this project, as so many times each other way in the same precision, in process or not."""
    rows = []
    for task, photo in (key for key in _ITEMS if key[0] == "depth"):
        keys = dict.fromkeys(key for one in some for key in ways_of(one.results, task, photo))
        for key in (key for key in keys if key[0] not in ("server", "plain")):
            times = [against(one.results, task, photo, ("server", key[1]), key) for one in some]
            cells = [f"{each.median:.2f}×" if each else "" for each in times]
            rows.append((f"{photo}, {key[1]}, against {label(task, key)}", *cells))
    return _table(("", *_heads(some)), rows)


def _missed(some: Sequence[Processor]) -> str:
    """Every aim that a processor misses."""
    rows = [
        (one.name, target.text, _measured(target.measured), f"{'≥' if target.is_at_least else '≤'} {target.aim:g}")
        for one in some
        for target in targets(one.results)
        if target.is_met is False
    ]
    return _table(("", "", "measured", "aim"), rows)


def _memory(some: Sequence[Processor]) -> str:
    """What all processes of a server with depth alone hold, of each machine where that was measured (`costs`)."""
    rows = []
    for one in some:
        alone = one.results.get("costs", {}).get("depth_alone", {})
        for precision in (each for each in _PRECISIONS if each in alone):
            held = [f"{spread(alone[precision][f'{when}_gb']).median:.2f} GB" for when in _WHEN]
            rows.append((f"{one.name}, {precision}", *held))
    return _table(("", *_WHEN.values()), rows)


def _measured(found: Spread | None) -> str:
    return f"{found.median:.3g}" if found else ""


def _lost(some: Sequence[Processor]) -> str:
    lines = [f"- {one.name}: {line}" for one in some for line in report.losing(one.results)]
    return "\n".join(lines) or "Nowhere."


def _files(some: Sequence[Processor]) -> str:
    where = "https://github.com/depthface/depthface/blob/main/benchmarks/results/{}.md"
    return "\n".join(f"- [{one.name}]({where.format(one.stem)}): {_head(one)}" for one in some)


def _head(one: Processor) -> str:
    run = "the shorter run" if one.is_quick else "the whole run"
    return f"{one.results['machine']['title']}; {run}, {one.results['date']}, revision {one.results['revision']}"


_TABLES: Mapping[str, Callable[[Sequence[Processor]], str]] = {
    "rates": _rates,
    "rates whole": lambda some: _rates(some, is_whole=True),
    "floors": _floors,
    "tails": _tails,
    "limits": _limits,
    "peers": _peers,
    "missed": _missed,
    "lost": _lost,
    "memory": _memory,
    "files": _files,
}


def _heads(some: Sequence[Processor]) -> Iterator[str]:
    return (one.name for one in some)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
