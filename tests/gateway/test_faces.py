"""Faces over REST: InsightFace-RestAPI and InsightFace Server, held against our client's answers."""

from __future__ import annotations

import asyncio
import base64
import json
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest
import requests
from fixtures.faces import turned
from fixtures.gateways import CROWD, MODEL, MOST_MIB, NO_PHOTO, NOBODY, PORTRAIT, STRANGER, gateway, post
from fixtures.waiting import HANGS_AFTER_S
from PIL import Image
from starlette.requests import Request

from depthface_client import ModelInfo
from depthface_gateway.context import Context
from depthface_gateway.faces import insightface_server
from depthface_gateway.faces.asking import Faces
from depthface_gateway.settings import Settings


@pytest.fixture(scope="session")
def url(faces_gateway) -> str:
    return faces_gateway.urls["faces"]


# InsightFace-RestAPI.


def test_health_tells_the_swappers_state(url):
    answer = requests.get(f"{url}/health", timeout=HANGS_AFTER_S)
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "healthy",
        "service": "InsightFace REST API",
        "models": {"detector": "loaded", "recognizer": "loaded", "swapper": "unavailable"},
    }


def test_an_embedding(url, people):
    answer = post(url, "/recognition/embedding", {"file": CROWD})
    assert answer.status_code == 200
    np.testing.assert_allclose(answer.json()["embedding"], people[0].embedding, atol=1e-4)
    nobody = post(url, "/recognition/embedding", {"file": NOBODY})
    assert (nobody.status_code, nobody.json()) == (200, {"error": "No face detected"})


def test_swapping_without_a_swapper_says_how_to_get_one(url):
    answer = post(url, "/swap", {"source": PORTRAIT, "target": STRANGER})
    assert answer.status_code == 503
    assert "Export one: depthface export" in answer.json()["detail"]


def test_detecting_faces(url, people):
    answer = post(url, "/api/detect-faces", {"file": CROWD}).json()
    assert answer["success"] is True
    assert answer["faces_count"] == len(answer["faces"]) == len(people) >= 4
    assert answer["image_size"] == {"width": 640, "height": 480}
    for index, (row, face) in enumerate(zip(answer["faces"], people, strict=True)):
        assert row["id"] == index
        x1, y1, x2, y2 = (round(float(side)) for side in face.box)
        assert (row["x"], row["y"], row["width"], row["height"]) == (x1, y1, x2 - x1, y2 - y1)
        assert row["confidence"] == pytest.approx(face.score, abs=1e-4)


@pytest.mark.parametrize(
    ("path", "files", "status"),
    [
        ("/recognition/embedding", {"file": NO_PHOTO}, 400),
        ("/recognition/embedding", {"photo": CROWD}, 422),
        ("/api/detect-faces", {"file": b""}, 400),
        ("/api/detect-faces", {}, 422),
        ("/swap", {"source": PORTRAIT}, 422),
        ("/recognition/embedding", {"file": bytes(MOST_MIB * 2**20)}, 413),
        ("/nothing", {"file": CROWD}, 404),
    ],
)
def test_seed_002_refuses_with_detail(url, path, files, status):
    answer = post(url, path, files)
    assert answer.status_code == status
    assert set(answer.json()) == {"detail"}


# InsightFace Server.


def test_v1_detect(url, face_client):
    answer = post(url, "/v1/detect", {"image": CROWD})
    body = answer.json()
    assert set(body) == {"faces", "processing_ms", "request_id"}
    assert answer.headers["x-request-id"] == body["request_id"]
    expected = sorted(face_client.faces(CROWD, model=MODEL, parts=()), key=lambda face: -face.area)
    assert len(body["faces"]) == len(expected) >= 4
    for row, face in zip(body["faces"], expected, strict=True):
        box = row["bbox"]["pixels"]
        assert (box["x"], box["y"]) == (max(round(float(face.box[0])), 0), max(round(float(face.box[1])), 0))
        assert box["x"] + box["width"] <= 640
        assert row["bbox"]["normalized"]["width"] == pytest.approx(box["width"] / 640)
        assert row["bbox"]["normalized"]["top"] == pytest.approx(box["y"] / 480)
        np.testing.assert_allclose(row["landmarks"], face.keypoints, atol=2e-3)
        assert 0 <= row["quality"]["score"] <= 1
        assert set(row["quality"]) == {"score", "sharpness", "brightness", "pose"}
    assert len(post(url, "/v1/detect", {"image": CROWD}, max_faces="2").json()["faces"]) == 2
    assert post(url, "/v1/detect", {"image": NOBODY}).json()["faces"] == []


