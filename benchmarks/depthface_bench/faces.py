"""`make bench-faces`: JPEG bytes to the boxes, keypoints, scores and embeddings of six faces, side by side in one run.

- `insightface`'s `FaceAnalysis.get` in this process: what people use today; once more without the spinning of ONNX
  Runtime's threads, which the server does without, and which is dear where other programs want the cores;
- `face_analysis_<pack>` through HTTP and the embedded Triton, one photo at a time and four at once;
- `face_detection_<pack>` the same way, one at a time: boxes, keypoints and scores alone. Also with random weights in a
  detector of det_10g's size (buffalo_l's): what it adds to the network is the same, the network is not.

All with the same files (a detector that finds drawn faces, and a recogniser of the size of w600k_r50 with random
weights), the same photos, detector sizes and number of threads, in turn, so that a drift of the machine hits all alike.
Ratios are of the same round. A network's own time is what Triton's statistics call `compute_infer`.
"""

from __future__ import annotations

import contextlib
import io
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from insightface.app import FaceAnalysis
from PIL import Image
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

from depthface.families import card_named
from depthface.families.insightface import architectures, scenes, synthetic
from depthface_bench.figures import excess, jpeg, ratio, spread
from depthface_bench.servers import serving
from depthface_export import pipeline

PACK = "drawn"
DETECTOR, RECOGNIZER = f"face_{PACK}_detector", f"face_{PACK}_recognizer"
DETECTION, ANALYSIS = f"face_detection_{PACK}", f"face_analysis_{PACK}"
LARGE_PACK = "large"
LARGE_DETECTOR, LARGE_DETECTION = f"face_{LARGE_PACK}_detector", f"face_detection_{LARGE_PACK}"
SIZE = (886, 1280)  # height, width
FACES = 6
PHOTOS = 3  # one before each kind of background
AT_ONCE = 4
BOXES = ("boxes", "scores", "keypoints")
EVERYTHING = (*BOXES, "embeddings")

Answer = dict[str, npt.NDArray[Any]]
Ask = Callable[[bytes], Answer]


@click.command()
@click.option("--rounds", default=7, show_default=True, help="Counted rounds, after one that is not.")
@click.option("--threads", default=len(os.sched_getaffinity(0)), show_default=True, help="Of InsightFace's networks.")
def main(rounds: int, threads: int) -> None:
    """Measure faces against InsightFace, side by side."""
    photos = [jpeg(Image.fromarray(scenes.draw_crowd(FACES, seed, SIZE).image)) for seed in range(PHOTOS)]
    with tempfile.TemporaryDirectory() as temporary:
        pack, large, repository = (Path(temporary, name) for name in (PACK, LARGE_PACK, "repository"))
        networks = {"detector": synthetic.detector(), "recognizer": architectures.random_model("w600k_r50")}
        _export(networks, pack, repository)
        _export({"detector": architectures.random_model("det_10g")}, large, repository)
        reference, calm = (_insightface(pack, threads, spinning) for spinning in (True, False))
        with serving(repository) as served, InferenceServerClient(served.host) as connection:
            analyse = _over_http(connection, ANALYSIS, EVERYTHING)
            detect = _over_http(connection, DETECTION, BOXES)
            detect_large = _over_http(connection, LARGE_DETECTION, BOXES)
            for photo in photos:
                _check(reference(photo), analyse(photo))
            figures = _Figures()
            for counted in range(-1, rounds):
                one = _Figures()
                for photo in photos:
                    one.reference_ms.append(_ms(reference, photo))
                    one.calm_ms.append(_ms(calm, photo))
                    one_ms, networks_ms = _ms_and_own(connection, analyse, photo, DETECTOR, RECOGNIZER)
                    one.one_at_a_time_ms.append(one_ms)
                    one.networks_ms.append(networks_ms)
                    boxes_ms, detector_ms = _ms_and_own(connection, detect, photo, DETECTOR)
                    one.boxes_ms.append(boxes_ms)
                    one.detector_ms.append(detector_ms)
                    large_boxes_ms, large_detector_ms = _ms_and_own(connection, detect_large, photo, LARGE_DETECTOR)
                    one.large_boxes_ms.append(large_boxes_ms)
                    one.large_detector_ms.append(large_detector_ms)
                one.at_once_ms.append(_ms_at_once(served.host, photos))
                served.measure_memory()
                if counted >= 0:
                    figures.add(one)
            peak_bytes = served.peak_bytes
    kilobytes = statistics.mean(len(photo) for photo in photos) / 1000
    print(
        f"\n{FACES} faces, {SIZE[1]}×{SIZE[0]}, JPEG of {kilobytes:.0f} kB to boxes, keypoints, scores and embeddings\n"
        f"{rounds} rounds of {PHOTOS} photos, {threads} threads, ms a photo: median (min–max)"
    )
    figures.print()
    print(f"\npeak memory of the server, all processes: {peak_bytes / 1e9:.2f} GB")


