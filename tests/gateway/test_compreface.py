"""CompreFace's contract, held against our client's answers."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import numpy as np
import pytest
import requests
from fixtures.gateways import CROWD, MODEL, NO_PHOTO, NOBODY, PORTRAIT, gateway, post
from fixtures.waiting import HANGS_AFTER_S

from depthface.errors import InvalidInput
from depthface_client import Face
from depthface_gateway.faces import compreface
from depthface_gateway.faces.similarity import similarity_of

DETECT, VERIFY = "/api/v1/detection/detect", "/api/v1/verification/verify"
VERIFY_EMBEDDINGS = "/api/v1/verification/embeddings/verify"


@pytest.fixture(scope="session")
def url(faces_gateway) -> str:
    return faces_gateway.urls["faces"]


@pytest.fixture(scope="session")
def strict_url() -> Iterator[str]:
    """Where a key is asked for, a file may have 1 KiB, and no Triton answers."""
    variables = {"DEPTHFACE_GATEWAY_API_KEY": "secret", "MAX_FILE_SIZE": "1KB"}
    with gateway("faces", url="127.0.0.1:1", **variables) as running:
        yield running.urls["faces"]


@pytest.fixture(scope="session")
def biggest_first(people) -> list[Face]:
    return sorted(people, key=lambda face: -face.area)


def sent_as_json(url: str, **photos: bytes) -> requests.Response:
    encoded = {name: base64.encodebytes(photo).decode() for name, photo in photos.items()}
    return requests.post(url, json=encoded, timeout=HANGS_AFTER_S)


def similarity(cosine: float) -> float:
    return (np.tanh((1.23132175 - np.sqrt(2 - 2 * cosine)) * 6.602259425) + 1) / 2


# What is found.


def test_it_detects(url, biggest_first):
    body = post(url, f"{DETECT}?face_plugins=landmarks, calculator,age,gender,pose", {"file": CROWD}).json()
    assert set(body) == {"result"}
    for row, face in zip(body["result"], biggest_first, strict=True):
        box = row["box"]
        assert [box[name] for name in ("x_min", "y_min", "x_max", "y_max")] == [round(float(side)) for side in face.box]
        assert row["landmarks"] == face.keypoints.round().astype(int).tolist()
        np.testing.assert_allclose(row["embedding"], face.embedding, atol=1e-4)
        assert row["gender"] == {"probability": 1.0, "value": face.gender}
        assert row["age"] == {"probability": 1.0, "low": face.age, "high": face.age}
        assert set(row["pose"]) == {"pitch", "yaw", "roll"}
    bare = post(url, f"{DETECT}?limit=2", {"file": CROWD}).json()
    assert set(bare) == {"result"}
    assert len(bare["result"]) == 2
    assert set(bare["result"][0]) == {"box"}


def test_landmarks2d106_are_landmarks_and_mask_is_left_out(url, biggest_first):
    rows = post(url, f"{DETECT}?face_plugins=mask,landmarks,landmarks2d106", {"file": CROWD}).json()["result"]
    for row, face in zip(rows, biggest_first, strict=True):
        assert set(row) == {"box", "landmarks"}
        assert row["landmarks"] == face.landmarks_106.round().astype(int).tolist()


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("", {"detector"}),
        ("landmarks,mask", {"detector"}),
        ("age,calculator", {"detector", "age", "calculator"}),
        ("gender,pose,nonsense", {"detector", "gender", "pose"}),
    ],
)
def test_status_tells_of_what_was_asked_for(url, asked, told):
    body = post(url, f"{DETECT}?status=true&face_plugins={asked}", {"file": PORTRAIT}).json()
    assert set(body["plugins_versions"]) == set(body["result"][0]["execution_time"]) == told
    photos = {"source_image": PORTRAIT, "target_image": PORTRAIT}
    (result,) = post(url, f"{VERIFY}?status=true&face_plugins={asked}", photos).json()["result"]
    for row in (result["source_image_face"], *result["face_matches"]):
        assert set(row["execution_time"]) == set(result["plugins_versions"]) == told | {"calculator"}


# What is compared.


@pytest.mark.parametrize(
    ("cosine", "similarity"),
    [(1.0, 1.0), (0.5, 0.95498), (1 - 1.23132175**2 / 2, 0.5), (0.0, 0.08204), (-1.0, 0.00004), (1.0000001, 1.0)],
)
def test_it_has_a_scale_of_its_own(cosine, similarity):
    assert similarity_of(cosine) == similarity


def test_it_verifies_the_biggest_face_first(url, face_client, biggest_first):
    photos = {"source_image": PORTRAIT, "target_image": CROWD}
    (result,) = post(url, VERIFY, photos).json()["result"]
    (source,) = face_client.faces(PORTRAIT, model=MODEL, parts=["embedding"], det_size=640)
    expected = [similarity(source.similarity(face)) for face in biggest_first]
    assert max(expected) > expected[0] + 0.5  # a look-alike that is smaller than a stranger does not come first
    similarities = [match["similarity"] for match in result["face_matches"]]
    np.testing.assert_allclose(similarities, expected, atol=5e-3)
    assert "embedding" not in result["source_image_face"]
    answer = sent_as_json(f"{url}{VERIFY}", **photos)
    assert [match["similarity"] for match in answer.json()["result"][0]["face_matches"]] == similarities
    (same,) = post(url, VERIFY, dict.fromkeys(photos, PORTRAIT)).json()["result"]
    assert same["face_matches"][0]["similarity"] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("target", [CROWD, NOBODY])
def test_a_source_of_several_people_is_nobody(url, target):
    photos = {"source_image": CROWD, "target_image": target}
    for answer in (post(url, f"{VERIFY}?limit=2", photos), sent_as_json(f"{url}{VERIFY}", **photos)):
        assert answer.status_code == 400
        assert answer.json() == {"code": 31, "message": "More than one face in the source image"}


def test_the_limit_is_for_source_and_target(url):
    photos = {"source_image": CROWD, "target_image": CROWD}
    (result,) = post(url, f"{VERIFY}?limit=1", photos).json()["result"]
    (match,) = result["face_matches"]
    assert match["box"] == result["source_image_face"]["box"]
    assert match["similarity"] == pytest.approx(1, abs=1e-4)


def test_embeddings_are_compared_as_photos_are_the_most_similar_first(url):
    def embedded(photo: bytes) -> list[list[float]]:
        rows = post(url, f"{DETECT}?face_plugins=calculator", {"file": photo}).json()["result"]
        return [row["embedding"] for row in rows]

    (source,), targets = embedded(PORTRAIT), embedded(CROWD)
    (verdict,) = post(url, VERIFY, {"source_image": PORTRAIT, "target_image": CROWD}).json()["result"]
    pairs = [(match["similarity"], target) for match, target in zip(verdict["face_matches"], targets, strict=True)]
    long = [[2.5 * number for number in target] for target in targets]  # theirs are not of unit length
    for sent, scale in ((targets, 1.0), (long, 2.5)):
        answer = requests.post(
            f"{url}{VERIFY_EMBEDDINGS}", json={"source": source, "targets": sent}, timeout=HANGS_AFTER_S
        )
        assert set(answer.json()) == {"result"}
        for row, (expected, target) in zip(answer.json()["result"], sorted(pairs, reverse=True), strict=True):
            assert set(row) == {"embedding", "similarity"}
            assert row["similarity"] == pytest.approx(expected, abs=1e-4)
            np.testing.assert_allclose(row["embedding"], np.array(target) * scale)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ('{"source": [1, 2]}', 400, 5),
        ('{"source": [], "targets": [[1]]}', 400, 5),
        ('{"source": [1, 2], "targets": [[1, 2], [1]]}', 400, 0),
        ('{"source": [1, 2], "targets": [[1, 2], []]}', 400, 0),
        ('{"source": [0, 0], "targets": [[1, 2]]}', 400, 0),
        ('{"source": [1, NaN], "targets": [[1, 2]]}', 400, 26),
        ('{"source": [1, 1e300], "targets": [[1, 2]]}', 400, 26),
        ('{"source": [1, "x"], "targets": 3}', 400, 26),
        ("{", 400, 26),
        ("[" * 5000, 400, 26),
        ('{"source": [1], "targets": [[%s]]}' % ("1," * 100_001), 413, 0),
    ],
)  # fmt: skip
def test_embeddings_that_cannot_be_compared(url, body, status, code):
    headers = {"content-type": "application/json"}
    answer = requests.post(f"{url}{VERIFY_EMBEDDINGS}", data=body, headers=headers, timeout=HANGS_AFTER_S)
    assert set(answer.json()) == {"message", "code"}
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert len(answer.content) < 1000


# What may be asked.

OPTIONS = {"limit": "1", "det_prob_threshold": "0.99", "face_plugins": "landmarks", "status": "true"}


def test_options_come_in_the_query_or_as_fields(url, people):
    least = sorted(face.score for face in people)[1]

    def detected(query: dict[str, str], **fields: str) -> dict:
        parts = {"file": ("a.jpg", CROWD)}
        return requests.post(f"{url}{DETECT}", params=query, data=fields, files=parts, timeout=HANGS_AFTER_S).json()

    for query, fields in ((OPTIONS, {}), ({}, OPTIONS), (dict.fromkeys(OPTIONS, ""), OPTIONS)):
        body = detected(query, **fields)
        assert set(body) == {"result", "plugins_versions"}
        (row,) = body["result"]
        assert set(row) == {"box", "landmarks", "execution_time"}
    assert len(detected({"limit": "3"}, limit="2")["result"]) == 3
    above = {"det_prob_threshold": f"{least:.6f}"}
    assert len(detected({}, **above)["result"]) == len(detected(above)["result"]) < len(people)


def test_empty_options_count_as_not_sent(url, people):
    body = post(url, f"{DETECT}?limit=&det_prob_threshold=&face_plugins=&status=", {"file": CROWD}).json()
    assert len(body["result"]) == len(people)
    assert set(body) == {"result"}
    query = "limit=&det_prob_threshold=&status=true"
    answer = requests.post(
        f"{url}{DETECT}?{query}", json={"file": base64.b64encode(CROWD).decode()}, timeout=HANGS_AFTER_S
    )
    assert "plugins_versions" in answer.json()


# What is refused.


@pytest.mark.parametrize(
    ("path", "files", "status", "code"),
    [
        ("/detection/detect", {"file": NOBODY}, 400, 28),
        ("/detection/detect", {}, 400, 34),
        ("/detection/detect", {"file": NO_PHOTO}, 400, 0),
        ("/detection/detect?limit=-1", {"file": CROWD}, 400, 26),
        ("/detection/detect?det_prob_threshold=nan", {"file": CROWD}, 400, 26),
        ("/detection/detect", {"file": bytes(6 * 2**20)}, 400, 0),
        ("/verification/verify", {"source_image": PORTRAIT, "target_image": NOBODY}, 400, 28),
        ("/verification/verify", {"source_image": NOBODY, "target_image": CROWD}, 400, 28),
        ("/verification/verify", {"source_image": PORTRAIT}, 400, 34),
        ("/recognition/recognize", {"file": CROWD}, 404, 0),
    ],
)
def test_it_refuses_with_message_and_code(url, path, files, status, code):
    answer = post(url, f"/api/v1{path}", files)
    assert answer.status_code == status
    assert set(answer.json()) == {"message", "code"}
    assert answer.json()["code"] == code
    if code == 28:
        assert answer.json()["message"] == "No face is found in the given image"


@pytest.mark.parametrize("fields", [{"limit": "-1"}, {"limit": "x"}, {"det_prob_threshold": "2"}, {"status": "maybe"}])
def test_it_refuses_a_field_that_cannot_be(url, fields):
    answer = post(url, DETECT, {"file": CROWD}, **fields)
    assert (answer.status_code, answer.json()["code"]) == (400, 26)
    assert next(iter(fields)) in answer.json()["message"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("{", 0),
        ("[" * 5000, 0),
        ("[]", 0),
        ('{"file": 3}', 0),
        ('{"file": "no base64!"}', 0),
        ('{"file": ""}', 5),
        ('{"file": null}', 5),
        ("{}", 5),
    ],
)
def test_it_refuses_json_that_is_none(url, body, code):
    headers = {"content-type": "application/json"}
    answer = requests.post(f"{url}{DETECT}", data=body, headers=headers, timeout=HANGS_AFTER_S)
    assert answer.status_code == 400
    assert set(answer.json()) == {"message", "code"}
    assert answer.json()["code"] == code


def test_a_file_has_a_limit_and_base64_has_none(strict_url):
    headers = {"x-api-key": "secret"}
    for size, status in ((1024, 503), (1025, 400)):  # nobody is there to look at it
        files = {"file": ("a.jpg", bytes(size))}
        answer = requests.post(f"{strict_url}{DETECT}", files=files, headers=headers, timeout=HANGS_AFTER_S)
        assert (answer.status_code, answer.json()["code"]) == (status, 0)
    large = {"file": base64.b64encode(bytes(2**20)).decode()}
    answer = requests.post(f"{strict_url}{DETECT}", json=large, headers=headers, timeout=HANGS_AFTER_S)
    assert answer.status_code == 503


@pytest.mark.parametrize(
    ("said", "most"),
    [("", 5 * 2**20), ("5MB", 5 * 2**20), ("20mb", 20 * 2**20), ("300KB", 300 * 2**10), ("1GB", 2**30), ("77", 77)],
)
def test_a_size_is_written_as_there(said, most):
    assert compreface.max_file_bytes({"MAX_FILE_SIZE": said}) == most


@pytest.mark.parametrize("said", ["-1", "5 apples", "MB", "1.5MB", "5MBB", "٥MB"])
def test_what_is_no_size_is_refused(said):
    with pytest.raises(InvalidInput, match="MAX_FILE_SIZE is"):
        compreface.max_file_bytes({"MAX_FILE_SIZE": said})


def test_a_key_that_is_missing_or_wrong(strict_url):
    def told(**headers: str) -> tuple[int, int]:
        answer = requests.post(f"{strict_url}{DETECT}", headers=headers, timeout=HANGS_AFTER_S)
        return answer.status_code, answer.json()["code"]

    assert told() == (400, 20)
    assert told(**{"x-api-key": "wrong"}) == (404, 10)
    assert told(**{"x-api-key": "secret"}) == (400, 34)
