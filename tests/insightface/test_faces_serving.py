"""Faces on the real server: batches, options, what is computed, bad input and dead processes."""

from __future__ import annotations

import json
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fixtures.faces import (
    AUTO,
    FACES,
    HEADS,
    Answer,
    Reference,
    analysis_of,
    ask,
    crowd,
    detection_of,
    heads,
    many_heads,
)
from fixtures.photos import VARIETY, bomb, encoded, photo
from fixtures.serving import Server, serving
from PIL import Image
from tritonclient.http import InferenceServerClient
from tritonclient.utils import InferenceServerException

from depthface.families.insightface import processing, scenes

# skimage warns of a method that insightface calls.
pytestmark = pytest.mark.filterwarnings("ignore:.*:FutureWarning:insightface")

PACK = "synthetic"
ANALYSIS = analysis_of(PACK)
DETECTION = detection_of(PACK)
MODELS = (ANALYSIS, DETECTION)
NETWORKS = tuple(
    f"face_{PACK}_{kind}" for kind in ("recognizer", "landmarks_106", "landmarks_68", "attributes")
)  # beside the detector

ONE = crowd(1, 1)
SIX = crowd(6, 2)
NOBODY = crowd(0, 3)


def assert_same(got: Answer, expected: Answer, name: str = "") -> None:
    """Equal within 1e-5: of scores and unit vectors as they are, of pixels and degrees relative to their size."""
    assert set(got) == set(expected)
    for output, value in expected.items():
        assert got[output].shape == value.shape, f"{name}: {output}"
        tolerance = {"rtol": 0.0, "atol": 1e-5} if output in ("scores", "embeddings") else {"rtol": 1e-5, "atol": 1e-5}
        np.testing.assert_allclose(got[output], value, **tolerance, err_msg=f"{name}: {output}")


def statistics(server: Server, model: str) -> dict[str, object]:
    with InferenceServerClient(server.host, network_timeout=60) as client:
        return client.get_inference_statistics(model)["model_stats"][0]


def inferences(server: Server, model: str) -> int:
    """Faces (or photos) that a network has been through."""
    return int(statistics(server, model)["inference_count"])


def batches(server: Server, model: str) -> dict[int, int]:
    """How often a network ran on a batch of each size."""
    return {
        int(batch["batch_size"]): int(batch["compute_infer"]["count"])
        for batch in statistics(server, model)["batch_stats"]
    }


def refused(call: Callable[[], object]) -> str:
    """What the server says to a request which it answers 400."""
    with pytest.raises(InferenceServerException) as caught:
        call()
    assert caught.value.status() == "400", caught.value
    text = caught.value.message()
    assert "Traceback" not in text
    assert ".py" not in text
    return text


# Batches and many clients


@pytest.fixture
def mixed(face_pack, request) -> tuple[list[bytes], list[int]]:
    """Eight photos of the same and of other sizes, with faces and without, and how many faces are in each."""
    if not face_pack.is_genuine:
        return (
            [NOBODY, ONE, SIX, crowd(2, 4), crowd(2, 5), crowd(12, 6), VARIETY["tiny 40×30"], crowd(1, 7)],
            [0, 1, 6, 2, 2, 12, 0, 1],
        )
    real_photos = request.getfixturevalue("real_photos")
    some = heads(real_photos)
    photos = [path.read_bytes() for path in real_photos if path.name in HEADS]
    made = [many_heads(some, count) for count in (6, 12, 2)]
    others = [VARIETY["square PNG"], VARIETY["grey PNG"], VARIETY["tiny 40×30"]]
    return [*photos, *(encoded(picture, "PNG") for picture in made), *others], [1, 2, 6, 12, 2, 1, 1, 0]


@pytest.mark.parametrize("model_of", [analysis_of, detection_of], ids=["analysis", "detection"])
def test_32_clients_at_once_get_what_each_would_get_alone(face_server, face_pack, mixed, model_of):
    """The networks' batches mix the photos and their faces."""
    photos, counts = mixed
    model, detector = model_of(face_pack.name), f"face_{face_pack.name}_detector"
    alone = [ask(face_server, model, data) for data in photos]
    assert [len(answer["boxes"]) for answer in alone] == counts
    before = batches(face_server, detector)
    with ThreadPoolExecutor(32) as pool:
        together = list(pool.map(lambda index: ask(face_server, model, photos[index % 8]), range(64)))
    for index, answer in enumerate(together):
        assert_same(answer, alone[index % 8], f"request {index}")
    grown = {size for size, count in batches(face_server, detector).items() if count > before.get(size, 0)}
    assert max(grown) > 1, "nothing was batched, so nothing was shown of batches"


