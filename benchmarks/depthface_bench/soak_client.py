"""`make soak`: one client in hundreds of short threads and in a pool of forked processes, round after round.

Every photo is first asked for alone. In each round `threads` threads begin, ask once and end, while `processes` forked
from this one ask too, by the same client, which was in use before the fork. After a round the process has as many file
descriptors as after the first, or it leaks. Exit 1 for one wrong answer, one error, or descriptors that grow.
"""

from __future__ import annotations

import gc
import multiprocessing
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
import psutil

from depthface.errors import DepthfaceError
from depthface.families import card_named
from depthface_bench.photos import crowd
from depthface_bench.servers import Process, serving
from depthface_bench.soak import PACK
from depthface_client import Client
from depthface_export import pipeline
from depthface_export.job import Job
from depthface_export.weights import locate

MODEL = f"face_detection_{PACK}"
SIZES = ((640, 640), (640, 320), (320, 640), (480, 320), (320, 480), (400, 400))
ASKS_OF_A_PROCESS = 4
TOLERANCE_PX = 0.01
"""What boxes may differ by between a photo alone and one in a batch."""


@dataclass(frozen=True)
class Asked:
    """A photo, and what it is answered with alone."""

    photo: bytes
    boxes: npt.NDArray[np.float32]


@dataclass
class Rounds:
    """What came of each request, and descriptors and MB of this process after each round."""

    outcomes: Counter[str] = field(default_factory=Counter)
    descriptors: list[int] = field(default_factory=list)
    memory_mb: list[float] = field(default_factory=list)


_client: Client
_asked: list[Asked]


@click.command()
@click.option("--minutes", default=10.0, show_default=True)
@click.option("--threads", default=200, show_default=True)
@click.option("--processes", default=8, show_default=True)
@click.option("--protocol", type=click.Choice(["http", "grpc"]), default="http", show_default=True)
def main(minutes: float, threads: int, processes: int, protocol: str) -> None:
    """Ask by one client from everywhere at once, and see that it neither errs nor leaks."""
    with tempfile.TemporaryDirectory() as temporary:
        repository = Path(temporary, "repository")
        card = card_named(PACK)
        pipeline.export(Job(card, locate(card, "synthetic"), repository))
        with serving(repository) as served:
            rounds = _soak(_url(served, protocol), minutes * 60, threads, processes)
    raise SystemExit(_report(rounds))


def _url(served: Process, protocol: str) -> str:
    if protocol == "http":
        return served.host
    (triton,) = psutil.Process(served.pid).children()
    (port,) = [part.partition("=")[2] for part in triton.cmdline() if part.startswith("--grpc-port=")]
    return f"grpc://127.0.0.1:{port}"


def _soak(url: str, seconds: float, threads: int, processes: int) -> Rounds:
    global _client, _asked
    rounds = Rounds()
    with Client(url, timeout_s=300, retries=5) as _client:
        _asked = [_alone(width, height) for width, height in SIZES]
        assert all(len(each.boxes) for each in _asked), "a photo without a face tells nothing"
        started = time.monotonic()
        while time.monotonic() - started < seconds:
            rounds.outcomes.update(_round(threads, processes))
            gc.collect()
            this = psutil.Process()
            rounds.descriptors.append(this.num_fds())
            rounds.memory_mb.append(this.memory_full_info().uss / 1e6)
    return rounds


def _alone(width: int, height: int) -> Asked:
    photo = crowd(3, width + height, (height, width))
    return Asked(photo, _boxes(photo))


def _boxes(photo: bytes) -> npt.NDArray[np.float32]:
    return np.array([face.box for face in _client.faces(photo, model=MODEL)], np.float32).reshape(-1, 4)


def _round(threads: int, processes: int) -> list[str]:
    outcomes: list[str] = []
    short = [threading.Thread(target=lambda index=index: outcomes.append(_ask(index))) for index in range(threads)]
    for thread in short[: threads // 2]:
        thread.start()
    with multiprocessing.get_context("fork").Pool(processes) as pool:  # in the middle of everything
        others = pool.map_async(_ask, range(ASKS_OF_A_PROCESS * processes), chunksize=1)
        for thread in short[threads // 2 :]:
            thread.start()
        outcomes += others.get(600)
        pool.close()
        pool.join()
    for thread in short:
        thread.join()
    return outcomes


def _ask(index: int) -> str:
    asked = _asked[index % len(_asked)]
    try:
        boxes = _boxes(asked.photo)
    except DepthfaceError as error:
        return f"{type(error).__name__}: {error.what}"
    is_right = boxes.shape == asked.boxes.shape and bool((abs(boxes - asked.boxes) <= TOLERANCE_PX).all())
    return "right" if is_right else "wrong"


def _report(rounds: Rounds) -> int:
    """Print it all; 0 if all is well."""
    print(f"{sum(rounds.outcomes.values())} requests in {len(rounds.descriptors)} rounds: {dict(rounds.outcomes)}")
    first, most, last = rounds.descriptors[0], max(rounds.descriptors), rounds.descriptors[-1]
    print(f"descriptors after a round: first {first}, most {most}, last {last}")
    print(f"memory of this process: first {rounds.memory_mb[0]:.0f}, last {rounds.memory_mb[-1]:.0f} MB")
    is_well = set(rounds.outcomes) == {"right"} and most <= first
    return 0 if is_well else 1


if __name__ == "__main__":
    main()
