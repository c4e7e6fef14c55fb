"""From a run to the files in `benchmarks/results/`, named for the machine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from depthface.contract import Precision
from depthface.cores import Cores
from depthface.errors import DepthfaceError
from depthface_bench import machine, plots, report, run, tune, variants
from depthface_bench.perf_analyzer import Load
from depthface_bench.plan import Plan
from depthface_bench.repositories import DEPTH_NETWORK, export_depth, write_pack
from depthface_bench.setup import Tool
from depthface_bench.tasks import TASKS

__all__ = ["run_and_write", "tune_and_write", "write"]

_TUNED_AT = (1, 4)


def run_and_write(
    tool: Tool, work: Path, results: Path, plan: Plan, is_quick: bool, chosen: Sequence[str]
) -> tuple[Path, list[str]]:
    """Measure and write; return the table's file, and the loads of this project that have no figure.

    Raises:
        DepthfaceError: a precision that the cards do not have, or fp32, which all else is held against, left out.
    """
    work.mkdir(parents=True, exist_ok=True)
    asked, here, software = _chosen(chosen), machine.this_machine(), variants.here()
    pack = write_pack(work)
    possible = machine.precisions([task.card(pack) for task in TASKS], here)
    wanted = variants.variants(asked or possible, asked, here, software)
    for line in variants.absent(here, software):
        print(line, flush=True)
    found = run.measure(tool, work, plan, wanted, lambda line: print(line, flush=True))
    stem = found["machine"]["slug"] + ("-quick" if is_quick else "")
    return write(found, results, stem), [*report.unstable(found), *report.ours_left_out(found)]


def write(results: Mapping[str, Any], folder: Path, stem: str) -> Path:
    """The data as `<stem>.json`, the plots, and the table that shows them, `<stem>.md`, last."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    pictures = plots.plot(results, folder, stem)
    table = folder / f"{stem}.md"
    table.write_text(report.markdown(results, pictures))
    return table


def tune_and_write(tool: Tool, work: Path, results: Path, precision: str, window: int) -> str:
    """Sweep the settings; write and return their table."""
    (wanted,) = _chosen((precision,), needs_fp32=False)
    here = machine.this_machine()
    repository = work / "tune" / wanted
    export_depth(repository, variants.Variant(wanted))
    data = run.inputs(work)["depth"]
    settings, rule = tune.settings(here.cores), tune.chosen(repository, DEPTH_NETWORK, Cores.found())
    loads = [Load("concurrency", count, max(window, count)) for count in _TUNED_AT]
    found = tune.tried(tool, repository, data, settings, loads, lambda line: print(line, flush=True))
    text = (
        f"# Instances × threads × batch × delay on {here.title}\n\nDepth Small, {wanted}, photos of mixed sizes to "
        f"8-bit PNG, by perf_analyzer. Revision {machine.revision()}.\n\n"
        + tune.table(found, _TUNED_AT)
        + f"\n\n{tune.verdict(found, rule, _TUNED_AT)}\n"
    )
    results.mkdir(parents=True, exist_ok=True)
    (results / f"{here.slug}-tune-{wanted}.md").write_text(text)
    return text


def _chosen(names: Sequence[str], needs_fp32: bool = True) -> tuple[Precision, ...]:
    found: tuple[Precision, ...] = tuple(precision for precision in get_args(Precision) if precision in names)
    if len(found) != len(set(names)):
        raise DepthfaceError(f"There is no such precision. Choose from: {', '.join(get_args(Precision))}.")
    if found and needs_fp32 and "fp32" not in found:
        raise DepthfaceError("All else is held against fp32. Add --precision fp32.")
    return found
