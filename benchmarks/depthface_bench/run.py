"""One run, whole: everything is measured one after the other, on the same photos and weights, and put down as data."""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from depthface_bench import comparison, costs, growth, limits, machine, placement, repositories, ways
from depthface_bench.comparison import Ground
from depthface_bench.perf_analyzer import input_data
from depthface_bench.plan import Plan
from depthface_bench.servers import Process, serving
from depthface_bench.setup import Tool
from depthface_bench.sweep import Subject, swept
from depthface_bench.tasks import DEPTH_SIZES, TASKS, Task
from depthface_bench.variants import FP32, Variant
from depthface_client import Client

__all__ = ["inputs", "measure", "prepare"]

Results = dict[str, Any]


def prepare(work: Path, chosen: Sequence[Variant]) -> tuple[Path, dict[Variant, Path]]:
    """The face pack, and a repository with depth, faces and embeddings for each variant; kept for the next run."""
    work.mkdir(parents=True, exist_ok=True)
    pack = repositories.write_pack(work)
    found = {variant: work / variant.name.replace(" ", "-") for variant in chosen}
    for variant, folder in found.items():
        repositories.export_depth(folder, variant)
        repositories.export_faces(pack, folder, variant)
        repositories.export_embeddings(folder, variant)
    return pack, found


def measure(
    tool: Tool, work: Path, plan: Plan, chosen: Sequence[Variant], report: Callable[[str], None] = print
) -> Results:
    """Measure everything of `plan` of the variants `chosen`, the first of them `FP32`."""
    here = machine.this_machine()
    pack, exported = prepare(work, chosen)
    data = inputs(work)
    results: Results = {
        "machine": asdict(here) | {"title": here.title, "slug": here.slug},
        "versions": machine.versions() | {"perf_analyzer": tool.version},
        "revision": machine.revision(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "precisions": [variant.name for variant in chosen],
        "weights": "random, seed 0",
        "command": " ".join(["depthface_bench", *sys.argv[1:]]),
        "limits": _limits(here.cores, plan),
        "rounds": [],
        "peaks": [],
        "left_out": [],
        "driven": [],
        "growth": [],
        "start": [],
    }
    report("limits measured")

    def part(name: str, measured: Callable[[], Any], otherwise: Any) -> Any:
        """Return what a part of the run measures; where it fails, the others are not lost."""
        try:
            return measured()
        except Exception as error:
            results["left_out"].append(comparison.lost(name, ways.SERVER, FP32.name, error))
            report(f"LEFT OUT {name}: {error}")
            return otherwise

    with ExitStack() as stack:
        served = {variant: stack.enter_context(serving(folder)) for variant, folder in exported.items()}
        results["start"] += [_started(variant.name, one) for variant, one in served.items()]
        clients = {v: stack.enter_context(Client(one.host, timeout_s=600)) for v, one in served.items()}
        ground = Ground(pack, exported, served, clients, here.cores)
        for task in TASKS:
            results["limits"]["gflop"] |= part("operations", partial(comparison.gflop, task, ground), {})
            compared = part(task.name, partial(comparison.compare, task, ground, plan, report), comparison.Compared())
            for section, records in vars(compared).items():
                results[section] += records
            _keep(work, results)
        host = served[FP32].host
        results["placement"] = part(
            "placement", lambda: placement.measure(host, DEPTH_SIZES, plan.link_mbit_s, plan.few_rounds), []
        )
        results["costs"] = {
            "cpu_at_rest_percent": part("rest", lambda: costs.at_rest_percent(served[FP32]), []),
            "outside_ms": part("outside the network", lambda: costs.outside_ms(exported[FP32], plan.rounds), {}),
        }
        _keep(work, results)
    alone = part("depth alone", lambda: costs.depth_alone(exported, plan.few_rounds), {})
    results["costs"]["depth_alone"] = alone
    report("preprocessing here and there; start, memory and rest")
    # One server at a time from here on: its memory and its latency are its own.
    for index, (variant, folder) in enumerate(exported.items()):
        is_whole = index < plan.precisions or variant.provider != "cpu"
        driving = replace(plan, concurrency=plan.concurrency if is_whole else plan.concurrency_else)
        with serving(folder) as one, Client(one.host, timeout_s=600) as client:
            results["start"].append(_started(variant.name, one))
            for subject in _subjects(variant, folder, pack, data):
                results["driven"] += swept(tool, one, subject, driving, here.cores, report)
                _keep(work, results)
            if is_whole:
                with_faces = repositories.has_faces(folder)
                results["growth"] += part("growth", partial(_grown, one, client, variant.name, with_faces, plan), [])
                _keep(work, results)
                report(f"growth, {variant.name}")
    return results


def _grown(one: Process, client: Client, precision: str, has_faces: bool, plan: Plan) -> list[dict[str, Any]]:
    faces = plan.faces if has_faces else ()
    return [
        *growth.over_sizes(one, precision, ways.depth_of(client), plan.photo_sizes, plan.few_rounds),
        *growth.over_faces(one, precision, ways.faces_of(client), faces, plan.few_rounds),
        *growth.over_batches(one, precision, plan.batches, plan.few_rounds),
    ]


def _keep(work: Path, results: Results) -> None:
    """What there is so far, for when a long run is cut short."""
    (work / "so-far.json").write_text(json.dumps(results))


def _limits(threads: int, plan: Plan) -> Results:
    return {
        "gemm_gflop_s": {
            "fp32": limits.gemm_gflop_s("fp32", threads, plan.rounds),
            "bf16": limits.gemm_gflop_s("bf16", threads, plan.rounds),
        },
        "bandwidth_gb_s": limits.bandwidth_gb_s(threads, plan.rounds),
        "gflop": {},
    }


def inputs(work: Path) -> dict[str, Path]:
    """What perf_analyzer sends of each task that it drives: photos of mixed sizes for depth, crowds for faces."""
    found = {task.name: work / f"{task.public}.json" for task in TASKS if task.driven}
    for task in TASKS:
        if task.driven:
            requests = [{task.driven.tensor: item} for item in task.driven.items()]
            found[task.name].write_text(input_data(requests))
    return found


def _subjects(variant: Variant, repository: Path, pack: Path, data: dict[str, Path]) -> list[Subject]:
    return [
        Subject(task.name, variant.name, task.driven.model, data[task.name], _inside(task, pack), task.driven.pace)
        for task in TASKS
        if task.driven and (repository / task.driven.model).is_dir()
    ]


def _inside(task: Task, pack: Path) -> tuple[str, ...]:
    """The networks that a task's model asks."""
    return task.card(pack).serves[task.public]


def _started(precision: str, one: Process) -> dict[str, Any]:
    return {"kind": ways.SERVER, "precision": precision} | comparison.started(one)
