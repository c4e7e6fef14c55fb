"""What an operator sets, and what he sees: limits, queues, idle networks, metrics, logs and request ids."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import psutil
import pytest
from fixtures.photos import VARIETY, encoded, photo
from fixtures.serving import Server, depthface, serving
from fixtures.waiting import until
from PIL import Image
from tritonclient.http import InferenceServerClient

from depthface import config
from depthface.limits import Limits
from depthface_client import Client, ImageTooLarge, InvalidImage, InvalidInput, ServerOverloaded
from depthface_server.installation import Installation
from depthface_server.log import as_object
from depthface_server.options import Options
from depthface_standins.insightface import scenes

MODEL = "depth_anything_v2_small"
ANALYSIS, DETECTION = "face_analysis_buffalo_l", "face_detection_buffalo_l"

IDLE_S = 1.5


def crowd(people: int) -> np.ndarray:
    """A drawn scene of 640×640 with so many faces."""
    placed = [scenes.Placed(scenes.Person(index), 100 + 200 * index, 320, 80) for index in range(people)]
    return scenes.draw_scene(placed, (640, 640), seed=7).image


@pytest.fixture(scope="module")
def operated(pack_repository) -> Iterator[Server]:
    """A server with narrow limits that logs in JSON and lets idle networks go."""
    options = {"max-mib": 3, "max-megapixels": 1, "max-faces": 2, "queue-size": 2, "idle-minutes": IDLE_S / 60}
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    with serving(pack_repository, *arguments, "--log-format", "json", "--load-threads", "2") as server:
        yield server


@pytest.fixture
def client(operated) -> Iterator[Client]:
    with Client(operated.host) as client:
        yield client


def lines(server: Server, **wanted: str) -> list[dict[str, str]]:
    """What the server has logged so far that has these fields; what happens is said a moment later."""
    objects = [json.loads(line) for line in server.lines]
    return [entry for entry in objects if wanted.items() <= entry.items()]


@pytest.mark.parametrize("model", [ANALYSIS, DETECTION])
def test_each_limit_has_its_error(client, model):
    noise = np.random.default_rng(0).integers(0, 255, (1100, 900, 3), np.uint8)
    with pytest.raises(ImageTooLarge, match="limit is 3 MiB"):
        client.faces(encoded(Image.fromarray(noise[:1090]), "BMP") + bytes(400_000), model=model)
    with pytest.raises(ImageTooLarge, match="1001×1000, the limit is 1 megapixels"):
        client.faces(encoded(photo().resize((1001, 1000)), "JPEG"), model=model)
    assert len(client.faces(crowd(2), model=model)) == 2
    with pytest.raises(InvalidInput, match="3 faces in the photo, this server takes 2"):
        client.faces(crowd(3), model=model)
    assert len(client.faces(crowd(3), model=model, max_faces=2)) == 2


def test_the_options_reach_triton(operated):
    assert "--model-load-thread-count=2" in operated.triton.cmdline()


@pytest.mark.parametrize(("program", "said"), [(b"...", []), (b"..http-max-input-size..", [16 * 2**20])])
def test_a_triton_that_can_is_told_how_long_a_body_may_be(program, said, tmp_path):
    (tmp_path / "tritonserver").write_bytes(program)
    installation = Installation(tmp_path / "tritonserver", tmp_path)
    options = Options(limits=Limits(max_bytes=2 * 2**20))
    words = options.arguments(installation.limits_bodies)
    lengths = [int(word.partition("=")[2]) for word in words if word.startswith("--http-max-input-size=")]
    assert lengths == said


def test_a_request_id_is_in_the_error_and_in_the_log(operated, client):
    for model in (ANALYSIS, DETECTION):
        with pytest.raises(InvalidImage, match=r"\[request mine-1\]$") as caught:
            client.faces(b"hello", model=model, request_id="mine-1")
        assert caught.value.request_id == "mine-1"
    until(lambda: len(lines(operated, event="refused", request_id="mine-1")) > 1, "both refusals")
    found = lines(operated, event="refused", request_id="mine-1")
    assert {entry["model"] for entry in found} == {ANALYSIS, DETECTION}
    assert {entry["reason"] for entry in found} == {"invalid_image"}
    with pytest.raises(InvalidImage) as caught:
        client.faces(b"hello", model=ANALYSIS)
    until(lambda: lines(operated, request_id=caught.value.request_id), "the refusal")


def test_an_id_cannot_forge_a_line_of_the_log(operated, client):
    with pytest.raises(InvalidImage):
        client.faces(b"hello", model=ANALYSIS, request_id='x"}\n{"event": "forged"}')
    until(lambda: lines(operated, request_id='x"}\n{"event": "forged"}'), "the refusal")
    with pytest.raises(InvalidImage):
        client.faces(b"hello", model=ANALYSIS, request_id="behind it")
    until(lambda: lines(operated, request_id="behind it"), "the next one")
    assert not lines(operated, event="forged")


def test_of_a_long_id_the_log_has_the_beginning(operated, client):
    with pytest.raises(InvalidImage):
        client.faces(b"hello", model=ANALYSIS, request_id="long" * 1000)
    until(lambda: lines(operated, event="refused", request_id="long" * 32), "the refusal")


def test_every_line_is_an_object_with_time_level_and_source(operated, client):
    client.faces(crowd(1), model=ANALYSIS)
    found = lines(operated)
    assert all({"time", "level", "source"} <= entry.keys() for entry in found)
    began = datetime.fromtimestamp(psutil.Process(operated.process.pid).create_time(), UTC)
    times = [datetime.fromisoformat(entry["time"]) for entry in found]
    minute = timedelta(minutes=1)  # clocks are set
    assert all(began - minute < time < datetime.now(UTC) + minute for time in times)
    assert lines(operated, source="serve", level="info")


def test_the_metrics_count_what_happened(operated, client):
    before = operated.metrics()
    for count in (0, 1, 2):
        client.faces(crowd(count), model=ANALYSIS)
    for _ in range(2):
        with pytest.raises(InvalidImage):
            client.faces(b"hello", model=ANALYSIS)
    with pytest.raises(InvalidInput):
        client.faces(crowd(3), model=DETECTION)
    after = operated.metrics()

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert grown(f'depthface_decode_failures_total{{model="{ANALYSIS}"}}') == 2
    assert grown(f'depthface_refused_total{{model="{ANALYSIS}",reason="invalid_image"}}') == 2
    assert grown(f'depthface_refused_total{{model="{DETECTION}",reason="invalid_input"}}') == 1
    assert grown(f'depthface_faces_per_photo_count{{model="{ANALYSIS}"}}') == 3
    assert grown(f'depthface_faces_per_photo_sum{{model="{ANALYSIS}"}}') == 3
    assert grown(f'depthface_faces_per_photo_bucket{{model="{ANALYSIS}",le="0"}}') == 1
    assert after[f'depthface_recoveries{{model="{ANALYSIS}"}}'] == 0


def test_an_idle_network_leaves_memory_and_comes_back_with_the_same_answer(operated, client):
    """Several times over: what stays behind does not grow."""
    name = "face_buffalo_l_landmarks_68"
    (network,) = operated.steps(name)
    kept: list[int] = []
    first = None
    client.faces(crowd(1), model=ANALYSIS)  # so that it does not leave just before the next one
    asked = datetime.now(UTC)

    def times_left() -> int:
        found = lines(operated, event="idle", model=name)
        return sum(datetime.fromisoformat(entry["time"]) > asked for entry in found)

    for times in range(4):
        landmarks = client.faces(crowd(1), model=ANALYSIS)[0].landmarks_68
        loaded = network.memory_full_info().uss
        until(lambda times=times: times_left() > times, "its leaving")
        kept.append(network.memory_full_info().uss)
        assert kept[-1] < loaded
        first = landmarks if first is None else first
        np.testing.assert_array_equal(landmarks, first)
    assert max(kept[1:]) < kept[0] * 1.05
    assert operated.steps(name) == [network]  # the process has stayed


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('I1121 05:10:23.842338 27682 a.py:27] "{\\"event\\": \\"x\\"}"', {"source": "a.py:27", "event": "x"}),
        ('E1121 05:10:23.842338 27682 a.cc:7] "plain \\"text\\""', {"level": "error", "message": 'plain "text"'}),
        ("W1121 05:10:23.842338 27682 a.cc:7] [1, 2]", {"message": [1, 2]}),
        ("| Model | Version |", {"source": "triton", "message": "| Model | Version |"}),
        ("W1231 23:59:59.000001 1 a.cc:7] late", {"time": "2026-12-31T23:59:59.000001+00:00", "message": "late"}),
    ],
)
def test_a_line_of_tritons_log_as_an_object(line, expected):
    entry = as_object(line, datetime(2027, 1, 1, tzinfo=UTC))
    assert expected.items() <= entry.items()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00", str(entry["time"]))


def test_queues_without_limits(repository):
    """No model has one left, or Triton would wake its batcher late; and photos are answered as before."""
    with serving(repository, "--queue-size", "0") as server, InferenceServerClient(server.host) as triton:
        names = [model["name"] for model in triton.get_inference_statistics()["model_stats"]]
        batching = [triton.get_model_config(name).get("dynamic_batching", {}) for name in names]
        assert any("preferred_batch_size" in one for one in batching)
        policies = [one.get("default_queue_policy") or {} for one in batching]
        assert not any(one.get("max_queue_size") for one in policies)
        assert not any(int(one.get("default_timeout_microseconds", 0)) for one in policies)
        with Client(server.host) as client, ThreadPoolExecutor(3) as pool:
            assert len(set(pool.map(client.depth_png, 6 * [VARIETY["tiny 40×30"]]))) == 1
    done = depthface("serve", "--repository", repository, "--queue-size", "0", "--queue-seconds", "5")
    assert (done.returncode, "--queue-seconds" in done.stderr) == (2, True)


def test_what_is_exported_meanwhile_is_served_by_its_own_config(repository, tmp_path):
    """Where queues are changed, Triton finds a copy of the repository; it follows what is exported."""
    own = Path(shutil.copytree(repository, tmp_path / "own"))

    def relabel(weights: str) -> None:
        for path in (own / MODEL).rglob("*.pbtxt"):
            found = config.read(path)
            config.set_parameters(found, replace(config.parameters_of(found), weights=weights))
            path.write_text(config.text_from_config(found))

    with serving(own, "--queue-size", "3") as server, Client(server.host) as client:

        def labels() -> str:
            client.unload(MODEL)
            client.load(MODEL)
            return client.weights(MODEL)

        before = client.weights(MODEL)
        relabel("folder mine")
        until(lambda: labels() == "folder mine" != before)
        with InferenceServerClient(server.host) as triton:
            policy = triton.get_model_config(MODEL)["dynamic_batching"]["default_queue_policy"]
        assert policy["max_queue_size"] == 3


def test_who_waits_too_long_is_told_so(true_repository):
    """A queue time of half a second before a network that takes a second; and a client that waits less still."""
    with serving(true_repository, "--queue-seconds", "0.5") as server:

        def call(client: Client) -> str:
            try:
                client.depth_png(VARIETY["wide 3:1"])
            except ServerOverloaded as error:
                return str(error)
            return "answered"

        with Client(server.host, timeout_s=300) as client, ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda _: call(client), range(24)))
    assert "answered" in answers
    assert any("had no time for this request" in answer for answer in answers), answers
