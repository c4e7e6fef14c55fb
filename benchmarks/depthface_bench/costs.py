"""What this project costs besides the network: round it, until it is ready, in memory, and at rest."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt

from depthface import heap, image
from depthface.families.depth_anything_v2 import processing
from depthface_bench import photos
from depthface_bench.plain import plain_network, plain_pipeline
from depthface_bench.repositories import DEPTH, copy_depth, depth_card
from depthface_bench.servers import Process, serving
from depthface_bench.variants import FP32, Variant
from depthface_client import Client

__all__ = ["at_rest_percent", "depth_alone", "outside_ms"]

_LARGE_PX = (4000, 3000)
_SETTLED_AFTER_S, _AT_REST_S = 3.0, 10.0
_RESTED_AFTER_S = 12.0  # a network gives memory back after ten seconds (docs/operating.md)


def outside_ms(repository: Path, rounds: int) -> dict[str, list[float]]:
    """CPU time of one core for a photo of 12 megapixels, JPEG to the pixels of the grid and from its map to an 8-bit
    PNG: `exact` as the reference, and with `fast_decode`.

    Args:
        repository: with depth in it: the map is a true one, since a PNG of noise would take longer.
    """
    photo, card = photos.sized(*_LARGE_PX), depth_card()
    with ExitStack() as stack:
        answer = plain_pipeline(
            repository, card, DEPTH, ("depth",), lambda one: plain_network(repository, one, FP32, 1, stack), stack
        )
        depth = answer(photo)["depth"]
    # A process of its own, whose heap and OpenCV are set as the server's are.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=heap.keep) as one:
        return one.submit(_outside_ms, photo, depth, rounds).result()


def _outside_ms(photo: bytes, depth: npt.NDArray[np.float32], rounds: int) -> dict[str, list[float]]:
    image.use_one_thread()
    found: dict[str, list[float]] = {"exact": [], "fast_decode": []}
    for counted in range(-1, rounds):
        for name, values in found.items():
            started = time.thread_time()
            _, size = processing.preprocess(photo, fast_decode=name == "fast_decode")
            processing.postprocess({"png8"}, depth, size)
            if counted >= 0:
                values.append(1000 * (time.thread_time() - started))
    return found


def depth_alone(exported: Mapping[Variant, Path], rounds: int) -> dict[str, dict[str, list[float]]]:
    """By variant, of a server with nothing but depth in it: seconds until it is ready, and the memory it has then,
    after an answer, and when nobody has asked for a while.
    """
    photo = photos.sized(1920, 1280)
    found: dict[str, dict[str, list[float]]] = {}
    for variant, repository in exported.items():
        with tempfile.TemporaryDirectory(dir=repository.parent) as folder:
            copy_depth(repository, Path(folder))
            for _ in range(rounds):
                of_this = found.setdefault(
                    variant.name, {name: [] for name in ("start_s", "ready_gb", "answered_gb", "rested_gb")}
                )
                with serving(Path(folder)) as one, Client(one.host, timeout_s=600) as client:
                    of_this["start_s"].append(one.start_s)
                    of_this["ready_gb"].append(one.memory_bytes() / 1e9)
                    client.depth_png(photo, bits=8)
                    of_this["answered_gb"].append(one.memory_bytes() / 1e9)
                    time.sleep(_RESTED_AFTER_S)
                    of_this["rested_gb"].append(one.memory_bytes() / 1e9)
    return found


def at_rest_percent(one: Process) -> list[float]:
    """CPU time of a server that nobody asks, of one core."""
    time.sleep(_SETTLED_AFTER_S)
    before, started = one.cpu_s(), time.perf_counter()
    time.sleep(_AT_REST_S)
    return [100 * (one.cpu_s() - before) / (time.perf_counter() - started)]