@pytest.mark.parametrize("turn", [3, 6, 8])
def test_v1_boxes_are_of_the_upright_photo(url, turn):
    def boxes(photo: bytes) -> list[dict]:
        found = [row["bbox"] for row in post(url, "/v1/detect", {"image": photo}).json()["faces"]]
        return sorted(found, key=lambda box: box["pixels"]["x"])

    upright = boxes(CROWD)
    assert len(upright) >= 4
    found = boxes(turned(Image.open(BytesIO(CROWD)), turn))
    for box, other in zip(found, upright, strict=True):
        assert box["pixels"] == pytest.approx(other["pixels"], abs=4)
        assert box["normalized"] == pytest.approx(other["normalized"], abs=0.01)


def test_v1_compare(url, face_client):
    same = post(url, "/v1/compare", {"source": PORTRAIT, "target": PORTRAIT}, threshold="0.9").json()
    assert (same["matched"], same["threshold"]) == (True, 0.9)
    assert same["similarity"] == pytest.approx(1, abs=1e-3)
    assert same["source_face"]["bbox"] == same["target_face"]["bbox"]
    other = post(url, "/v1/compare", {"source": PORTRAIT, "target": STRANGER}).json()
    expected = face_client.compare(PORTRAIT, STRANGER, model=MODEL)
    assert other["threshold"] == 0.4
    assert other["similarity"] == pytest.approx(expected.similarity, abs=1e-3)
    assert other["matched"] == (expected.similarity >= 0.4)


def test_v1_embeddings(url, face_client):
    body = post(url, "/v1/embeddings", {"image": CROWD}).json()
    (row,) = body["faces"]
    largest = max(face_client.faces(CROWD, model=MODEL, parts=["embedding"]), key=lambda face: face.area)
    np.testing.assert_allclose(row["embedding"], largest.embedding, atol=1e-4)
    assert np.linalg.norm(row["embedding"]) == pytest.approx(1, abs=1e-4)
    assert body["model"]["embedding_dimension"] == 512


def test_v1_tells_what_it_is(url):
    health = requests.get(f"{url}/v1/health", timeout=HANGS_AFTER_S).json()
    assert (health["status"], health["auth_enabled"]) == ("ready", False)
    assert requests.get(f"{url}/v1/models", timeout=HANGS_AFTER_S).json()["models"][0]["model_id"] == MODEL
    system = requests.get(f"{url}/v1/system", timeout=HANGS_AFTER_S).json()
    assert (
        system["safe_config"]["default_similarity_threshold"] == 0.4 and system["model"]["embedding_dimension"] == 512
    )
    assert system["models"] == {}  # there the state of a folder
    given = requests.get(f"{url}/v1/health", headers={"x-request-id": "mine-1"}, timeout=HANGS_AFTER_S)
    assert given.headers["x-request-id"] == given.json()["request_id"] == "mine-1"


def test_v1_tells_the_width_of_the_packs_own_vectors():
    def told(**facts: str) -> int:
        pack = ModelInfo("m", True, weights="", task="faces", precision="", is_lazy=False, facts={"pack": "p", **facts})
        triton = SimpleNamespace(is_alive=True, models={"m": pack})
        routes = insightface_server.router(Faces(Context(triton, Settings.of({}), {}), "p")).routes
        (system,) = [route.endpoint for route in routes if route.path == "/v1/system"]
        request = Request({"type": "http", "headers": [], "depthface_request_id": "id"})
        return json.loads(asyncio.run(system(request)).body)["model"]["embedding_dimension"]

    assert told(embedding_size="128") == 128
    assert told() == 0, "it has no recogniser"


