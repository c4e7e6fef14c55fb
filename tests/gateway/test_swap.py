"""InsightFace-RestAPI's swap on a real server: the swapper is loaded on first use, and `/health` tells of it."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO

import numpy as np
import pytest
import requests
from fixtures.gateways import CROWD, NOBODY, PORTRAIT, STRANGER, Gateway, gateway, post
from fixtures.waiting import HANGS_AFTER_S, until
from PIL import Image

from depthface_client import Client

MODEL = "face_swap_inswapper_128"


@pytest.fixture(scope="module")
def running(everything_server) -> Iterator[Gateway]:
    with gateway("faces", url=everything_server.host) as running:
        yield running


def swapper(url: str) -> str:
    return requests.get(f"{url}/health", timeout=HANGS_AFTER_S).json()["models"]["swapper"]


def wait_for(url: str, state: str) -> None:
    until(lambda: swapper(url) == state, state)


def test_the_swapper_is_lazy_then_loaded_then_lazy_again(running, everything_server):
    url = running.urls["faces"]
    with Client(everything_server.host, timeout_s=HANGS_AFTER_S) as client:
        client.unload(MODEL)  # another test may have used it
        wait_for(url, "lazy-loaded")
        answer = post(url, "/swap", {"source": PORTRAIT, "target": STRANGER})
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png"), answer.text
        assert swapper(url) == "loaded"  # at once: whoever has used it knows
        assert answer.content == client.swap(PORTRAIT, STRANGER, analysis="face_analysis_buffalo_l")
        client.unload(MODEL)
        wait_for(url, "lazy-loaded")
        assert post(url, "/swap", {"source": PORTRAIT, "target": STRANGER}).content == answer.content


def test_the_target_keeps_its_size_and_its_faces_alone_change(running):
    answer = post(running.urls["faces"], "/swap", {"source": PORTRAIT, "target": CROWD})
    before, after = (
        np.asarray(Image.open(BytesIO(data)).convert("RGB")).astype(int) for data in (CROWD, answer.content)
    )
    assert after.shape == before.shape
    changed = np.abs(after - before).max(axis=2) > 0
    assert 0.01 < changed.mean() < 0.5


@pytest.mark.parametrize(
    ("source", "target", "detail"),
    [(NOBODY, STRANGER, "No source face"), (PORTRAIT, NOBODY, "No target face"), (NOBODY, NOBODY, "No source face")],
)
def test_who_is_missing_is_named(running, source, target, detail):
    answer = post(running.urls["faces"], "/swap", {"source": source, "target": target})
    assert (answer.status_code, answer.json()) == (400, {"detail": detail})
