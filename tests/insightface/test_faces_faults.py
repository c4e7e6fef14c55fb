"""Faces on the real server: bad options, bad photos, other requests, and dead processes."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fixtures.faces import FACES, analysis_of, ask, assert_same, crowd, detection_of, refused
from fixtures.photos import VARIETY, bomb, encoded, photo
from fixtures.processes import kill
from fixtures.serving import Server, serving
from fixtures.waiting import HANGS_AFTER_S, until
from tritonclient.utils import InferenceServerException

PACK = "synthetic"
ANALYSIS, DETECTION = MODELS = (analysis_of(PACK), detection_of(PACK))
ALONE = "buffalo_l"
"""The same networks in a repository with no other pack."""

ONE = crowd(1, 1)
SIX = crowd(6, 2)

BAD_OPTIONS = (
    *({"det_size": value} for value in (-640, 1, 31, 100, 650, 1952, 2**31 - 1)),
    *({"min_score": value} for value in (0, -0.5, 1.01, float("nan"), float("inf"))),
    *({"max_faces": value} for value in (-1, -(2**31))),
)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("options", BAD_OPTIONS, ids=str)
def test_an_option_out_of_range_gets_a_400_and_a_sentence(face_server, model, options):
    text = refused(lambda: ask(face_server, model, ONE, FACES, **options))
    assert next(iter(options)) in text
    assert text.rstrip().endswith(".")
    assert len(ask(face_server, model, ONE, FACES)["boxes"]) == 1


# Bad input

BAD_PHOTOS = {
    "empty": b"",
    "text": b"hello, I am not a photo",
    "truncated JPEG": VARIETY["landscape JPEG"][:4000],
    "truncated PNG": SIX[: len(SIX) // 2],
    "bomb": bomb(),
    "100 MB of noise": np.random.default_rng(0).bytes(100_000_000),
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", BAD_PHOTOS)
def test_a_bad_photo_gets_a_400_and_a_sentence(face_server, model, name):
    text = refused(lambda: ask(face_server, model, BAD_PHOTOS[name], FACES))
    assert text.rstrip().endswith(".")
    assert len(ask(face_server, model, ONE, FACES)["boxes"]) == 1


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 2000), (2000, 1), (3000, 2), (5, 5)], ids=str)
def test_a_photo_of_hardly_any_pixels_shows_nobody(face_server, model, shape):
    """Nothing is too small to be looked at, however InsightFace fares with it."""
    answer = ask(face_server, model, encoded(photo().resize(shape), "PNG"), [*FACES, "size"])
    assert tuple(answer["size"]) == shape[::-1]
    assert len(answer["boxes"]) == 0


def body(
    name: str = "image", datatype: str = "BYTES", shape: tuple[int, ...] = (1, 1), data: object = ("x",), **more: object
) -> bytes:
    return json.dumps({"inputs": [{"name": name, "datatype": datatype, "shape": shape, "data": data}], **more}).encode()


def post(server: Server, model: str, data: bytes) -> tuple[int, str]:
    """Send a request as it is; the status and the text of the answer."""
    request = urllib.request.Request(f"http://{server.host}/v2/models/{model}/infer", data=data)
    try:
        with urllib.request.urlopen(request, timeout=HANGS_AFTER_S) as response:
            return response.status, ""
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["error"]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("data", "said"),
    [
        (body(datatype="FP32", data=[1.0]), "data-type"),
        (body(name="picture"), "picture"),
        (body(shape=(1, 2), data=["x", "y"]), "shape"),
        (body(shape=(2, 1), data=["x", "y"]), "batch"),
        (body(outputs=[{"name": "horoscope"}]), "horoscope"),
    ],
    ids=["dtype", "name", "shape", "batch", "output"],
)
def test_a_request_of_another_form_gets_a_400_and_a_sentence(face_server, model, data, said):
    status, text = post(face_server, model, data)
    assert status == 400
    assert said in text
    assert len(ask(face_server, model, ONE, FACES)["boxes"]) == 1


@pytest.mark.parametrize("model", MODELS)
def test_options_without_a_photo_get_a_400(face_server, model):
    """Triton lets them through, since it counts inputs and some are optional."""
    status, text = post(face_server, model, body(name="det_size", datatype="INT32", data=[640]))
    assert status == 400
    assert "no 'image'" in text
    assert len(ask(face_server, model, ONE, FACES)["boxes"]) == 1


@pytest.mark.parametrize("output", ["landmarks_106", "landmarks_68", "pose", "gender", "age"])
def test_what_a_pack_has_no_network_for_is_a_400_that_names_it(face_server, face_packs, output):
    if "genuine" not in face_packs:
        pytest.skip("DEPTHFACE_WEIGHTS names no folder of genuine weights")
    text = refused(lambda: ask(face_server, analysis_of(face_packs["genuine"].name), ONE, [output]))
    assert output in text


@pytest.mark.parametrize("output", ["embeddings", "landmarks_106", "age"])
def test_the_detection_offers_no_more_than_faces(face_server, output):
    assert output in refused(lambda: ask(face_server, DETECTION, ONE, [output]))


def test_bad_and_good_requests_at_once_do_not_touch_each_other(face_server):
    good = ask(face_server, ANALYSIS, SIX)

    def call(index: int) -> None:
        if index % 3 == 0:
            refused(lambda: ask(face_server, ANALYSIS, BAD_PHOTOS["truncated JPEG"]))
        elif index % 3 == 1:
            refused(lambda: ask(face_server, ANALYSIS, SIX, det_size=100))
        else:
            assert_same(ask(face_server, ANALYSIS, SIX), good)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(call, range(48)))


# Dead processes


@pytest.fixture(scope="module")
def mortal(pack_repository: Path) -> Iterator[Server]:
    """A server of its own, whose processes may be killed."""
    with serving(pack_repository) as server:
        yield server


@pytest.mark.slow
@pytest.mark.parametrize("model", [analysis_of(ALONE), f"face_{ALONE}_detector"], ids=["a pipeline", "a network"])
def test_a_killed_process_comes_back_by_itself(mortal, model):
    """Under load, which gets errors rather than silence; afterwards both models answer as before."""
    models = (analysis_of(ALONE), detection_of(ALONE))
    good = {public: ask(mortal, public, SIX) for public in models}
    answers: list[Exception | None] = []
    stop = threading.Event()

    def load(public: str) -> None:
        while not stop.is_set():
            try:
                ask(mortal, public, SIX)
                answers.append(None)
            except Exception as error:
                answers.append(error)
                time.sleep(0.1)

    threads = [threading.Thread(target=load, args=(models[index % 2],)) for index in range(4)]
    for thread in threads:
        thread.start()
    until(lambda: None in answers, "the first answer")
    processes = mortal.steps(model)
    assert processes, f"{model} has no process of its own"
    kill(processes)
    until(lambda: any(f"{model}: serves again" in line for line in mortal.lines), "its coming back")
    stop.set()
    for thread in threads:
        thread.join(2 * HANGS_AFTER_S)  # the client itself waits for 300 s
        assert not thread.is_alive()
    for public, answer in good.items():
        assert_same(ask(mortal, public, SIX), answer, public)
    errors = [error for error in answers if error is not None]
    assert errors
    assert all(isinstance(error, InferenceServerException) for error in errors), errors