@pytest.mark.parametrize(
    ("path", "files", "fields", "status", "code"),
    [
        ("/v1/detect", {"image": NO_PHOTO}, {}, 422, "invalid_image"),
        ("/v1/detect", {}, {}, 400, "invalid_request"),
        ("/v1/detect", {"image": CROWD}, {"max_faces": "0"}, 400, "invalid_request"),
        ("/v1/detect", {"image": CROWD}, {"max_faces": "101"}, 400, "invalid_request"),
        ("/v1/detect", {"image": CROWD}, {"min_score": "1.0"}, 400, "request_detection_override_not_supported"),
        ("/v1/detect", {"image": CROWD}, {"collection_id": "x"}, 404, "collection_not_found"),
        ("/v1/detect", {"image": bytes(11 * 2**20)}, {}, 413, "image_too_large"),
        ("/v1/detect", {"image": bytes(MOST_MIB * 2**20)}, {}, 413, "request_too_large"),
        ("/v1/compare", {"source": PORTRAIT, "target": NOBODY}, {}, 422, "face_not_found"),
        ("/v1/compare", {"source": PORTRAIT, "target": PORTRAIT}, {"threshold": "2"}, 400, "invalid_request"),
        ("/v1/compare", {"source": PORTRAIT, "target": PORTRAIT}, {"threshold": "nan"}, 400, "invalid_request"),
        ("/v1/embeddings", {"image": NOBODY}, {}, 422, "face_not_found"),
        ("/v1/embeddings", {"image": CROWD}, {"face_selection": "x"}, 400, "request_detection_override_not_supported"),
        ("/v1/nothing", {}, {}, 404, "route_not_found"),
        ("/v1/health", {}, {}, 405, "method_not_allowed"),
    ],
)  # fmt: skip
def test_v1_refuses_in_its_envelope(url, path, files, fields, status, code):
    answer = post(url, path, files, **fields)
    assert answer.status_code == status
    body = answer.json()
    assert set(body) == {"error", "request_id"}
    assert body["error"]["code"] == code
    assert body["error"]["message"]
    assert body["error"]["details"] == {}
    assert answer.headers["x-request-id"] == body["request_id"]


# All of them.


def test_without_a_triton_each_says_so(lonely_gateway):
    url = lonely_gateway.urls["faces"]
    health = requests.get(f"{url}/health", timeout=HANGS_AFTER_S)
    assert (health.status_code, health.json()["models"]["detector"]) == (503, "unavailable")
    health = requests.get(f"{url}/v1/health", timeout=HANGS_AFTER_S)
    assert (health.status_code, set(health.json())) == (503, {"status", "version", "auth_enabled", "request_id"})
    assert health.json()["status"] == "not_ready"
    assert post(url, "/recognition/embedding", {"file": CROWD}).status_code == 503
    assert post(url, "/v1/detect", {"image": CROWD}).json()["error"]["code"] == "runtime_unavailable"
    assert post(url, "/api/v1/detection/detect", {"file": CROWD}).status_code == 503


def test_many_at_once_are_right(url, people):
    def one(index: int) -> int:
        return len(post(url, "/v1/detect", {"image": (CROWD, PORTRAIT, NOBODY)[index % 3]}).json()["faces"])

    with ThreadPoolExecutor(24) as pool:
        counts = list(pool.map(one, range(24)))
    assert counts == [len(people), 1, 0] * 8


def test_a_key_is_asked_for_where_it_is_set(face_server):
    variables = {"DEPTHFACE_GATEWAY_API_KEY": "secret", "FACES_PACK": "synthetic", "DEF_DET_THRESH": "1.0"}
    with gateway("faces", url=face_server.host, options=("--log-format", "json"), **variables) as running:
        url = running.urls["faces"]
        for headers in ({}, {"x-api-key": "wrong"}, {"authorization": "Basic secret"}):
            answer = requests.get(f"{url}/v1/models", headers=headers, timeout=HANGS_AFTER_S)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"
        for headers in ({"x-api-key": "secret"}, {"authorization": "Bearer secret"}):
            assert requests.get(f"{url}/v1/models", headers=headers, timeout=HANGS_AFTER_S).status_code == 200
        assert requests.get(f"{url}/v1/health", timeout=HANGS_AFTER_S).json()["auth_enabled"] is True
        body = {"images": {"data": [base64.b64encode(CROWD).decode()]}}
        answer = requests.post(f"{url}/extract", json=body, headers={"x-api-key": "secret"}, timeout=HANGS_AFTER_S)
        assert answer.json()["data"][0]["faces"] == []  # DEF_DET_THRESH
        assert running.stop() == 0
    logged = [json.loads(line) for line in running.lines if line.startswith("{")]
    requested = [entry for entry in logged if entry.get("path") == "/extract"]
    assert [(entry["contract"], entry["status"]) for entry in requested] == [("faces", 200)]
    assert requested[0]["request_id"] == answer.headers["x-request-id"]
    assert "secret" not in "".join(running.lines)
