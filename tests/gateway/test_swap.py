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
        assert answer.content == client.swap(PORTRAIT, STRANGER, analysis="face_analysis_buffalo_l", det_size=640)
        client.unload(MODEL)
        wait_for(url, "lazy-loaded")
        assert post(url, "/swap", {"source": PORTRAIT, "target": STRANGER}).content == answer.content


def test_the_surest_face_of_the_target_alone_changes(running, everything_server):
    answer = post(running.urls["faces"], "/swap", {"source": PORTRAIT, "target": CROWD})
    before, after = (
        np.asarray(Image.open(BytesIO(data)).convert("RGB")).astype(int) for data in (CROWD, answer.content)
    )
    assert after.shape == before.shape
    changed = np.abs(after - before).max(axis=2) > 0
    with Client(everything_server.host) as client:
        surest, *others = client.faces(CROWD, model="face_analysis_buffalo_l", parts=(), det_size=640)
    assert others
    for face, is_changed in [(surest, True), *((other, False) for other in others)]:
        x, y = face.keypoints[2].round().astype(int)  # its nose
        assert changed[y - 2 : y + 3, x - 2 : x + 3].any() == is_changed


@pytest.mark.parametrize(
    ("source", "target", "detail"),
    [(NOBODY, STRANGER, "No source face"), (PORTRAIT, NOBODY, "No target face"), (NOBODY, NOBODY, "No source face")],
)
def test_who_is_missing_is_named(running, source, target, detail):
    answer = post(running.urls["faces"], "/swap", {"source": source, "target": target})
    assert (answer.status_code, answer.json()) == (400, {"detail": detail})
