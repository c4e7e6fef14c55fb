"""On a GPU with onnxruntime-gpu (`make setup-gpu`): the same repository, served by ONNX Runtime on CUDA."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import onnxruntime
import pytest
from fixtures.exporting import job_of, random_sources
from fixtures.photos import VARIETY
from fixtures.serving import serving
from fixtures.waiting import until

from depthface import machine
from depthface.families import card_named
from depthface.families.depth_anything_v2 import parity, processing
from depthface_client import Client
from depthface_export import pipeline

pytestmark = pytest.mark.gpu

DEPTH = card_named("depth_anything_v2_small")


@pytest.fixture(autouse=True)
def cuda() -> None:
    if not machine.read().gpus:
        pytest.skip("There is no NVIDIA GPU here (nvidia-smi shows none).")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("This onnxruntime is the CPU's; `make setup-gpu` puts onnxruntime-gpu in its place.")


def test_depth_on_cuda_is_within_its_card(true_repository):
    """TF32 is off: it would be 40 times as far as the card of fp32 allows (H100)."""
    reference = random_sources(DEPTH)[DEPTH.networks[0].name].reference
    with serving(true_repository) as server, Client(server.host) as client:
        for name in ("landscape JPEG", "square PNG"):
            pixels, _ = processing.preprocess(VARIETY[name])
            measured = parity.measure(reference(pixels[None]), client.depth(VARIETY[name]).array[None])
            for metric, value in measured.items():
                assert value <= DEPTH.tolerances["fp32"][metric], (name, metric)
        (process,) = server.steps(DEPTH.networks[0].name)
        maps = "".join(each.path for each in process.memory_maps())
        assert re.search(r"libonnxruntime_providers_cuda", maps)


def test_in_fp16_each_shape_that_comes_again_has_a_session_and_answers_within_its_card(tmp_path):
    pipeline.export(job_of(DEPTH, tmp_path, precision="fp16"))
    reference = random_sources(DEPTH)[DEPTH.networks[0].name].reference
    names = ("landscape JPEG", "square PNG")
    expected = {name: reference(processing.preprocess(VARIETY[name])[0][None]) for name in names}
    with serving(tmp_path) as server, Client(server.host) as client, ThreadPoolExecutor(5) as pool:
        for at_once in (1, 3, 5) * 3:
            for name in names:
                for depth in pool.map(client.depth, [VARIETY[name]] * at_once):
                    for metric, value in parity.measure(expected[name], depth.array[None]).items():
                        assert value <= DEPTH.tolerances["fp16"][metric], (name, at_once, metric)
        until(lambda: sum("made in" in line for line in server.lines) >= len(names))
