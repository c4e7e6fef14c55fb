"""Faces on the real server: batches, options, what is computed, bad input and dead processes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.faces import (
    AUTO,
    FACES,
    HEADS,
    Reference,
    analysis_of,
    ask,
    assert_same,
    crowd,
    detection_of,
    heads,
    many_heads,
)
from fixtures.photos import VARIETY, encoded
from fixtures.serving import Server, serving
from fixtures.waiting import HANGS_AFTER_S, settled
from PIL import Image
from tritonclient.http import InferenceServerClient

from depthface.config import read as read_config
from depthface.contract import EXPORTED_CONFIG
from depthface.families.insightface import processing
from depthface_export import configs, texts
from depthface_standins.insightface import scenes

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


def statistics(server: Server) -> dict[str, dict[str, Any]]:
    """By model, when all that was answered has been counted."""

    def read() -> dict[str, dict[str, Any]]:
        with InferenceServerClient(server.host, network_timeout=HANGS_AFTER_S) as client:
            return {one["name"]: one for one in client.get_inference_statistics()["model_stats"]}

    return settled(read)


def inferences(server: Server) -> dict[str, int]:
    """Faces (or photos) that each network has been through."""
    return {name: int(found["inference_count"]) for name, found in statistics(server).items()}


def batches(server: Server, model: str) -> dict[int, int]:
    """How often a network ran on a batch of each size."""
    return {
        int(batch["batch_size"]): int(batch["compute_infer"]["count"])
        for batch in statistics(server)[model]["batch_stats"]
    }


# Batches and many clients


@pytest.fixture(scope="module")
def batching(face_repository: Path, tmp_path_factory) -> Iterator[Server]:
    """A server whose networks batch requests, from as many processes, as they do where an export finds a GPU."""
    copy = Path(shutil.copytree(face_repository, tmp_path_factory.mktemp("batching") / "model_repository"))
    for path in copy.glob(f"*/{EXPORTED_CONFIG}"):
        config = read_config(path)
        if config.backend == "python":
            config.instance_group[0].count *= configs.PIPELINES_FOR_A_GPU
        else:
            config.dynamic_batching.ClearField("preferred_batch_size")
        texts.write_config(config, path)
    with serving(copy) as server:
        yield server


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
def test_32_clients_at_once_get_what_each_would_get_alone(batching, face_pack, mixed, model_of):
    """The networks' batches mix the photos and their faces."""
    photos, counts = mixed
    model, detector = model_of(face_pack.name), f"face_{face_pack.name}_detector"
    alone = [ask(batching, model, data) for data in photos]
    assert [len(answer["boxes"]) for answer in alone] == counts
    before = batches(batching, detector)
    with ThreadPoolExecutor(32) as pool:
        together = list(pool.map(lambda index: ask(batching, model, photos[index % 8]), range(64)))
    for index, answer in enumerate(together):
        assert_same(answer, alone[index % 8], f"request {index}")
    grown = {size for size, count in batches(batching, detector).items() if count > before.get(size, 0)}
    assert max(grown) > 1, "nothing was batched, so nothing was shown of batches"


def test_32_clients_with_options_of_their_own_do_not_get_each_others(batching):
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
    alone = [ask(batching, ANALYSIS, SIX, [*FACES, "embeddings"], **chosen) for chosen in options]
    with ThreadPoolExecutor(32) as pool:
        together = list(
            pool.map(lambda i: ask(batching, ANALYSIS, SIX, [*FACES, "embeddings"], **options[i % 8]), range(64))
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
    """And nothing is counted that nobody asked for."""
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
        before = inferences(face_server)
        for _ in range(2):
            answer = ask(face_server, ANALYSIS, SIX, outputs)
            assert set(answer) == set(outputs)
        after = inferences(face_server)
        ran = {network for network in NETWORKS if after[network] > before[network]}
        assert ran == {f"face_{PACK}_{kind}" for kind in kinds}, outputs


def test_the_size_alone_needs_no_detector(face_server):
    before = inferences(face_server)[f"face_{PACK}_detector"]
    for _ in range(4):
        assert tuple(ask(face_server, ANALYSIS, ONE, ["size"])["size"]) == (480, 640)
    assert inferences(face_server)[f"face_{PACK}_detector"] == before


def test_where_nobody_is_no_network_but_the_detector_is_asked(face_server):
    before = inferences(face_server)
    for _ in range(40):
        assert len(ask(face_server, ANALYSIS, NOBODY)["embeddings"]) == 0
    after = inferences(face_server)
    for network in NETWORKS:
        assert after[network] - before[network] < 20


# Options


@pytest.fixture(scope="module")
def face_reference(face_packs) -> Reference:
    return Reference(face_packs[PACK].folder)


def test_min_score_is_a_threshold(face_server, face_reference):
    everything = ask(face_server, DETECTION, SIX, min_score=0.02)
    between = float(np.sort(everything["scores"])[-3:-1].mean())
    some = ask(face_server, DETECTION, SIX, min_score=between)
    kept = everything["scores"] >= between
    assert 0 < kept.sum() < len(kept)
    for output in FACES:
        np.testing.assert_array_equal(some[output], everything[output][kept])
    assert len(ask(face_server, DETECTION, SIX, min_score=1.0)["boxes"]) == 0
    # Below the default too it is InsightFace's own.
    expected = face_reference(SIX, AUTO, min_score=0.02)
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
def test_max_faces_keeps_those_that_insightface_keeps_in_its_order(face_server, face_reference, model, limit):
    data = crowd(6, 8)
    everybody = ask(face_server, model, data, FACES)
    some = ask(face_server, model, data, FACES, max_faces=limit)
    chosen = processing.select(everybody["boxes"], (480, 640), limit)
    for output in FACES:
        np.testing.assert_array_equal(some[output], everybody[output][chosen])
    expected = face_reference(data, AUTO, max_faces=limit)
    np.testing.assert_allclose(some["boxes"], expected["boxes"], atol=0.01)


def test_max_faces_0_is_all(face_server):
    assert len(ask(face_server, ANALYSIS, SIX, ["boxes"], max_faces=0)["boxes"]) == 6


def test_every_answer_of_a_limited_request_is_of_the_faces_kept(face_server):
    everybody = ask(face_server, ANALYSIS, SIX)
    two = ask(face_server, ANALYSIS, SIX, max_faces=2)
    chosen = processing.select(everybody["boxes"], (480, 640), 2)
    assert_same(two, {name: value if name == "size" else value[chosen] for name, value in everybody.items()})