def test_32_clients_with_options_of_their_own_do_not_get_each_others(face_server):
    """One batch may hold requests of different thresholds; sizes differ in shape and are batched apart."""
    options = [
        {},
        {"max_faces": 1},
        {"max_faces": 3},
        {"min_score": 0.99},
        {"min_score": 0.05},
        {"det_size": 640},
        {"det_size": 320},
        {"det_size": 640, "min_score": 0.9, "max_faces": 2},
    ]
    alone = [ask(face_server, ANALYSIS, SIX, [*FACES, "embeddings"], **chosen) for chosen in options]
    with ThreadPoolExecutor(32) as pool:
        together = list(
            pool.map(lambda i: ask(face_server, ANALYSIS, SIX, [*FACES, "embeddings"], **options[i % 8]), range(64))
        )
    for index, answer in enumerate(together):
        assert_same(answer, alone[index % 8], f"{options[index % 8]}")


# How many faces


@pytest.mark.parametrize("count", [0, 1, 33, 200])
def test_every_face_of_a_scene_is_found_and_known(face_server, count):
    """33 is one more than the networks' batch."""
    scene = scenes.draw_crowd(count, seed=count)
    answer = ask(face_server, ANALYSIS, encoded(Image.fromarray(scene.image), "PNG", compress_level=1))
    shapes = {
        "boxes": (4,),
        "scores": (),
        "keypoints": (5, 2),
        "embeddings": (512,),
        "landmarks_106": (106, 2),
        "landmarks_68": (68, 3),
        "pose": (3,),
        "gender": (),
        "age": (),
        "crops": (112, 112, 3),
    }
    assert {name: value.shape for name, value in answer.items()} == {
        "size": (2,),
        **{name: (count, *shape) for name, shape in shapes.items()},
    }
    assert tuple(answer["size"]) == scene.image.shape[:2]
    if not count:
        return
    # Each answer is its own face's: row by row it agrees with the person who was drawn there.
    who = np.abs(answer["boxes"][:, None] - scene.boxes[None]).max(axis=2).argmin(axis=1)
    assert sorted(who) == list(range(count))
    radius = (scene.boxes[who, 2] - scene.boxes[who, 0]) / 2
    assert (np.abs(answer["keypoints"] - scene.keypoints[who]).max(axis=(1, 2)) < 0.2 * radius).all()
    assert (
        np.linalg.norm(answer["landmarks_106"].mean(axis=1) - scene.keypoints[who].mean(axis=1), axis=1) < radius
    ).all()
    assert (np.diff(answer["scores"]) <= 0).all()
    np.testing.assert_allclose(np.linalg.norm(answer["embeddings"], axis=1), 1, atol=1e-4)
    people = [scene.people[index].person for index in who]
    assert np.mean(answer["gender"] == [person.gender for person in people]) > 0.9
    if count > 1:
        alike = answer["embeddings"] @ answer["embeddings"].T - 2 * np.eye(count)
        assert alike.max() < 0.8  # nobody is there twice


def test_more_faces_than_the_batch_go_through_a_network_in_several(face_server):
    network = f"face_{PACK}_recognizer"
    data = crowd(33, 1)
    before = batches(face_server, network)
    ask(face_server, ANALYSIS, data, ["embeddings"])
    after = batches(face_server, network)
    grown = {size: count - before.get(size, 0) for size, count in after.items() if count > before.get(size, 0)}
    assert sum(size * count for size, count in grown.items()) >= 33
    assert grown[32] == 1
    assert max(grown) == 32


def test_the_crops_are_the_faces_as_the_recogniser_sees_them(face_server):
    from insightface.utils import face_align

    scene = scenes.draw_crowd(6, seed=2)
    answer = ask(face_server, ANALYSIS, encoded(Image.fromarray(scene.image), "PNG"), ["crops", "keypoints"])
    bgr = np.ascontiguousarray(scene.image[:, :, ::-1])
    for crop, keypoints in zip(answer["crops"], answer["keypoints"], strict=True):
        np.testing.assert_array_equal(crop[:, :, ::-1], face_align.norm_crop(bgr, keypoints, 112))


# Only what is asked for


def test_what_is_not_asked_for_is_not_computed(face_server):
    """The watchdog's probes count too, a few; a network that 20 times saw six faces would count 120."""
    asked_for = {
        ("size",): (),
        (*FACES, "size"): (),
        ("crops",): (),
        ("embeddings",): ("recognizer",),
        ("landmarks_106",): ("landmarks_106",),
        ("pose",): ("landmarks_68",),
        ("age", "gender"): ("attributes",),
    }
    for outputs, kinds in asked_for.items():
        before = {network: inferences(face_server, network) for network in NETWORKS}
        for _ in range(20):
            answer = ask(face_server, ANALYSIS, SIX, outputs)
            assert set(answer) == set(outputs)
        ran = {network for network in NETWORKS if inferences(face_server, network) - before[network] > 30}
        assert ran == {f"face_{PACK}_{kind}" for kind in kinds}, outputs


