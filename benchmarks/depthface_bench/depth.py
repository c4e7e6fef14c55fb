"""`make bench-depth`: JPEG bytes to PNG bytes, one photo at a time, three ways in one run.

- the `transformers` depth pipeline in this process: what people use today;
- this project's stages called in this process: the floor for its server;
- the same through HTTP and the embedded Triton.

All with the same weights (random ones: speed does not depend on them), the same photos and the same number of threads,
in turn, so that a drift of the machine hits all alike. Ratios are of the same round.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.resources import files
from io import BytesIO
from pathlib import Path

import click
import numpy as np
import onnxruntime
import torch
from PIL import Image
from transformers import DPTImageProcessorPil, pipeline

from depthface.families import card_named
from depthface.families.depth_anything_v2 import network, processing
from depthface.families.depth_anything_v2.card import PATCH_PX, PHOTO_SIDE_PX
from depthface_bench.figures import excess, jpeg, ratio, spread
from depthface_bench.servers import serving
from depthface_client import Client
from depthface_export import pipeline as export_pipeline

MODEL = "depth_anything_v2_small"
SIZES = ((1920, 1280), (4000, 3000))  # width, height
STAGES = ("decode and resize", "network", "resize and encode")


@click.command()
@click.option("--rounds", default=7, show_default=True, help="Counted rounds, after one that is not.")
@click.option("--photo", type=click.Path(exists=True, path_type=Path), help="A photo; else one of scikit-image's.")
@click.option("--threads", default=len(os.sched_getaffinity(0)), show_default=True)
def main(rounds: int, photo: Path | None, threads: int) -> None:
    """Measure depth against the transformers pipeline, side by side."""
    torch.set_num_threads(threads)
    source = photo or Path(str(files("skimage") / "data" / "motorcycle_left.png"))
    picture = Image.open(source).convert("RGB")
    photos = {f"{w}×{h}": jpeg(picture.resize((w, h), Image.Resampling.BICUBIC)) for w, h in SIZES}
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder)
        export_pipeline.export(
            card_named(MODEL),
            weights="random",
            precision="fp32",
            target=repository,
            accept_license=False,
            report=lambda line: print(f"export  {line}"),
        )
        stages = _in_process(repository, threads)
        reference = _reference()
        with serving(repository) as served, Client(served.host) as client:
            ways: dict[str, Callable[[bytes], object]] = {
                "transformers pipeline": reference,
                "stages in process": stages.run,
                "Triton over HTTP": lambda jpeg: client.depth_png(jpeg, bits=8),
            }
            times = {(size, way): [] for size in photos for way in ways}  # type: dict[tuple[str, str], list[float]]
            for counted in range(-1, rounds):
                for size, data in photos.items():
                    for way, call in ways.items():
                        started = time.perf_counter()
                        call(data)
                        if counted >= 0:
                            times[size, way].append(time.perf_counter() - started)
                        else:
                            stages.clear()
                served.measure_memory()
            peak_bytes = served.peak_bytes
    _print(times, stages, list(photos), list(ways), peak_bytes)


class _in_process:  # noqa: N801  (reads as the function it is)
    """The server's stages without the server, timed one by one."""

    def __init__(self, repository: Path, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as the server
        self._session = onnxruntime.InferenceSession(
            repository / f"{MODEL}_network" / "1" / "model.onnx", options, providers=["CPUExecutionProvider"]
        )
        self.seconds: dict[int, list[tuple[float, float, float]]] = {}

    def run(self, jpeg: bytes) -> bytes:
        marks = [time.perf_counter()]
        grid = processing.preprocess({"pixels"}, jpeg)
        marks.append(time.perf_counter())
        (depth,) = self._session.run(None, {"pixels": grid["pixels"][None]})
        marks.append(time.perf_counter())
        png = processing.postprocess({"png8"}, depth[0], grid["photo_size"].astype(np.int32))["png8"]
        marks.append(time.perf_counter())
        a, b, c = np.diff(marks)
        self.seconds.setdefault(len(jpeg), []).append((a, b, c))
        assert isinstance(png, bytes)
        return png

    def clear(self) -> None:
        self.seconds.clear()


def _reference() -> Callable[[bytes], bytes]:
    """The pipeline as its documentation uses it, with the processor's published settings (preprocessor_config.json)."""
    model = network.reference_model(card_named(MODEL), 0)
    processor = DPTImageProcessorPil(
        size={"height": PHOTO_SIDE_PX, "width": PHOTO_SIDE_PX},
        ensure_multiple_of=PATCH_PX,
        keep_aspect_ratio=True,
        image_mean=list(network.MEAN),
        image_std=list(network.STD),
    )
    estimate = pipeline("depth-estimation", model=model, image_processor=processor)

    def run(jpeg: bytes) -> bytes:
        buffer = BytesIO()
        estimate(Image.open(BytesIO(jpeg)))["depth"].save(buffer, "PNG")
        return buffer.getvalue()

    return run


def _print(
    times: dict[tuple[str, str], list[float]],
    stages: _in_process,
    sizes: list[str],
    ways: list[str],
    peak_bytes: int,
) -> None:
    reference, floor, ours = ways
    for (size, seconds), name in zip(stages.seconds.items(), sizes, strict=True):
        print(f"\n{name}, JPEG of {size / 1e6:.1f} MB to 8-bit PNG, {len(seconds)} rounds, ms: median (min–max)")
        for way in ways:
            ms = [1000 * t for t in times[name, way]]
            print(f"  {way:24} {spread(ms)}")
        print(f"  against the pipeline     {ratio(times[name, reference], times[name, ours])}")
        print(f"  overhead of the server   {excess(times[name, ours], times[name, floor])}")
        medians = [statistics.median(stage) for stage in zip(*seconds, strict=True)]
        print("  " + ", ".join(f"{s} {100 * m / sum(medians):.0f} %" for s, m in zip(STAGES, medians, strict=True)))
    print(f"\npeak memory of the server, all processes: {peak_bytes / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
