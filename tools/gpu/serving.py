"""The embedded Triton end to end: photos in, PNGs or faces out, beside what GPU and processors could do alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import bounds
import numpy as np
import psutil
import requests
from networks import Bound, face_feed, session_of
from setting import Setting, median_ms
from ways import ARITHMETIC

from depthface.config import read as read_config
from depthface.contract import EXPORTED_CONFIG
from depthface.families.depth_anything_v2 import processing
from depthface.families.insightface.processing import letterboxes
from depthface.tasks.faces import DEFAULT_MIN_SCORE, DET_SIZE_AUTO
from depthface_bench import photos, setup
from depthface_bench.perf_analyzer import Load, drive, input_data
from depthface_bench.repositories import DEPTH_NETWORK, MEASURED_DEPTH, MEASURED_FACES, PACK
from depthface_bench.servers import serving
from depthface_export import texts
from depthface_server.installation import Installation

__all__ = ["depth", "faces"]

PHOTO = (1920, 1280)
"""Width and height."""

AIM_SHARE = 0.6
"""Of the lower bound."""

_BATCH = 8
_SAMPLE_S = 0.1


@dataclass(frozen=True)
class Subject:
    """What is served and driven.

    Attributes:
        inside: the networks that the model asks.
        gpu_s: photos a second that the GPU could do.
        cpu_s: the same of all processors, without the networks.
    """

    table: str
    repository: Path
    model: str
    sent: Sequence[bytes]
    inside: tuple[str, ...]
    gpu_s: float
    cpu_s: float


def depth(setting: Setting) -> None:
    """JPEGs of 1920×1280 to 8-bit PNGs, by Small in fp16; in a rehearsal in fp32, which a CPU computes quicker.

    Raises:
        ServeError: the embedded Triton cannot run here; nothing is measured then.
    """
    Installation.find()
    arithmetic = ARITHMETIC[0] if setting.on_gpu else ARITHMETIC[1]
    precision = arithmetic.precision
    sent = [photos.sized(*PHOTO, index) for index in range(3)]
    network = setting.network(precision, DEPTH_NETWORK)
    pixels, _ = processing.preprocess(sent[0], precision)
    batch = _BATCH if setting.on_gpu else 1
    session = session_of(setting, network, arithmetic)
    gpu_s = (
        1000 * batch / median_ms(Bound(session, {"pixels": np.stack([pixels] * batch)}, setting), setting.scale.seconds)
    )
    (depth,) = session.run(None, {"pixels": pixels[None]})
    del session  # its memory on the GPU is the server's
    cpu_s = bounds.photos_a_second("depth_work", (sent[0], depth[0], precision), setting.cores, 2)
    subject = Subject(
        f"End to end: depth, {PHOTO[0]}×{PHOTO[1]} JPEG to 8-bit PNG, Small in {precision}",
        *(setting.repository(precision), MEASURED_DEPTH, sent, (DEPTH_NETWORK,), gpu_s, cpu_s),
    )
    _served(setting, subject)


def faces(setting: Setting) -> None:
    """Drawn crowds of six to boxes, keypoints and embeddings.

    Raises:
        ServeError: as `depth` does.
    """
    Installation.find()
    sent = [photos.crowd(photos.FACES_A_PHOTO, seed) for seed in range(photos.FACE_PHOTOS)]
    names = tuple(f"face_{PACK}_{kind}" for kind in ("detector", "recognizer"))
    batch = _BATCH if setting.on_gpu else 1
    ms = 0.0
    for name, a_photo in zip(names, (1, photos.FACES_A_PHOTO), strict=True):
        session = session_of(setting, setting.network("fp32", name), ARITHMETIC[1])  # as served
        if a_photo == 1:
            photo = np.asarray(photos.opened(sent[0]))
            fed = letterboxes(photo, DEFAULT_MIN_SCORE, DET_SIZE_AUTO)
            outputs = [output.name for output in session.get_outputs()]
            found = dict(zip(outputs, session.run(None, {key: one[None] for key, one in fed.items()}), strict=True))
        ms += a_photo * median_ms(Bound(session, face_feed(session, batch), setting), setting.scale.seconds) / batch
        del session
    keypoints = found["keypoints"][0, : int(found["count"][0, 0])]
    cpu_s = bounds.photos_a_second("face_work", (sent[0], keypoints), setting.cores, 2)
    table = f"End to end: {photos.FACES_A_PHOTO} faces at {photos.CROWD[1]}×{photos.CROWD[0]}, with embeddings"
    _served(setting, Subject(table, setting.repository("fp32"), MEASURED_FACES, sent, names, 1000 / ms, cpu_s))


def _served(setting: Setting, subject: Subject) -> None:
    setting.fact(f"{subject.model}: the GPU alone, batches of {_BATCH}, photos a second", round(subject.gpu_s, 1))
    what = f"{setting.cores} cores, decode to encode without a network"
    setting.fact(f"{subject.model}: {what}, photos a second", round(subject.cpu_s, 1))
    best = _swept(setting, subject, "as exported", setting.scale.at_once)
    if best is None:
        return
    fastest, at_once = best
    exported = _set_processes(subject, 1)
    for count in setting.scale.processes:
        with setting.part(f"{subject.model} with {count} processes"):
            _set_processes(subject, count)
            found = _swept(setting, subject, f"{count} processes", (at_once,))
            fastest = max(fastest, found[0]) if found else fastest
    _set_processes(subject, exported)
    bound = min(subject.gpu_s, subject.cpu_s)
    name = "the GPU's" if subject.gpu_s < subject.cpu_s else "the processors'"
    what = f"{subject.model} end to end ≥ {AIM_SHARE:.0%} of the lower bound"
    text = f"{what}, {name} {bound:.0f}/s; reached {fastest:.0f}/s"
    setting.aim(text, fastest / bound, fastest / bound >= AIM_SHARE)
    setting.fact(f"{subject.model}: share of the lower bound, {name}", round(fastest / bound, 3))


def _swept(setting: Setting, subject: Subject, how: str, loads: Sequence[int]) -> tuple[float, int] | None:
    """Serve, drive, put down; return the best photos a second and at how many at once, or None."""
    tool = setup.find()
    data = setting.work / f"{subject.model}.json"
    data.write_text(input_data([{"image": photo} for photo in subject.sent]))
    reached: list[tuple[float, int]] = []
    with ExitStack() as stack:
        served = stack.enter_context(serving(subject.repository))
        setting.fact(f"{subject.model}, {how}: seconds until it was ready", round(served.start_s, 1))
        _warm_up(served.host, subject, max(loads))
        for count in loads:
            with setting.part(f"{subject.model}, {how}, {count} at once"), _watched() as watched:
                load = Load(
                    "concurrency",
                    count,
                    max(30, 10 * count) if setting.on_gpu else 3 * count,  # on a GPU about a second
                    tolerance_percent=15 if setting.on_gpu else 60,
                    windows=setting.scale.windows,
                )
                found = drive(tool, served.host, subject.model, data, load, subject.inside)
                reached.append((found.throughput, count))
                setting.row(
                    subject.table,
                    how=how,
                    at_once=count,
                    photos_a_second=round(found.throughput, 1),
                    p50_ms=round(found.p50_ms, 1),
                    p99_ms=round(found.p99_ms, 1),
                    of_gpu_bound=round(found.throughput / subject.gpu_s, 3),
                    of_cpu_bound=round(found.throughput / subject.cpu_s, 3),
                    **{
                        f"{step.model} ms, waiting + at work": f"{step.queue_ms:.1f} + {step.compute_ms:.1f}"
                        for step in found.steps
                    },
                    **watched(),
                )
    return max(reached, default=None)


def _warm_up(host: str, subject: Subject, at_once: int) -> None:
    """Have every size of batches met more than once: each then gets a session of its own, which takes 0.6 s."""
    url = f"http://{host}/v2/models/{subject.model}/infer"
    headers = {"Inference-Header-Content-Length": "0", "Content-Type": "application/octet-stream"}

    def ask(index: int) -> None:
        photo = subject.sent[index % len(subject.sent)]
        with requests.Session() as session:
            session.trust_env = False  # no proxy is asked for this machine
            session.post(url, data=photo, headers=headers, timeout=120).raise_for_status()

    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(ask, range(8 * at_once)))


def _set_processes(subject: Subject, count: int) -> int:
    """Have the public model run by so many processes; return how many there were."""
    path = subject.repository / subject.model / EXPORTED_CONFIG
    config = read_config(path)
    before = int(config.instance_group[0].count)
    config.instance_group[0].count = count
    texts.write_config(config, path)
    return before


@contextmanager
def _watched() -> Iterator[Callable[[], dict[str, float]]]:
    """Sample how busy the processors and the GPU are; what is yielded returns the means so far, in percent."""
    ended = threading.Event()
    gpu: list[int] = []
    asked = _utilisation()

    def watch() -> None:
        while asked is not None and not ended.wait(_SAMPLE_S):
            gpu.append(asked())

    def means() -> dict[str, float]:
        busy = {"processors_busy_percent": psutil.cpu_percent()}
        return busy | ({"gpu_busy_percent": round(float(np.mean(gpu)), 1)} if gpu else {})

    psutil.cpu_percent()  # what it says is of the time since it was last asked
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield means
    finally:
        ended.set()
        thread.join()


def _utilisation() -> Callable[[], int] | None:
    """Return what NVML says of the first GPU: the share of the last moments in which a kernel ran, percent."""
    import pynvml

    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        pynvml.nvmlDeviceGetUtilizationRates(handle)
    except pynvml.NVMLError:
        return None
    return lambda: int(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