def test_the_size_alone_needs_no_detector(face_server):
    before = inferences(face_server, f"face_{PACK}_detector")
    for _ in range(40):
        assert tuple(ask(face_server, ANALYSIS, ONE, ["size"])["size"]) == (480, 640)
    assert inferences(face_server, f"face_{PACK}_detector") - before < 20


def test_where_nobody_is_no_network_but_the_detector_is_asked(face_server):
    before = {network: inferences(face_server, network) for network in NETWORKS}
    for _ in range(40):
        assert len(ask(face_server, ANALYSIS, NOBODY)["embeddings"]) == 0
    for network in NETWORKS:
        assert inferences(face_server, network) - before[network] < 20


# Options


def test_min_score_is_a_threshold(face_server, face_packs):
    everything = ask(face_server, DETECTION, SIX, min_score=0.02)
    between = float(np.sort(everything["scores"])[-3:-1].mean())
    some = ask(face_server, DETECTION, SIX, min_score=between)
    kept = everything["scores"] >= between
    assert 0 < kept.sum() < len(kept)
    for output in FACES:
        np.testing.assert_array_equal(some[output], everything[output][kept])
    assert len(ask(face_server, DETECTION, SIX, min_score=1.0)["boxes"]) == 0
    # Below the default too it is InsightFace's own.
    expected = Reference(face_packs[PACK].folder)(SIX, AUTO, min_score=0.02)
    np.testing.assert_allclose(everything["boxes"], expected["boxes"], atol=0.01)


def test_a_threshold_near_0_gives_the_512_best(face_server, face_packs):
    """InsightFace gives thousands, at a minute's cost; the detector's answer has room for 512."""
    if "genuine" not in face_packs:
        pytest.skip("DEPTHFACE_WEIGHTS names no folder of genuine weights")
    model = detection_of(face_packs["genuine"].name)
    doubtful, best = ask(face_server, model, ONE, min_score=1e-6), ask(face_server, model, ONE, min_score=0.05)
    assert len(doubtful["boxes"]) == 512
    assert (np.diff(doubtful["scores"]) <= 0).all()
    assert all(np.isfinite(value).all() for value in doubtful.values())
    for output in FACES:
        np.testing.assert_array_equal(doubtful[output][: len(best[output])], best[output])


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("limit", [1, 2, 3, 5, 6, 100])
def test_max_faces_keeps_those_that_insightface_keeps_in_its_order(face_server, face_packs, model, limit):
    data = crowd(6, 8)
    everybody = ask(face_server, model, data, FACES)
    some = ask(face_server, model, data, FACES, max_faces=limit)
    chosen = processing.select(everybody["boxes"], (480, 640), limit)
    for output in FACES:
        np.testing.assert_array_equal(some[output], everybody[output][chosen])
    expected = Reference(face_packs[PACK].folder)(data, AUTO, max_faces=limit)
    np.testing.assert_allclose(some["boxes"], expected["boxes"], atol=0.01)


def test_max_faces_0_is_all(face_server):
    assert len(ask(face_server, ANALYSIS, SIX, ["boxes"], max_faces=0)["boxes"]) == 6


def test_every_answer_of_a_limited_request_is_of_the_faces_kept(face_server):
    everybody = ask(face_server, ANALYSIS, SIX)
    two = ask(face_server, ANALYSIS, SIX, max_faces=2)
    chosen = processing.select(everybody["boxes"], (480, 640), 2)
    assert_same(two, {name: value if name == "size" else value[chosen] for name, value in everybody.items()})


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
        with urllib.request.urlopen(request, timeout=60) as response:
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
    if model == ANALYSIS:  # of an ensemble Triton itself speaks, and says only that a step was never reached
        assert "no photo" in text
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
def mortal(face_repository: Path) -> Iterator[Server]:
    """A server of its own, whose processes may be killed."""
    with serving(face_repository) as server:
        yield server


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    ["face_detection_preprocess", "face_detection_postprocess", ANALYSIS, f"face_{PACK}_detector", NETWORKS[0]],
)
def test_a_killed_process_comes_back_by_itself(mortal, model):
    """Under load, which gets errors rather than silence; afterwards both models answer as before."""
    good = {public: ask(mortal, public, SIX) for public in MODELS}
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

    threads = [threading.Thread(target=load, args=(MODELS[index % 2],)) for index in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    processes = mortal.steps(model)
    assert processes, f"{model} has no process of its own"
    for process in processes:
        process.send_signal(signal.SIGKILL)
    killed = time.monotonic()
    while not any(f"{model}: serves again" in line for line in mortal.lines):
        assert time.monotonic() - killed < 20, "not back within 20 s"
        time.sleep(0.1)
    stop.set()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    for public, answer in good.items():
        assert_same(ask(mortal, public, SIX), answer, public)
    errors = [error for error in answers if error is not None]
    assert errors
    assert None in answers
    assert all(isinstance(error, InferenceServerException) for error in errors), errors