class _Figures:
    """Milliseconds a photo, of the photos of one round or of the rounds of a run."""

    def __init__(self) -> None:
        self.reference_ms: list[float] = []
        self.calm_ms: list[float] = []
        self.one_at_a_time_ms: list[float] = []
        self.at_once_ms: list[float] = []
        self.networks_ms: list[float] = []
        self.boxes_ms: list[float] = []
        self.detector_ms: list[float] = []
        self.large_boxes_ms: list[float] = []
        self.large_detector_ms: list[float] = []

    def add(self, one: _Figures) -> None:
        """Take up the means of a round."""
        for name, values in vars(one).items():
            getattr(self, name).append(statistics.mean(values))

    def print(self) -> None:
        ways = {
            "FaceAnalysis.get": self.reference_ms,
            "FaceAnalysis.get, no spinning": self.calm_ms,
            "Triton, one at a time": self.one_at_a_time_ms,
            f"Triton, {AT_ONCE} at once": self.at_once_ms,
        }
        for way, ms in ways.items():
            print(f"  {way:34} {spread(ms):18} {1000 / statistics.median(ms):.2f} images/s")
        for way, ms in list(ways.items())[2:]:
            print(f"  {way + ', against get':34} {ratio(self.reference_ms, ms)}, no spinning {ratio(self.calm_ms, ms)}")
        print(f"  {'networks, one at a time':34} {spread(self.networks_ms)}")
        outside = [100 * (1 - own / all_) for own, all_ in zip(self.networks_ms, self.one_at_a_time_ms, strict=True)]
        print(f"  {'time outside the networks, %':34} {spread(outside, 1)}")
        print("\nboxes, keypoints and scores alone, one at a time, and the detector's own time")
        for size, boxes_ms, own_ms in (
            ("the detector of drawn faces", self.boxes_ms, self.detector_ms),
            ("of the size of det_10g", self.large_boxes_ms, self.large_detector_ms),
        ):
            print(f"  {size:34} {spread(boxes_ms, 1)}, own {spread(own_ms, 1)}: {excess(boxes_ms, own_ms)}")


def _export(networks: dict[str, onnx.ModelProto], pack: Path, repository: Path) -> None:
    """Write a pack of InsightFace's files, and export it."""
    pack.mkdir()
    for name, network in networks.items():
        onnx.save(network, pack / f"{name}.onnx")
    pipeline.export(
        card_named(str(pack)),
        weights=str(pack),
        precision="fp32",
        target=repository,
        accept_license=True,
        report=lambda line: print(f"export  {line}"),
    )


def _insightface(pack: Path, threads: int, spinning: bool) -> Ask:
    """As its documentation uses it: the files of a pack, detection of automatic size."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    with contextlib.redirect_stdout(io.StringIO()):
        faces = FaceAnalysis(name=str(pack), providers=["CPUExecutionProvider"], sess_options=options)
        faces.prepare(ctx_id=-1, det_size=None)

    def run(photo: bytes) -> Answer:
        pixels = cv2.imdecode(np.frombuffer(photo, np.uint8), cv2.IMREAD_COLOR)
        found = faces.get(pixels)
        return {
            "boxes": np.stack([face.bbox for face in found]),
            "scores": np.stack([face.det_score for face in found]),
            "keypoints": np.stack([face.kps for face in found]),
            "embeddings": np.stack([face.embedding for face in found]),
        }

    return run


def _over_http(connection: InferenceServerClient, model: str, outputs: Sequence[str]) -> Ask:
    requested = [InferRequestedOutput(name) for name in outputs]

    def run(photo: bytes) -> Answer:
        sent = InferInput("image", [1, 1], "BYTES")
        sent.set_data_from_numpy(np.array([[photo]], np.object_))
        response = connection.infer(model, [sent], outputs=requested)
        return {name: response.as_numpy(name)[0] for name in outputs}

    return run


def _check(expected: Answer, found: Answer) -> None:
    """Both must have done the same work."""
    assert len(expected["boxes"]) == len(found["boxes"]) == FACES
    assert np.allclose(expected["boxes"], found["boxes"], atol=0.1)
    a, b = ((e := one["embeddings"]) / np.linalg.norm(e, axis=1, keepdims=True) for one in (expected, found))
    cosines = np.sum(a * b, axis=1)
    assert cosines.min() > 0.999, f"cosines of the embeddings: {cosines}"


def _ms(ask: Ask, photo: bytes) -> float:
    started = time.perf_counter()
    ask(photo)
    return 1000 * (time.perf_counter() - started)


def _ms_and_own(connection: InferenceServerClient, ask: Ask, photo: bytes, *networks: str) -> tuple[float, float]:
    """The time of a request, and what of it is the networks'."""
    before = sum(_compute_ms(connection, network) for network in networks)
    taken = _ms(ask, photo)
    return taken, sum(_compute_ms(connection, network) for network in networks) - before


def _compute_ms(connection: InferenceServerClient, network: str) -> float:
    """The time that a network has computed for all its requests so far."""
    (statistics_of,) = connection.get_inference_statistics(network)["model_stats"]
    return int(statistics_of["inference_stats"]["compute_infer"]["ns"]) / 1e6


def _ms_at_once(host: str, photos: list[bytes]) -> float:
    """Several threads send all photos each; the time that goes by, for each photo."""
    start = threading.Barrier(AT_ONCE + 1)

    def send() -> None:
        with InferenceServerClient(host) as connection:  # of this thread alone: gevent's rule
            ask = _over_http(connection, ANALYSIS, EVERYTHING)
            start.wait(10)
            for photo in photos:
                ask(photo)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        sending = [pool.submit(send) for _ in range(AT_ONCE)]
        start.wait(10)
        started = time.perf_counter()
        for one in sending:
            one.result()
        return 1000 * (time.perf_counter() - started) / (AT_ONCE * len(photos))


if __name__ == "__main__":
    main()
