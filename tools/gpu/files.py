"""What is measured: networks with seeded random weights, exported here by the real stages, all at the same time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setting import Setting

import depthface_standins
from depthface.families import card_named
from depthface.weights import Random
from depthface_bench import repositories
from depthface_bench.repositories import DEPTH, PACK
from depthface_export import attention, onnx

__all__ = ["export", "export_all", "jobs", "pack_of"]


def jobs(setting: Setting) -> dict[str, Callable[[], None]]:
    """Return what is exported, by name; the longest first."""
    larger = {size: (lambda size=size: _larger(setting, size)) for size in reversed(setting.scale.larger)}
    return {
        **larger,
        "small-fp16": lambda: repositories.export_depth(setting.repository("fp16"), setting.variant("fp16")),
        "small-fp32-and-faces": lambda: _fp32(setting),
        "small-in-operators": lambda: _in_operators(setting),
    }


def export_all(setting: Setting) -> None:
    """Export everything, each job in a process of its own, with its share of the cores."""
    names = list(jobs(setting))
    at_once = len(names) if setting.on_gpu else 1
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(lambda name: _in_a_process(setting, name, max(1, setting.cores // at_once)), names))


def export(setting: Setting, name: str) -> None:
    """Do one job."""
    jobs(setting)[name]()


def pack_of(setting: Setting) -> Path:
    """Return the folder of the face pack."""
    return setting.work / PACK


def _in_a_process(setting: Setting, name: str, threads: int) -> None:
    with setting.part(f"export of {name}"):
        started = time.perf_counter()
        subprocess.run(
            [*sys.orig_argv, "--job", name],
            check=True,
            timeout=max(1, setting.until - time.time()),
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        )
        setting.fact(f"exported {name}, seconds", round(time.perf_counter() - started, 1))


def _fp32(setting: Setting) -> None:
    variant, folder = setting.variant("fp32"), setting.repository("fp32")
    repositories.export_depth(folder, variant)
    repositories.export_faces(repositories.write_pack(setting.work), folder, variant)


def _larger(setting: Setting, size: str) -> None:
    """The network's file alone: what it computes is compared on the GPU."""
    card = card_named(DEPTH.replace("small", size))
    (source,) = depthface_standins.module_of(card).load(card, Random(), "fp16").values()
    path = setting.larger(size)
    onnx.onnx_from_source(source, card.networks[0], path)
    attention.fuse(path)


def _in_operators(setting: Setting) -> None:
    """Small in fp16 as it was before its attention became one node."""
    card = repositories.depth_card()
    (source,) = depthface_standins.module_of(card).load(card, Random(), "fp16").values()
    onnx.onnx_from_source(source, card.networks[0], setting.in_operators)
