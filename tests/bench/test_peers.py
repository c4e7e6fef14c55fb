"""What this project is held against does the work that it is said to do."""

from __future__ import annotations

import itertools
import threading
import time
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import requests
from fixtures.faces import Reference, crowd
from fixtures.photos import VARIETY
from fixtures.waiting import HANGS_AFTER_S
from PIL import Image

from depthface.errors import DepthfaceError
from depthface_bench import link, photos, plain, repositories, rounds, services, ways
from depthface_bench.rounds import Way
from depthface_bench.variants import FP32
from depthface_client import Client

THREADS = 2

pytestmark = pytest.mark.filterwarnings("ignore:.*:FutureWarning:insightface")


def grey(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(png))).astype(int)


def differing(a: bytes, b: bytes) -> float:
    """The share of pixels that differ; fails if any does by more than a level."""
    difference = np.abs(grey(a) - grey(b))
    assert difference.max() <= 1
    return float((difference > 0).mean())


@pytest.fixture(scope="module")
def depth_host():
    with services.serving("depth") as served:
        assert served.start_s > 0
        assert served.memory_bytes() > 1e8
        yield served.host


def test_the_depth_service_answers_as_the_pipeline_does(depth_host, reference):
    photo = VARIETY["landscape JPEG"]
    found = ways.posted(depth_host)(photo)
    assert found.headers["content-type"] == "image/png"
    # Equal but for what another number of threads does to the last digits.
    difference = np.abs(grey(found.content).astype(int) - np.asarray(reference(photo)))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


def test_the_service_is_a_service(depth_host):
    """And it is up while it answers nothing else."""
    assert requests.get(f"http://{depth_host}/health", timeout=HANGS_AFTER_S).json() == {"status": "ok"}
    assert requests.get(f"http://{depth_host}/predict", timeout=HANGS_AFTER_S).status_code == 405


def test_the_floor_gives_what_the_server_gives(true_repository, true_server):
    photo = VARIETY["landscape JPEG"]
    with ExitStack() as stack, Client(true_server.host) as client:
        runs = lambda one: plain.plain_network(true_repository, one, FP32, THREADS, stack)  # noqa: E731
        answer = plain.plain_pipeline(
            true_repository, repositories.depth_card(), repositories.DEPTH, ("png8",), runs, stack
        )
        assert differing(answer(photo)["png8"], ways.depth_of(client)(photo)) < 0.001


def test_the_face_service_answers_as_insightface_does(face_packs):
    photo = crowd(6)
    expected = Reference(face_packs["synthetic"].folder)(photo)
    with services.serving("faces", face_packs["synthetic"].folder) as served:
        found = ways.posted(served.host)(photo).json()
    assert len(found["boxes"]) == 6
    for name in ("boxes", "scores", "keypoints", "embeddings"):
        # cv2 reads the PNG's pixels as Pillow does, so nothing but the order could differ.
        assert np.allclose(found[name], expected[name], atol=1e-4), name


def test_a_service_that_cannot_start_is_said_to(tmp_path: Path):
    with (
        pytest.raises(DepthfaceError, match="faces service did not start"),
        services.serving("faces", tmp_path / "none"),
    ):
        pass


def test_other_work_is_not_compared():
    photo = photos.sized(64, 48)
    ways.same_size(photo, photos_png(64, 48))
    with pytest.raises(DepthfaceError, match="not of"):
        ways.same_size(photo, photos_png(48, 64))
    with pytest.raises(DepthfaceError, match="not the same work"):
        ways.same_count(6, {"boxes": [[0, 0, 1, 1]]})


def photos_png(width: int, height: int) -> bytes:
    buffer = BytesIO()
    Image.new("L", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def test_ways_are_measured_in_turn(monkeypatch):
    """By a clock on which each turn takes a second; where two are to be at once, each waits for the other."""
    seconds = itertools.count()
    clock = SimpleNamespace(perf_counter=lambda: float(next(seconds)), sleep=lambda _: None)
    monkeypatch.setattr(rounds, "time", clock)
    calls, pair = [], threading.Barrier(2)

    def call(name: str) -> None:
        calls.append(name)
        if (len(calls) - 1) % 6 >= 2:  # of the six of a way and a round, the first two are alone
            pair.wait(HANGS_AFTER_S)

    made = [Way(name, "fp32", lambda _, name=name: call(name)) for name in ("a", "b")]
    found = rounds.in_turn(made, [b"one", b"two"], (1, 2), rounds=2)
    assert [(one.kind, one.at_once, one.images_s) for one in found] == [
        ("a", 1, [2, 2]),
        ("a", 2, [4, 4]),
        ("b", 1, [2, 2]),
        ("b", 2, [4, 4]),
    ]
    assert calls == 3 * (6 * ["a"] + 6 * ["b"])


def test_what_becomes_quicker_with_use_is_used_before_the_first_round(monkeypatch):
    monkeypatch.setattr(rounds, "_SETTLE_S", 0)
    calls, failed = [], []

    def broken(_: bytes) -> None:
        raise RuntimeError

    made = [
        Way("warmed", "bf16", lambda photo: calls.append((photo, "warmed")), warm_up=3),
        Way("broken", "bf16", broken, warm_up=1),
        Way("plain", "bf16", lambda photo: calls.append((photo, "plain"))),
    ]
    found = rounds.in_turn(made, [b"1", b"2"], (1,), 1, lambda way, _: failed.append(way.kind))
    assert calls[:3] == [(b"1", "warmed"), (b"2", "warmed"), (b"1", "warmed")]
    assert [name for _, name in calls[3:]] == 2 * (2 * ["warmed"] + 2 * ["plain"])
    assert ([one.kind for one in found], failed) == (["warmed", "plain"], ["broken"])


@pytest.mark.quiet
def test_a_slow_link_is_slow(depth_host):
    """1 MB up a link of 20 Mbit/s takes 0.4 s; the answer, that it is no photo, is short."""
    taken_s = []
    with link.throttled(depth_host, 20) as slow:
        for _ in range(3):
            started = time.perf_counter()
            response = requests.post(f"http://{slow}/predict", data=bytes(1_000_000), timeout=HANGS_AFTER_S)
            taken_s.append(time.perf_counter() - started)
            assert response.status_code == 500
    assert 0.4 <= min(taken_s) < 2
