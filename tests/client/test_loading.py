"""Models that an operator takes out of a server and puts back: what leaves memory, what stays, what it answers."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
from fixtures import impatient
from fixtures.photos import VARIETY
from fixtures.processes import kill
from fixtures.serving import Server, depthface, serving
from fixtures.waiting import until

from depthface_client import Client, ClientError, ModelUnavailable
from depthface_standins.insightface import scenes

DEPTH = "depth_anything_v2_small"
DEPTH_MODELS = (DEPTH, f"{DEPTH}_network")

ANALYSIS, DETECTION = "face_analysis_buffalo_l", "face_detection_buffalo_l"
DETECTOR, RECOGNIZER = "face_buffalo_l_detector", "face_buffalo_l_recognizer"

PORTRAIT = scenes.draw_scene([scenes.Placed(scenes.Person(1), 320, 240, 100)], (480, 640), seed=1).image


@pytest.fixture
def faces(pack_repository) -> Iterator[tuple[Server, Client]]:
    with serving(pack_repository, command=impatient.COMMAND) as server, Client(server.host) as client:
        yield server, client


def is_served(client: Client, model: str) -> bool:
    return {info.name: info.ready for info in client.models()}.get(model, False)


def test_depth_gives_back_its_memory_and_comes_again_as_it_was(true_repository):
    photo = VARIETY["landscape JPEG"]
    with serving(true_repository, command=impatient.COMMAND) as server, Client(server.host) as client:
        expected = client.depth_png(photo)
        loaded = server.memory_bytes()
        for _ in range(2):
            done = depthface("unload", DEPTH, "--url", server.host)
            assert done.returncode == 0, done.stderr
            until(lambda: not any(server.steps(model) for model in DEPTH_MODELS))
            time.sleep(impatient.HAS_LOOKED_S)
            assert not any(server.steps(model) for model in DEPTH_MODELS)  # nobody has taken it for dead
            assert server.memory_bytes() < loaded - 250e6
            assert not is_served(client, DEPTH)
            with pytest.raises(ModelUnavailable, match="no model for depth"):
                client.depth_png(photo)
            with pytest.raises(ModelUnavailable, match=DEPTH):
                client.depth_png(photo, model=DEPTH)
            client.unload(DEPTH)  # once more does no harm
            done = depthface("load", DEPTH, "--url", server.host)
            assert done.returncode == 0, done.stderr
            assert client.depth_png(photo) == expected
        assert server.memory_bytes() < loaded * 1.1
        assert not any(name.startswith("depthface_recoveries") and value for name, value in server.metrics().items())


def test_what_another_model_has_too_stays(faces):
    server, client = faces
    expected = client.faces(PORTRAIT, model=ANALYSIS)
    client.unload(ANALYSIS)
    until(lambda: not server.steps(ANALYSIS) and not server.steps(RECOGNIZER))
    assert not is_served(client, ANALYSIS)
    assert server.steps(DETECTOR)
    assert len(client.faces(PORTRAIT, model=DETECTION)) == len(expected) == 1
    client.load(ANALYSIS)
    assert is_served(client, ANALYSIS)
    np.testing.assert_array_equal(client.faces(PORTRAIT, model=ANALYSIS)[0].embedding, expected[0].embedding)

    client.unload(DETECTION)
    assert not is_served(client, DETECTION)
    assert len(client.faces(PORTRAIT, model=ANALYSIS)) == 1


def test_a_step_that_dies_brings_back_no_model_that_was_unloaded(faces):
    server, client = faces
    client.unload(ANALYSIS)
    until(lambda: not server.steps(ANALYSIS))
    kill(server.steps(DETECTION))

    def answers() -> bool:
        try:
            return len(client.faces(PORTRAIT, model=DETECTION)) == 1
        except ClientError:
            return False

    until(answers)
    until(lambda: any(f"{DETECTION}: serves again" in line for line in server.lines))  # said after it does
    assert not is_served(client, ANALYSIS)
    assert not server.steps(RECOGNIZER)
