"""`make soak`: good and bad photos of all sizes to both families at once, for as long as one likes.

Every photo is first asked for alone, and every later answer held against that one. All the while the memory of the
server's processes, its part of /dev/shm and its file descriptors are measured; after the warm-up (the first third)
they have to be flat. A quantity grows if a line through it rises by more than `MAX_GROWTH` over the time measured, and
by more than twice its standard error. Of /dev/shm each region may besides grow by the one step that Triton grows it by
(`shm-growth-byte-size`, 1 MiB) when large tensors happen to meet in it; it never shrinks. Exit 1 for one wrong answer,
one process that died, or one thing that grows.
"""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.resources import files
from io import BytesIO
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
import psutil
from PIL import Image

from depthface.errors import ClientError, InvalidInput, ServerOverloaded
from depthface.families import card_named
from depthface_bench.photos import crowd, jpeg
from depthface_bench.repositories import DEPTH
from depthface_bench.servers import Process, serving
from depthface_client import Client
from depthface_export import pipeline
from depthface_export.job import Job
from depthface_export.weights import locate

PACK = "buffalo_l"
MAX_GROWTH = 0.02
WARM_UP = 1 / 3
SAMPLE_S = 2.0
SHM = Path("/dev/shm")
SHM_STEP_MB = 2**20 / 1e6

Answer = Mapping[str, npt.NDArray[np.float32]]
Ask = Callable[[Client], Answer]


@dataclass
class Tally:
    """What happened: requests by name, what was wrong, and the measurements `(seconds, MB, MB of shm, descriptors)`,
    and the MB of each process after the warm-up and at the end; `regions` of /dev/shm."""

    answered: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    samples: list[tuple[float, float, float, float]] = field(default_factory=list)
    warm: dict[str, float] = field(default_factory=dict)
    end: dict[str, float] = field(default_factory=dict)
    regions: int = 0


@click.command()
@click.option("--minutes", default=30.0, show_default=True)
@click.option("--at-once", default=4, show_default=True, help="Requests under way: enough to keep two cores busy.")
def main(minutes: float, at_once: int) -> None:
    """Keep a server busy, and see that it neither errs nor grows."""
    with tempfile.TemporaryDirectory() as temporary:
        repository = Path(temporary, "repository")
        for name, weights in ((DEPTH, "random"), (PACK, "synthetic")):
            card = card_named(name)
            pipeline.export(Job(card, locate(card, weights), repository))
        with serving(repository) as served:
            before = _processes(served)
            tally = _soak(served, minutes * 60, at_once)
            if _processes(served) != before:
                tally.wrong.append("a process of the server died, or was started anew")
    raise SystemExit(_report(tally, at_once))


def _soak(served: Process, seconds: float, at_once: int) -> Tally:
    asks = _asks()
    with Client(served.host, timeout_s=120) as client:
        alone = {name: _outcome(ask, client) for name, ask in asks.items()}
        # ONNX Runtime keeps what the largest batch took: batch each kind with itself before measuring.
        with ThreadPoolExecutor(at_once) as pool:
            for ask in asks.values():
                list(pool.map(_outcome, [ask] * at_once, [client] * at_once))
    tally, lock = Tally(), threading.Lock()
    started = time.monotonic()

    def work(seed: int) -> None:
        choice = random.Random(seed)
        order = choice.sample(list(asks), len(asks))  # everything once, so that all sizes have been there
        with Client(served.host, timeout_s=120) as client:
            while time.monotonic() - started < seconds:
                name = order.pop() if order else choice.choice(list(asks))
                difference = _difference(alone[name], _outcome(asks[name], client))
                with lock:
                    tally.answered[name] += 1
                    if difference:
                        tally.wrong.append(f"{name}: {difference}")

    with ThreadPoolExecutor(at_once) as pool:
        workers = [pool.submit(work, seed) for seed in range(at_once)]
        while not all(worker.done() for worker in workers):
            elapsed = time.monotonic() - started
            tally.samples.append((elapsed, *_measured(served)))
            tally.end = _memory(served)
            if not tally.warm and elapsed > WARM_UP * seconds:
                tally.warm = tally.end
            time.sleep(SAMPLE_S)
        for worker in workers:
            worker.result()
    tally.regions = len(_regions(served))
    return tally


