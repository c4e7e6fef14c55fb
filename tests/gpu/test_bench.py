"""On a GPU: the repositories that `make bench` measures, served, give what the floor of the same variant gives."""

from __future__ import annotations

from contextlib import ExitStack
from io import BytesIO

import numpy as np
import pytest
from fixtures.photos import VARIETY
from PIL import Image

from depthface_bench import machine, plain, repositories, variants, ways
from depthface_bench.servers import serving
from depthface_bench.variants import Variant
from depthface_client import Client

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_the_floor_gives_what_the_server_gives(provider, precision, tmp_path):
    variant, here = Variant(precision, provider), machine.this_machine()
    if not here.gpus:
        pytest.skip("There is no NVIDIA GPU here (nvidia-smi shows none).")
    software = variants.here()
    if variant not in variants.variants((), (), here, software):
        pytest.skip(" ".join(variants.absent(here, software)))
    repository, card = tmp_path / "repository", repositories.depth_card()
    repositories.export_depth(repository, variant)
    photo = VARIETY["landscape JPEG"]
    with ExitStack() as stack:
        runs = lambda one: plain.plain_network(repository, one, variant, here.cores, stack)  # noqa: E731
        answer = plain.plain_pipeline(repository, card, repositories.DEPTH, ("png8",), runs, stack)
        floor = answer(photo)["png8"]
    with serving(repository) as served, Client(served.host) as client:
        got = ways.depth_of(client)(photo)
    a, b = (np.asarray(Image.open(BytesIO(png))).astype(int) for png in (floor, got))
    assert np.abs(a - b).max() <= 2  # an engine's profiles, and CUDA's choice of algorithms, round differently
