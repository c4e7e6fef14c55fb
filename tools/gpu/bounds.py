"""What the processors can do of a photo's work, everything but the networks: a bound of any server on them."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.synchronize import Barrier
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["depth_work", "face_work", "photos_a_second"]

_READY: Barrier | None = None


def photos_a_second(work: str, arguments: tuple[Any, ...], processes: int, seconds: float) -> float:
    """Return how many photos a second `work`, a function of this module by name, is done for, in so many processes."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes)
    with context.Pool(processes, _begin, (barrier,)) as pool:
        return sum(pool.starmap(_count, [(work, arguments, seconds)] * processes, chunksize=1))


def depth_work(jpeg: bytes, depth: npt.NDArray[np.float32], precision: str) -> None:
    """JPEG to the network's pixels, and the network's depth to an 8-bit PNG."""
    from depthface.families.depth_anything_v2 import processing

    _, size = processing.preprocess(jpeg, precision)
    processing.postprocess({"png8"}, depth, size)


def face_work(jpeg: bytes, keypoints: npt.NDArray[np.float32]) -> None:
    """JPEG to the detector's squares, and each face, `(F, 5, 2)`, cut out for the recogniser."""
    from depthface import image
    from depthface.families.insightface import processing
    from depthface.tasks.faces import DEFAULT_MIN_SCORE, DET_SIZE_AUTO

    photo = image.decode(jpeg)
    processing.letterboxes(photo, DEFAULT_MIN_SCORE, DET_SIZE_AUTO)
    for points in keypoints:
        processing.align(photo, points)


def _begin(barrier: Barrier) -> None:
    global _READY
    import cv2

    cv2.setNumThreads(1)  # as in the server's pipelines
    _READY = barrier


def _count(work: str, arguments: tuple[Any, ...], seconds: float) -> float:
    do = globals()[work]
    do(*arguments)
    assert _READY is not None
    _READY.wait(60)  # all measure at the same time
    done, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < seconds:
        do(*arguments)
        done += 1
    return done / passed
