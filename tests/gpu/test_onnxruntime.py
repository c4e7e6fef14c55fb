"""On a GPU with onnxruntime-gpu (`make setup-gpu`): the same repository, served by ONNX Runtime on CUDA."""

from __future__ import annotations

import re

import onnxruntime
import pytest
from fixtures.exporting import random_sources
from fixtures.photos import VARIETY
from fixtures.serving import serving

from depthface import machine
from depthface.families import card_named
from depthface.families.depth_anything_v2 import parity, processing
from depthface_client import Client

pytestmark = pytest.mark.gpu

DEPTH = card_named("depth_anything_v2_small")


@pytest.fixture(autouse=True)
def cuda() -> None:
    if not machine.read().gpus:
        pytest.skip("There is no NVIDIA GPU here (nvidia-smi shows none).")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("This onnxruntime is the CPU's; `make setup-gpu` puts onnxruntime-gpu in its place.")


def test_depth_on_cuda_is_within_the_card_of_fp16(repository):
    """ONNX Runtime uses TF32 on CUDA unless told otherwise, so fp32's own tolerance is not what it promises."""
    reference = random_sources(DEPTH)[DEPTH.networks[0].name].reference
    with serving(repository) as server, Client(server.host) as client:
        for name in ("landscape JPEG", "square PNG"):
            pixels, _ = processing.preprocess(VARIETY[name])
            measured = parity.measure(reference(pixels[None]), client.depth(VARIETY[name]).array[None])
            for metric, value in measured.items():
                assert value <= DEPTH.tolerances["fp16"][metric], (name, metric)
        (process,) = server.steps(DEPTH.networks[0].name)
        maps = "".join(each.path for each in process.memory_maps())
        assert re.search(r"libonnxruntime_providers_cuda", maps)
