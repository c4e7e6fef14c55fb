"""Faces over REST: InsightFace-REST, held against our client's answers."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Iterable
from io import BytesIO
from types import SimpleNamespace

import msgpack
import numpy as np
import pytest
import requests
from fixtures.gateways import CROWD, NO_PHOTO, NOBODY, post
from fixtures.waiting import HANGS_AFTER_S
from PIL import Image
from starlette.requests import Request

from depthface.errors import (
    InvalidImage,
    ModelUnavailable,
    RequestTimeout,
    ServerFault,
    ServerOverloaded,
    ServerUnavailable,
)
from depthface.tasks.faces import Options
from depthface_client import ModelInfo
from depthface_gateway.faces import insightface_rest
from depthface_gateway.faces.asking import Faces


@pytest.fixture(scope="session")
def url(faces_gateway) -> str:
    return faces_gateway.urls["faces"]


# InsightFace-REST.


def test_extract_in_json(url, people):
    images = {"data": [base64.b64encode(photo).decode() for photo in (CROWD, NO_PHOTO, NOBODY)]}
    images["data"].append("data:image/jpeg;base64," + images["data"][0])
    images["data"].append("no base64!")
    images["data"].append(base64.encodebytes(CROWD).decode())  # in lines, as the command base64 writes it
    wish = {"threshold": 0.5, "return_landmarks": True, "extract_ga": True, "return_face_data": True}
    answer = requests.post(
        f"{url}/extract", json={"images": images, **wish, "verbose_timings": True}, timeout=HANGS_AFTER_S
    ).json()
    assert set(answer["took"]) == {"total_ms", "read_imgs_ms", "embed_all_ms"}
    crowd, broken, nobody, as_url, no_base64, in_lines = answer["data"]
    assert [row["status"] for row in answer["data"]] == ["ok", "failed", "ok", "ok", "failed", "ok"]
    assert broken["faces"] == nobody["faces"] == []
    assert "not an image" in broken["traceback"]
    assert "base64" in no_base64["traceback"]
    assert len(crowd["faces"]) == len(as_url["faces"]) == len(in_lines["faces"]) == len(people) >= 4
    for index, (row, face) in enumerate(zip(crowd["faces"], people, strict=True)):
        assert row["num_det"] == index
        assert row["bbox"] == [int(side) for side in face.box]
        assert row["size"] == int(face.box[2] - face.box[0])
        assert row["prob"] == pytest.approx(face.score, abs=1e-4)
        np.testing.assert_allclose(row["vec"], face.embedding, atol=1e-4)
        assert (row["gender"], row["age"]) == (["female", "male"].index(face.gender), face.age)
        assert row["landmarks"] == face.keypoints.astype(int).tolist()
        assert Image.open(BytesIO(base64.b64decode(row["facedata"]))).size == (112, 112)


def test_extract_in_msgpack_both_ways(url, people):
    body = msgpack.packb({"images": {"data": [CROWD]}, "threshold": 0.5, "msgpack": True})
    headers = {"content-type": "application/msgpack"}
    answer = requests.post(f"{url}/extract", data=body, headers=headers, timeout=HANGS_AFTER_S)
    assert answer.headers["content-type"] == "application/x-msgpack"
    (row,) = msgpack.unpackb(answer.content)["data"]
    assert len(row["faces"]) == len(people)
    np.testing.assert_allclose(row["faces"][0]["vec"], people[0].embedding, atol=1e-4)
    assert "landmarks" not in row["faces"][0]
    asked = requests.post(
        f"{url}/extract", data=body, headers=headers | {"accept": "application/x-msgpack"}, timeout=HANGS_AFTER_S
    )
    assert asked.headers["content-type"] == "application/x-msgpack"


def test_extract_does_what_its_options_say(url, people):
    def extract(**options: object) -> list[dict]:
        body = {"images": {"data": [base64.b64encode(CROWD).decode()]}, **options}
        return requests.post(f"{url}/extract", json=body, timeout=HANGS_AFTER_S).json()["data"][0]["faces"]

    assert len(extract(limit_faces=2)) == 2
    surest = [[int(side) for side in face.box] for face in people]
    largest = [[int(side) for side in face.box] for face in sorted(people, key=lambda face: -face.area)]
    for limit in range(len(people) + 2):
        rows = extract(limit_faces=limit, threshold=0.5)
        is_cut = 0 < limit < len(people)
        assert [row["bbox"] for row in rows] == (largest[:limit] if is_cut else surest)
        assert [row["num_det"] for row in rows] == list(range(len(rows)))
    widths = sorted(int(face.box[2] - face.box[0]) for face in people)
    assert len(extract(min_face_size=widths[-2], threshold=0.5)) == 2
    assert extract(threshold=1.0) == extract(threshold=1.5) == []
    for everything in ({"limit_faces": -1, "min_face_size": -5}, {"limit_faces": None, "min_face_size": None}):
        assert len(extract(threshold=0.5, img_req_headers={"X-Try": 1}, **everything)) == len(people)
    assert all(row["vec"] is None for row in extract(extract_embedding=False))


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 422),
        (b"{}", 422),
        (b'{"images": {"data": 3}}', 422),
        (b'{"images": {"data": []}, "threshold": NaN}', 422),
        (b'{"images": {"data": []}, "limit_faces": 2147483648}', 422),
        (b'{"images": {"data": []}, "embed_only": true}', 501),
        (b'{"images": {"urls": ["http://127.0.0.1/"]}}', 400),
        (json.dumps({"images": {"data": ["x"] * 1001}}).encode(), 413),
    ],
)
def test_extract_refuses_with_detail(url, body, status):
    answer = requests.post(
        f"{url}/extract", data=body, headers={"content-type": "application/json"}, timeout=HANGS_AFTER_S
    )
    assert answer.status_code == status
    assert answer.json()["detail"]


def test_the_largest_come_first_only_where_some_are_left_out():
    found = [SimpleNamespace(area=area) for area in (20.0, 30.0, 10.0)]

    async def ask(_: object) -> list:
        return found

    pack = ModelInfo("m", ready=True, weights="", task="faces", precision="", is_lazy=False, facts={"pack": "p"})
    faces = Faces(SimpleNamespace(triton=SimpleNamespace(is_alive=True, models={"m": pack}, ask=ask)), "p")

    def areas(largest: int | None) -> list[float]:
        return [face.area for face in asyncio.run(faces.find(b"", "id", largest=largest))]

    assert areas(2) == [30.0, 20.0]
    assert areas(None) == areas(0) == areas(3) == areas(4) == [20.0, 30.0, 10.0]


@pytest.mark.parametrize(
    ("said", "asked"), [(0.0, 1e-6), (1e-300, 1e-6), (-1.0, 1e-6), (0.5, 0.5), (1.5, 1.0), (None, None)]
)
def test_a_threshold_of_nothing_is_taken_and_one_beyond_all(said, asked):
    heard: list[float | None] = []

    class Asked:
        async def faces(self, photo: bytes, *, min_score: float | None, **_: object) -> list:
            Options.of(min_score, None, None)  # or it raises
            heard.append(min_score)
            return []

    pack = ModelInfo("m", ready=True, weights="", task="faces", precision="", is_lazy=False, facts={"pack": "p"})
    triton = SimpleNamespace(is_alive=True, models={"m": pack}, ask=lambda call: call(Asked()))
    asyncio.run(Faces(SimpleNamespace(triton=triton), "p").find(b"", "id", min_score=said))
    assert heard == [asked]


def test_what_a_pack_lacks_takes_nothing_else_with_it():
    heard: list[tuple[str, ...]] = []

    class Asked:
        async def faces(self, photo: bytes, *, parts: Iterable[str], **_: object) -> list:
            heard.append(tuple(parts))
            return []

    offered = ("boxes", "scores", "keypoints", "size", "embeddings", "crops")  # as buffalo_sc: neither gender nor age
    facts = {"pack": "p"}
    pack = ModelInfo("m", True, "", task="faces", precision="", is_lazy=False, outputs=offered, facts=facts)
    triton = SimpleNamespace(is_alive=True, models={"m": pack}, ask=lambda call: call(Asked()))
    faces = Faces(SimpleNamespace(triton=triton), "p")
    for parts in (("embedding", "attributes", "crop"), ("attributes",), ()):
        asyncio.run(faces.find(b"", "id", parts))
    assert heard == [("embedding", "crop"), (), ()]


def extracted(find: Callable[..., Awaitable[object]], *photos: bytes) -> list[dict]:
    """Have the route find faces in photos in this way."""
    settings = SimpleNamespace(max_body_bytes=2**20)
    faces = SimpleNamespace(context=SimpleNamespace(environment={}, settings=settings), find=find)
    routes = insightface_rest.router(faces, insightface_rest.Outside()).routes
    (extract,) = [route.endpoint for route in routes if route.path == "/extract"]
    body = json.dumps({"images": {"data": [base64.b64encode(photo).decode() for photo in photos]}}).encode()

    async def receive() -> dict:
        return {"type": "http.request", "body": body, "more_body": False}

    request = Request({"type": "http", "headers": [], "depthface_request_id": "id"}, receive)
    return json.loads(asyncio.run(extract(request)).body)["data"]


@pytest.mark.parametrize("error", [ServerFault, RequestTimeout, ServerOverloaded, InvalidImage])
def test_extract_fails_for_one_photo_alone(error):
    async def find(photo: bytes, *_: object, **__: object) -> list:
        if photo == b"bad":
            raise error("It is broken.")
        return []

    good, bad = extracted(find, b"good", b"bad")
    assert (good["status"], bad["status"], bad["traceback"]) == ("ok", "failed", "It is broken.")


@pytest.mark.parametrize("error", [ServerUnavailable, ModelUnavailable])
def test_extract_ends_where_nothing_answers(error):
    ended: list[bytes] = []

    async def find(photo: bytes, *_: object, **__: object) -> list:
        if photo == b"bad":
            raise error("Nobody is there.")
        try:
            await asyncio.sleep(HANGS_AFTER_S)
        finally:
            ended.append(photo)
        return []

    with pytest.raises(error):
        extracted(find, b"good", b"bad")
    assert ended == [b"good"]


def test_extract_refuses_what_is_no_msgpack(url):
    for body in (b"\xc1", b"\x91" * 5000, b"", msgpack.packb([1])):
        headers = {"content-type": "application/msgpack"}
        answer = requests.post(f"{url}/extract", data=body, headers=headers, timeout=HANGS_AFTER_S)
        assert answer.status_code == 422


COUNT = 300_000
MANY = {  # a path, a type, a body, and what is said of it
    "numbers": ("/extract", "json", b'{"images":{"data":[%s0]}}' % (b"0," * COUNT), 413),
    "lists": ("/extract", "json", b'{"images":{"data":[%s0]}}' % (b"[]," * COUNT), 413),
    "addresses": ("/extract", "json", b'{"images":{"urls":[%s0]}}' % (b"0," * 5000), 422),
    "headers": (
        "/extract", "json", b'{"images":{},"img_req_headers":{%s}}' % b",".join(b'"%d":[]' % n for n in range(999)), 422
    ),
    "nothings": (
        "/extract", "msgpack", b"\x81\xa6images\x81\xa4data\xdd" + COUNT.to_bytes(4, "big") + b"\xc0" * COUNT, 422
    ),
    "lists of lists": (
        "/extract", "msgpack", b"\x82\xa6images\x80\xa1x\x9a" + (b"\xdc\x27\x10" + b"\x90" * 10_000) * 10, 422
    ),
    "maps": ("/extract", "msgpack", b"\x82\xa6images\x80\xa1x\xdc\x27\x10" + b"\x80" * 10_000, 422),
    "numbers to draw": ("/draw_detections", "json", b'{"images":{"data":[%s0]}}' % (b"0," * COUNT), 413),
    "few numbers to draw": ("/draw_detections", "json", b'{"images":{"data":[%s0]}}' % (b"0," * 5000), 422),
    "numbers for a photo": ("/api/v1/detection/detect", "json", b'{"file":[%s0]}' % (b"0," * COUNT), 413),
}  # fmt: skip


@pytest.mark.parametrize("name", MANY)
def test_many_wrong_values_cost_little_and_few_are_told(url, name):
    path, kind, body, status = MANY[name]
    headers = {"content-type": f"application/{kind}"}
    answer = requests.post(f"{url}{path}", data=body, headers=headers, timeout=HANGS_AFTER_S)
    assert answer.status_code == status
    assert len(answer.content) < 10_000
    if status == 422 and kind == "json":
        assert len(answer.json()["detail"]) == (20 if name == "headers" else 1)


def test_drawings(url, people):
    images = {"data": [base64.b64encode(CROWD).decode()]}
    before = np.asarray(Image.open(BytesIO(CROWD)).convert("RGB")).astype(int)

    def changed(answer: requests.Response, kind: str) -> np.ndarray:
        assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
        after = np.asarray(Image.open(BytesIO(answer.content)).convert("RGB")).astype(int)
        return np.abs(after - before).max(axis=2) > 60

    bare = {"draw_landmarks": False, "draw_scores": False, "draw_sizes": False, "threshold": 0.5}
    boxes = changed(
        requests.post(f"{url}/draw_detections", json={"images": images, **bare}, timeout=HANGS_AFTER_S), "image/png"
    )
    for face in people:
        x1, y1, x2, _ = (int(side) for side in face.box)
        row = boxes[min(max(y1, 0), 479), max(x1, 0) : min(x2, 640)]
        assert row.mean() > 0.5
    none = changed(
        requests.post(f"{url}/draw_detections", json={"images": images, "threshold": 1}, timeout=HANGS_AFTER_S),
        "image/png",
    )
    assert not none[:460].any()
    nulls = dict.fromkeys(("draw_landmarks", "draw_scores", "draw_sizes", "limit_faces", "min_face_size"))
    asked = {"images": images, "threshold": 0.5, **nulls}
    again = changed(requests.post(f"{url}/draw_detections", json=asked, timeout=HANGS_AFTER_S), "image/png")
    assert (again == boxes).all()
    upload = post(url, "/multipart/draw_detections", {"file": CROWD}, limit_faces="1", threshold="0.5")
    assert 0 < changed(upload, "image/jpg")[:460].sum() < boxes.sum() * 2
    for answer in (
        requests.post(f"{url}/draw_detections", json={"images": {}}, timeout=HANGS_AFTER_S),
        post(url, "/multipart/draw_detections", {}),
    ):
        assert answer.status_code == 422


def test_info(url):
    info = requests.get(f"{url}/info", timeout=HANGS_AFTER_S).json()
    assert info["models"]["inference_backend"] == "triton"
    assert info["defaults"]["det_thresh"] == 0.6
    assert set(info) == {"version", "tensorrt_version", "log_level", "models", "defaults"}
    assert set(info["models"]) == {
        *("inference_backend", "det_name", "rec_name", "ga_name", "mask_detector", "max_size"),
        *("rec_batch_size", "det_batch_size", "force_fp16", "triton_uri"),
    }  # its client shows the two batch sizes, and fails without them
    assert set(info["defaults"]) == {
        *("return_face_data", "return_landmarks", "extract_embedding", "extract_ga", "detect_masks", "det_thresh"),
        *("img_req_headers", "sslv3_hack"),
    }