def _asks() -> dict[str, Ask]:
    """Each kind of request with each kind of photo, by name."""
    table = Image.open(str(files("skimage") / "data" / "coffee.png")).convert("RGB")
    photos = {
        f"{width}×{height}": jpeg(table.resize((width, height)))
        for width, height in ((40, 30), (30, 40), (640, 480), (480, 640), (1920, 640), (4000, 3000))
    }
    photos["PNG"] = _png(table)
    people = crowd(6)
    nobody = photos["640×480"]
    whole = photos["1920×640"]
    bad = {"empty": b"", "text": b"not a photo", "truncated": whole[: len(whole) // 2], "noise": bytes(range(256)) * 40}
    bad["too narrow"] = _png(table.resize((2000, 27)))
    asks: dict[str, Ask] = {}
    for name, photo in (photos | bad).items():
        asks[f"depth {name}"] = lambda client, photo=photo: {"depth": client.depth(photo).array}  # type: ignore[misc]
        if name != "too narrow":  # which has room for a face
            asks[f"faces {name}"] = lambda client, photo=photo: _faces(client, photo)  # type: ignore[misc]
    asks["faces crowd"] = lambda client: _faces(client, people)
    asks["faces nobody"] = lambda client: _faces(client, nobody)
    asks["png 640×480"] = lambda client: {
        "png8": np.asarray(Image.open(BytesIO(client.depth_png(nobody, bits=8))), np.float32)
    }
    return asks


def _faces(client: Client, photo: bytes) -> Answer:
    found = client.faces(photo, model=f"face_analysis_{PACK}")
    return {
        "boxes": np.array([face.box for face in found], np.float32).reshape(-1, 4),
        "embeddings": np.array([face.embedding for face in found], np.float32).ravel(),
    }


def _png(picture: Image.Image) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _outcome(ask: Ask, client: Client) -> Answer | str:
    """The answer, or the kind of the error."""
    while True:
        try:
            return ask(client)
        except ServerOverloaded:  # what it is there for: come again
            time.sleep(0.1)
        except (InvalidInput, ClientError) as error:
            return f"{type(error).__name__}: {error}".removesuffix(f" [request {error.request_id}]")


def _difference(alone: Answer | str, now: Answer | str) -> str:
    """In what the two differ, beyond the arithmetic of another batch: 1e-4 of the range, one grey level."""
    if isinstance(alone, str) or isinstance(now, str):
        same_kind = isinstance(alone, str) and isinstance(now, str) and alone == now
        return "" if same_kind else f"{alone if isinstance(alone, str) else 'an answer'} was, {str(now)[:200]} is"
    for name, expected in alone.items():
        if expected.shape != now[name].shape:
            return f"{name} has shape {now[name].shape}, not {expected.shape}"
        if expected.size == 0:
            continue
        allowed = 1.0 if name.startswith("png") else 1e-4 * max(float(np.ptp(expected)), 1.0)
        error = float(np.abs(expected - now[name]).max())
        if not error <= allowed:
            return f"{name} differs by {error:.2g}"
    return ""


def _tree(served: Process) -> list[psutil.Process]:
    root = psutil.Process(served.pid)
    return [root, *root.children(recursive=True)]


def _processes(served: Process) -> set[int]:
    return {process.pid for process in _tree(served)}


def _measured(served: Process) -> tuple[float, float, float]:
    """Memory (proportional set sizes: shared pages counted once) and /dev/shm in MB, and file descriptors."""
    shm_bytes = sum(512 * path.stat().st_blocks for path in _regions(served))
    return sum(_memory(served).values()), shm_bytes / 1e6, float(sum(each.num_fds() for each in _tree(served)))


def _regions(served: Process) -> list[Path]:
    return [*SHM.glob(f"depthface_{served.pid}_*")]


def _memory(served: Process) -> dict[str, float]:
    """MB of each process, by its model's name."""
    found: dict[str, float] = {}
    for process in _tree(served):
        models = [
            Path(part).parents[1].name for part in process.cmdline() if part.endswith(("/model.py", "/model.onnx"))
        ]
        name = models[0] if models else process.name()
        found[name] = found.get(name, 0.0) + process.memory_full_info().pss / 1e6
    return found


def _report(tally: Tally, at_once: int) -> int:
    """Print it all; 0 if all is well."""
    seconds = tally.samples[-1][0]
    total = sum(tally.answered.values())
    print(f"{total} requests of {len(tally.answered)} kinds in {seconds / 60:.1f} minutes, {at_once} at once")
    print(f"wrong answers: {len(tally.wrong)}")
    for line in tally.wrong[:10]:
        print(f"  {line}")
    after = np.array([sample for sample in tally.samples if sample[0] >= WARM_UP * seconds])
    hours = (after[:, 0] - after[:, 0].mean()) / 3600
    grows = False
    quantities = (("memory", "MB", 0.0), ("/dev/shm", "MB", tally.regions * SHM_STEP_MB), ("descriptors", "", 0.0))
    for column, (name, unit, by_chance) in enumerate(quantities, start=1):
        values = after[:, column]
        slope = float((hours @ values) / (hours @ hours))
        rest = values - values.mean() - slope * hours
        error = float(np.sqrt((rest @ rest) / (len(values) - 2) / (hours @ hours)))
        rise = slope * float(np.ptp(hours))
        is_rising = rise > MAX_GROWTH * values.mean() + by_chance and slope > 2 * error
        grows |= is_rising
        print(
            f"{name}: {values.mean():.0f} {unit} ({values.min():.0f}–{values.max():.0f}), slope {slope:+.1f} ± "
            f"{2 * error:.1f} {unit}/h, {rise:+.1f} over {60 * float(np.ptp(hours)):.0f} minutes: "
            f"{'GROWS' if is_rising else 'flat'}"
        )
    tenths = [f"{part[:, 2].max():.0f}" for part in np.array_split(after, 10)]
    print(f"/dev/shm over time: {', '.join(tenths)} MB, in {tally.regions} regions")
    rises = sorted(((tally.end[name] - tally.warm.get(name, 0.0), name) for name in tally.end), reverse=True)
    print("most after the warm-up: " + ", ".join(f"{name} {rise:+.0f} MB" for rise, name in rises[:3]))
    return 1 if tally.wrong or grows else 0


if __name__ == "__main__":
    main()
