"""One run, whole: everything is measured one after the other, on the same photos and weights, and put down as data."""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from depthface.contract import ONNX_FILE
from depthface.families.depth_anything_v2.processing import preprocess
from depthface.families.insightface.processing import letterboxes
from depthface_bench import embeddings, growth, limits, machine, photos, placement, repositories, services, ways
from depthface_bench.perf_analyzer import input_data
from depthface_bench.plan import Plan
from depthface_bench.rounds import in_turn
from depthface_bench.servers import Process, serving
from depthface_bench.setup import Tool
from depthface_bench.sweep import Subject, swept
from depthface_bench.variants import FP32, Variant
from depthface_client import Client

__all__ = ["DEPTH_SIZES", "FACES_A_PHOTO", "inputs", "measure", "prepare"]

DEPTH_SIZES = ((1920, 1280), (4000, 3000))
"""Width and height of the photos that the ways are compared on."""

FACES_A_PHOTO = 6
FACE_PHOTOS = 3
"""One before each kind of background."""

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
        "limits": _limits(exported[FP32], here.cores, plan),
        "rounds": [],
        "driven": [],
        "growth": [],
    }
    report("limits measured")
    with ExitStack() as stack:
        served = {variant: stack.enter_context(serving(folder)) for variant, folder in exported.items()}
        clients = {v: stack.enter_context(Client(one.host, timeout_s=600)) for v, one in served.items()}
        depth_service = stack.enter_context(services.serving("depth"))
        face_service = stack.enter_context(services.serving("faces", pack))
        depth = ways.depth_ways(depth_service.host, clients, exported, here.cores, stack)
        for width, height in DEPTH_SIZES:
            some = [photos.sized(width, height, index) for index in range(plan.photos)]
            for way in depth:
                ways.same_size(some[0], way.call(some[0]))
            found = in_turn(depth, some, plan.at_once, plan.rounds)
            results["rounds"] += [asdict(one) | {"task": "depth", "photo": f"{width}×{height}"} for one in found]
            report(f"depth at {width}×{height}: {plan.rounds} rounds")
        with_faces = {v: client for v, client in clients.items() if repositories.has_faces(exported[v])}
        faces = ways.face_ways(face_service.host, with_faces, pack, here.cores)
        crowds = [photos.crowd(FACES_A_PHOTO, seed) for seed in range(FACE_PHOTOS)]
        for way in faces:
            for crowd in crowds:
                ways.same_count(FACES_A_PHOTO, way.call(crowd))
        found = in_turn(faces, crowds, plan.at_once, plan.rounds)
        results["rounds"] += [asdict(one) | {"task": "faces", "photo": f"{FACES_A_PHOTO} faces"} for one in found]
        report(f"faces: {plan.rounds} rounds")
        embedding_services = {kind: stack.enter_context(services.serving(kind)) for kind in embeddings.KINDS}
        post = {kind: ways.posted(one.host) for kind, one in embedding_services.items()}
        results["rounds"] += embeddings.measure(post, clients, here.cores, plan.photos, plan.rounds)
        report(f"embeddings: {plan.rounds} rounds")
        results["placement"] = placement.measure(served[FP32].host, DEPTH_SIZES, plan.link_mbit_s, plan.few_rounds)
        report("preprocessing here and there")
        results["start"] = [  # after the work: what they have grown to
            *(_started("server", variant.name, one) for variant, one in served.items()),
            _started("service", "fp32", depth_service) | {"task": "depth"},
            _started("service", "fp32", face_service) | {"task": "faces"},
            *(
                _started("service", "fp32", one) | {"task": embeddings.TASKS[kind]}
                for kind, one in embedding_services.items()
            ),
        ]
        _keep(work, results)
    # One server at a time from here on: its memory and its latency are its own.
    for index, (variant, folder) in enumerate(exported.items()):
        is_whole = index < plan.precisions or variant.provider != "cpu"
        with serving(folder) as one, Client(one.host, timeout_s=600) as client:
            results["start"].append(_started("server", variant.name, one))
            for subject in _subjects(variant.name, data)[: 1 + repositories.has_faces(folder)]:
                concurrency = plan.concurrency if is_whole else plan.concurrency_else
                results["driven"] += swept(
                    tool, one, subject, replace(plan, concurrency=concurrency), here.cores, report
                )
                _keep(work, results)
            if is_whole:
                results["growth"] += _grown(one, client, variant.name, repositories.has_faces(folder), plan)
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


def _limits(repository: Path, threads: int, plan: Plan) -> Results:
    network = repository / f"{repositories.DEPTH}_network" / "1" / ONNX_FILE
    counted = {}
    for width, height in DEPTH_SIZES:
        pixels, _ = preprocess(photos.sized(width, height))
        counted[f"{width}×{height}"] = limits.gflop(network, {"pixels": pixels[None]})
    return {
        "gemm_gflop_s": {
            "fp32": limits.gemm_gflop_s("fp32", threads, plan.rounds),
            "bf16": limits.gemm_gflop_s("bf16", threads, plan.rounds),
        },
        "bandwidth_gb_s": limits.bandwidth_gb_s(threads, plan.rounds),
        "gflop": counted | {f"{FACES_A_PHOTO} faces": _face_gflop(repository)} | embeddings.gflop(repository),
    }


def _face_gflop(repository: Path) -> float:
    """Of a photo's faces: the detector at its automatic sizes once, the recogniser on each face."""
    detector, recognizer = (
        repository / f"face_{repositories.PACK}_{kind}" / "1" / ONNX_FILE for kind in ("detector", "recognizer")
    )
    photo = np.asarray(photos.opened(photos.crowd(FACES_A_PHOTO)))
    fed = {name: value[None] for name, value in letterboxes(photo, 0.5, 0).items()}
    faces = np.zeros((FACES_A_PHOTO, 112, 112, 3), np.uint8)
    return limits.gflop(detector, fed) + limits.gflop(recognizer, {"faces": faces})


def inputs(work: Path) -> dict[str, Path]:
    """The photos that perf_analyzer sends: of mixed sizes for depth, crowds for faces."""
    found = {"depth": work / "depth.json", "faces": work / "faces.json"}
    crowds = [photos.crowd(FACES_A_PHOTO, seed) for seed in range(FACE_PHOTOS)]
    for task, some in (("depth", photos.mixed()), ("faces", crowds)):
        found[task].write_text(input_data([{"image": photo} for photo in some]))
    return found


def _subjects(precision: str, data: dict[str, Path]) -> list[Subject]:
    of_depth = (f"{repositories.DEPTH}_network",)
    of_faces = tuple(f"face_{repositories.PACK}_{kind}" for kind in ("detector", "recognizer"))
    return [
        Subject("depth", precision, repositories.MEASURED_DEPTH, data["depth"], of_depth),
        Subject("faces", precision, repositories.MEASURED_FACES, data["faces"], of_faces),
    ]


def _started(kind: str, precision: str, one: Process) -> dict[str, Any]:
    return {"kind": kind, "precision": precision, "start_s": one.start_s, "memory_bytes": one.memory_bytes()}
