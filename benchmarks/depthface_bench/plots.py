"""The results of a run as pictures that can be read on a phone: one column, large letters, labels on the lines."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import NullFormatter
from matplotlib.transforms import blended_transform_factory
from PIL import Image

from depthface_bench.figures import spread
from depthface_bench.reading import Key, Results, best_at_once, label, rates, ways_of

__all__ = ["plot"]

_WIDTH_PX, _DPI = 1080, 120
matplotlib.use("Agg")  # pictures for files: no display is needed

_STYLE: Any = {
    "font.size": 17,
    "axes.titlesize": 20,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 3,
    "lines.markersize": 9,
}
_OURS = {
    "fp32": "#0b6e4f",
    "bf16": "#c05a00",
    "int8": "#1f5fa8",
    "cuda fp32": "#6a3fb5",
    "cuda fp16": "#b03a7a",
    "tensorrt fp32": "#4f8a10",
    "tensorrt fp16": "#1b9aaa",
}
_THEIRS = "#8a8f98"
_PLAIN = "#c3c8d0"


def plot(results: Results, folder: Path, stem: str) -> list[str]:
    """Write the pictures into `folder` as `<stem>-<what>.png`; return their names."""
    drawers: dict[str, tuple[Callable[[Results], Figure], str]] = {
        "rates": (_rates, "rounds"),
        "load": (_load, "driven"),
        "growth": (_growth, "growth"),
    }
    names = []
    with matplotlib.rc_context(_STYLE):
        for what, (draw, section) in drawers.items():
            if not results[section]:
                continue
            figure = draw(results)
            figure.text(0.01, 0.005, _footer(results), fontsize=13, color="#555555")
            name = f"{stem}-{what}.png"
            _write(figure, folder / name)
            plt.close(figure)
            names.append(name)
    return names


def _write(figure: Figure, path: Path) -> None:
    """As a PNG of 256 colours, a third of the size: the repository keeps the pictures of every machine."""
    whole = BytesIO()
    figure.savefig(whole, format="png", dpi=_DPI, metadata={"Software": None})
    with Image.open(whole) as picture:
        picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, "PNG", optimize=True)


def _rates(results: Results) -> Figure:
    """Bars: images a second of every way, each at its best."""
    panels = list(dict.fromkeys((one["task"], one["photo"]) for one in results["rounds"]))
    counts = [len(ways_of(results, *panel)) for panel in panels]
    figure, axes = _panels(len(panels), [0.62 * count + 1.0 for count in counts])
    for ax, (task, photo) in zip(axes, panels, strict=True):
        keys = ways_of(results, task, photo)[::-1]
        for row, key in enumerate(keys):
            values = spread(rates(results, task, photo, key, best_at_once(results, task, photo, key)))
            reach = [[values.median - values.low], [values.high - values.median]]
            ax.barh(row, values.median, color=_colour(key), xerr=reach, error_kw={"elinewidth": 2, "capsize": 4})
            ax.text(values.high, row, f"  {values.median:.2f}", va="center", fontweight="bold")
        ax.set_yticks(range(len(keys)), [label(task, key).replace(", ", ",\n", 1) for key in keys], fontsize=15)
        ax.set_xticks([])  # every bar says what it is
        ax.spines["bottom"].set_visible(False)
        ax.margins(x=0.15)
        # From the figure's edge: beside the names of the ways there is no room for it.
        words = ax.set_title(f"{task}, {photo}: images a second")
        words.set_transform(blended_transform_factory(figure.transFigure, ax.transAxes))
        words.set_x(0.01)
    return figure


def _load(results: Results) -> Figure:
    """Throughput and latency against concurrency."""
    tasks = list(dict.fromkeys(one["task"] for one in results["driven"]))
    figure, axes = _panels(2 * len(tasks), [4.0] * (2 * len(tasks)))
    for index, task in enumerate(tasks):
        rate_ax, time_ax = axes[2 * index], axes[2 * index + 1]
        for precision in results["precisions"]:
            points = [one for one in results["driven"] if _is_swept(one, task, precision)]
            if not points:
                continue
            x, colour = [one["load"]["value"] for one in points], _colour(("server", precision))
            _line(rate_ax, x, [one["throughput"] for one in points], colour, precision)
            p50, p99 = ([one[name] / 1000 for one in points] for name in ("p50_ms", "p99_ms"))
            time_ax.fill_between(x, p50, p99, color=colour, alpha=0.25)
            _line(time_ax, x, p50, colour, precision)
        rate_ax.set_title(f"{task}: images a second")
        _from_zero(rate_ax)
        time_ax.set_title(f"{task}: seconds to the answer, p50 up to p99")
        time_ax.set_yscale("log")
        time_ax.yaxis.set_major_formatter("{x:g}")
        time_ax.yaxis.set_minor_formatter(NullFormatter())
        for ax in (rate_ax, time_ax):
            ax.set_xscale("log", base=2)
            ax.xaxis.set_major_formatter("{x:g}")
            ax.set_xlabel("requests under way")
            ax.margins(x=0.22)
    return figure


def _growth(results: Results) -> Figure:
    """Latency one at a time, and memory, against what grows."""
    titles = {"megapixels": "megapixels of the photo", "faces": "faces in the photo", "batch": "photos in a request"}
    found = [over for over in titles if any(one["over"] == over for one in results["growth"])]
    figure, axes = _panels(len(found) + 1, [4.0] * (len(found) + 1))
    for ax, over in zip(axes, found, strict=False):
        for precision in results["precisions"]:
            points = _points(results, over, precision)
            photos = [one["value"] if over == "batch" else 1 for one in points]
            seconds = [n / statistics.median(one["images_s"]) for n, one in zip(photos, points, strict=True)]
            _line(ax, [one["value"] for one in points], seconds, _colour(("server", precision)), precision)
        task = "faces" if over == "faces" else "depth"
        ax.set_title(f"{task}: seconds to the answer")
        ax.set_xlabel(titles[over])
        _from_zero(ax)
        ax.margins(x=0.18)
    last = axes[-1]
    for precision in results["precisions"]:
        points = _points(results, "megapixels", precision)
        memory = [one["memory_bytes"] / 1e9 for one in points]
        _line(last, [one["value"] for one in points], memory, _colour(("server", precision)), precision)
    last.set_title("the server's memory, GB")
    last.set_xlabel(titles["megapixels"])
    _from_zero(last)
    last.margins(x=0.18)
    return figure


def _points(results: Results, over: str, precision: str) -> list[Mapping[str, Any]]:
    return [one for one in results["growth"] if (one["over"], one["precision"], one["at_once"]) == (over, precision, 1)]


def _panels(count: int, heights_in: list[float]) -> tuple[Figure, list[Axes]]:
    figure, axes = plt.subplots(
        count,
        figsize=(_WIDTH_PX / _DPI, sum(heights_in) + 0.4),
        height_ratios=heights_in,
        squeeze=False,
        layout=ConstrainedLayoutEngine(rect=(0, 0.02, 1, 0.97)),
    )
    return figure, [row[0] for row in axes]


def _line(ax: Axes, x: list[float], y: list[float], colour: str, name: str) -> None:
    if not x:
        return
    ax.plot(x, y, marker="o", color=colour)
    ax.annotate(
        f" {name}",
        (x[-1], y[-1]),
        color=colour,
        va="center",
        fontweight="bold",
        xytext=(8, 0),
        textcoords="offset points",
    )


def _from_zero(ax: Axes) -> None:
    ax.set_ylim(0, 1.12 * ax.dataLim.ymax)


def _colour(key: Key) -> str:
    kind, precision = key
    if kind == "plain":
        return _PLAIN
    return _OURS.get(precision, "#1f4e8c") if kind == "server" else _THEIRS


def _is_swept(one: Mapping[str, Any], task: str, precision: str) -> bool:
    return (one["task"], one["precision"], one["role"]) == (task, precision, "concurrency") and "unstable" not in one


def _footer(results: Results) -> str:
    return f"{results['machine']['title']}; {results['revision']}"
