"""The contract, over HTTP, on the real gateway and the real Triton: each route, status and form of its users."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from fixtures.faces import analysis_of, crowd
from fixtures.gateways import Gateway, gateway
from fixtures.media_store import Store, media_store
from fixtures.photos import encoded
from fixtures.serving import Server
from fixtures.tokens import OTHER_KEY, pem, token
from fixtures.waiting import HANGS_AFTER_S, until
from PIL import Image

from depthface_client import Client

PHOTO, NOBODY = crowd(2, 5), crowd(0, 3)
FIELDS = {
    "job_id", "task_type", "media_store_id", "status", "priority", "created_at", "started_at", "completed_at",
    "error_message", "result",
}  # fmt: skip


@dataclass
class Service:
    """The service, and the media store that it asks."""

    url: str
    data: Path
    store: Store
    running: Gateway

    def ask(self, method: str, path: str, bearer: str | None = None, **more: Any) -> requests.Response:
        headers = {} if bearer is None else {"Authorization": f"Bearer {bearer}"}
        headers |= more.pop("headers", {})
        return requests.request(method, self.url + path, headers=headers, timeout=HANGS_AFTER_S, **more)

    def job(self, task: str, media: str, photo: bytes = PHOTO, **more: Any) -> dict[str, Any]:
        """Make a job, wait for its end, return it."""
        self.store.photos[media] = photo
        made = self.ask("POST", f"/job/{task}", token(), json={"media_store_id": media} | more)
        assert made.status_code == 201, made.text
        return self.ended(made.json()["job_id"])

    def ended(self, job_id: str) -> dict[str, Any]:
        until(lambda: self.ask("GET", f"/job/{job_id}").json()["status"] not in ("pending", "processing"))
        job: dict[str, Any] = self.ask("GET", f"/job/{job_id}").json()
        return job


def environment(server: Server, data: Path, store: Store, **more: str) -> dict[str, Any]:
    (data / "public_key.pem").write_bytes(pem())
    return {
        "url": server.host,
        "options": ("--data", str(data)),
        "MEDIA_STORE_URL": store.url,
        "MEDIA_STORE_STUB": "false",
        "WORKER_POLL_INTERVAL": "0.05",
        "WORKER_MAX_RETRIES": "0",
        "DEPTHFACE_GATEWAY_FACE_MODEL": analysis_of("synthetic"),
    } | more


@pytest.fixture(scope="module")
def service(face_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    data = tmp_path_factory.mktemp("data")
    with media_store() as store, gateway("jobs", **environment(face_server, data, store)) as running:
        yield Service(running.urls["jobs"], data, store, running)


@pytest.fixture(scope="module")
def faces(face_server: Server) -> list[Any]:
    """What the server finds in PHOTO."""
    with Client(face_server.host) as client:
        return client.faces(PHOTO, model=analysis_of("synthetic"), parts=("embedding",))


def test_face_embedding_has_the_servers_own_faces_in_result_and_files(service: Service, faces: list[Any]) -> None:
    assert len(faces) == 2
    job = service.job("face_embedding", "photo-1", priority=8)
    assert set(job) == FIELDS and job["status"] == "completed" and job["priority"] == 8
    assert job["created_at"] <= job["started_at"] <= job["completed_at"] <= time.time() * 1000 + 1
    folder = service.data / "inference" / "jobs" / job["job_id"]
    picture = Image.open(BytesIO(PHOTO))
    for index, (told, face) in enumerate(zip(job["result"]["faces"], faces, strict=True)):
        assert set(told) == {
            "face_index", "bbox", "confidence", "landmarks", "embedding_dimension", "embedding_path", "crop_path",
        }  # fmt: skip
        assert told["face_index"] == index
        x1, y1, x2, y2 = map(float, face.box)
        box = told["bbox"]
        assert [box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"]] == pytest.approx(
            [x1, y1, x2, y2], abs=0.02
        )
        assert told["confidence"] == pytest.approx(face.score, abs=1e-4)
        assert list(told["landmarks"]) == ["left_eye", "right_eye", "nose", "left_mouth", "right_mouth"]
        assert np.allclose(list(told["landmarks"].values()), face.keypoints, atol=0.01)
        assert told["embedding_path"] == f"jobs/{job['job_id']}/faces/{index}.bin"
        assert told["crop_path"] == f"jobs/{job['job_id']}/faces/{index}.jpg"
        vector = np.load(service.data / "inference" / told["embedding_path"])
        assert vector.dtype == np.float32 and vector.size == told["embedding_dimension"]
        assert np.allclose(vector, face.embedding, atol=1e-6) and abs(np.linalg.norm(vector) - 1) < 1e-5
        crop = Image.open(service.data / "inference" / told["crop_path"])
        corners = (max(0, int(x1)), max(0, int(y1)), min(picture.width, round(x2)), min(picture.height, round(y2)))
        assert crop.format == "JPEG" and crop.size == (corners[2] - corners[0], corners[3] - corners[1])
        expected = Image.open(BytesIO(encoded(picture.convert("RGB").crop(corners), "JPEG", quality=92)))
        difference = np.abs(np.asarray(crop, np.float32) - np.asarray(expected, np.float32))
        assert difference.mean() < 0.5
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()) == [
        "faces/0.bin", "faces/0.jpg", "faces/1.bin", "faces/1.jpg",
    ]  # fmt: skip
    until(lambda: "photo-1" in service.store.results)  # the job is completed first, and its result handed over then
    assert service.store.results["photo-1"] == job["result"]


def test_face_detection_has_no_vectors(service: Service, faces: list[Any]) -> None:
    job = service.job("face_detection", "photo-2")
    assert [set(face) for face in job["result"]["faces"]] == [
        {"face_index", "bbox", "confidence", "landmarks", "crop_path"}
    ] * len(faces)
    folder = service.data / "inference" / "jobs" / job["job_id"]
    assert sorted(path.name for path in (folder / "faces").iterdir()) == ["0.jpg", "1.jpg"]
    nobody = service.job("face_detection", "photo-3", NOBODY)
    assert nobody["status"] == "completed" and nobody["result"] == {"faces": []}


def test_image_embedding_says_what_is_lacking(service: Service) -> None:
    """This server has no model for it."""
    job = service.job("image_embedding", "photo-4", NOBODY)
    assert job["status"] == "error" and job["error_message"] and job["result"] is None


def test_a_photo_may_come_with_its_job(service: Service) -> None:
    form = {"files": {"file": ("me.png", PHOTO)}, "data": {"priority": "10"}}
    made = service.ask("POST", "/job/face_embedding", token(), **form)
    assert made.status_code == 201 and made.json()["priority"] == 10
    job = service.ended(made.json()["job_id"])
    assert job["status"] == "completed" and len(job["result"]["faces"]) == 2
    assert job["media_store_id"].startswith("upload-")
    assert job["media_store_id"] not in service.store.results
    uploads = service.data / "inference" / "jobs" / ".uploads"
    until(lambda: not list(uploads.iterdir()), "the end of the upload")  # it goes when its job has ended
    for name, kind in (("faces/0.bin", "application/octet-stream"), ("faces/1.jpg", "image/jpeg")):
        file = service.ask("GET", f"/job/{job['job_id']}/files/{name}")
        assert file.status_code == 200 and file.headers["content-type"] == kind and file.content
    for name in ("faces/2.bin", "..%2f..%2f..%2fpublic_key.pem", "../../../public_key.pem", "embedding.bin", ""):
        refused = service.ask("GET", f"/job/{job['job_id']}/files/{name}")
        assert refused.status_code == 404 and "detail" in refused.json()


@pytest.mark.parametrize("photo", [b"no photo", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0" + bytes(100)])
def test_a_bad_photo_is_an_error_with_a_sentence(service: Service, photo: bytes) -> None:
    job = service.job("face_detection", f"bad-{uuid.uuid4()}", photo)
    assert job["status"] == "error" and len(job["error_message"]) > 20 and "Traceback" not in job["error_message"]


def test_a_photo_that_the_store_does_not_have(service: Service) -> None:
    made = service.ask("POST", "/job/face_detection", token(), json={"media_store_id": "nobody/../knows"})
    job = service.ended(made.json()["job_id"])
    assert job["status"] == "error" and "404" in job["error_message"]
    assert (
        "/entity/nobody%2F..%2Fknows/file" in service.store.paths
    )  # and results of other jobs are handed over meanwhile


def test_an_id_may_be_a_number(service: Service) -> None:
    job = service.job("face_detection", "4711", NOBODY)
    again = service.ask("POST", "/job/face_detection", token(), json={"media_store_id": 4711})
    assert again.status_code == 201 and again.json()["media_store_id"] == job["media_store_id"] == "4711"
    assert service.ended(again.json()["job_id"])["status"] == "completed"


BODIES: dict[str, Any] = {
    "nothing": b"",
    "no JSON": b"{",
    "a list": b"[]",
    "no id": b'{"priority": 3}',
    "an empty id": b'{"media_store_id": ""}',
    "dots": b'{"media_store_id": ".."}',
    "a null byte": b'{"media_store_id": "a\\u0000b"}',
    "half a character": b'{"media_store_id": "\\ud800"}',
    "a long id": json.dumps({"media_store_id": "x" * 256}).encode(),
    "true": b'{"media_store_id": true}',
    "priority 11": b'{"media_store_id": "a", "priority": 11}',
    "priority -1": b'{"media_store_id": "a", "priority": -1}',
    "priority NaN": b'{"media_store_id": "a", "priority": NaN}',
    "priority 1e999": b'{"media_store_id": "a", "priority": 1e999}',
    "priority 1.5": b'{"media_store_id": "a", "priority": 1.5}',
    "not UTF-8": b'{"media_store_id": "\xff"}',
}


@pytest.mark.parametrize("name", BODIES)
def test_what_is_no_request_is_answered_422_as_fastapi_does(service: Service, name: str) -> None:
    answer = service.ask(
        "POST", "/job/face_detection", token(), data=BODIES[name], headers={"content-type": "application/json"}
    )
    assert answer.status_code == 422
    assert all({"type", "loc", "msg"} <= set(one) and one["loc"][0] == "body" for one in answer.json()["detail"])


@pytest.mark.parametrize(
    "form",
    [{"files": {"other": b"x"}}, {"files": {"file": b""}}, {"files": {"file": b"x"}, "data": {"priority": "high"}},
     {"files": {"file": b"x"}, "data": {"priority": "11"}}, {"files": {"priority": b"5", "file": b"x"}}],
)  # fmt: skip
def test_what_is_no_form_is_answered_422(service: Service, form: dict[str, Any]) -> None:
    answer = service.ask("POST", "/job/face_detection", token(), **form)
    assert answer.status_code in (400, 422) and "detail" in answer.json()


def test_statuses_of_the_contract(service: Service) -> None:
    ask, good = service.ask, {"json": {"media_store_id": "m"}}
    answer = ask("POST", "/job/face_swap", token(), **good)
    assert answer.status_code == 400 and "Invalid task_type" in answer.json()["detail"]
    for job_id in (str(uuid.uuid4()), "nothing", "a%00b", "%2e%2e"):
        answer = ask("GET", f"/job/{job_id}")
        assert (answer.status_code, answer.json()) == (404, {"detail": "Job not found"})
        answer = ask("DELETE", f"/job/{job_id}", token())
        assert (answer.status_code, answer.json()) == (404, {"detail": "Job not found"})
    answer = ask("GET", "/nothing/here")
    assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"})
    assert ask("PUT", "/health").status_code == 405


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/job/face_detection"), ("DELETE", f"/job/{uuid.UUID(int=4, version=4)}"), ("GET", "/admin/stats"),
     ("DELETE", "/admin/cleanup")],
)  # fmt: skip
def test_who_is_not_believed_is_refused(service: Service, method: str, path: str) -> None:
    bad = [token(OTHER_KEY, is_admin=True), token(exp=1, is_admin=True), "x", ""]
    for shown in bad:
        answer = service.ask(method, path, shown)
        assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["detail"] in ("Invalid authentication credentials", "Not authenticated")
    answer = service.ask(method, path)
    assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
    answer = service.ask(method, path, headers={"Authorization": "Basic YTpi"})
    assert answer.status_code == 401
    answer = service.ask(method, path, token(permissions=["other"]))
    words = "Admin access required" if "admin" in path else "Missing required permission: ai_inference_support"
    assert (answer.status_code, answer.json()) == (403, {"detail": words})
    if "admin" in path:
        assert service.ask(method, path, token()).status_code == 403


def test_a_job_is_deleted_with_its_files(service: Service) -> None:
    job = service.job("face_embedding", "photo-5")
    folder = service.data / "inference" / "jobs" / job["job_id"]
    assert folder.is_dir()
    answer = service.ask("DELETE", f"/job/{job['job_id']}", token())
    assert (answer.status_code, answer.content) == (204, b"")
    assert not folder.exists() and service.ask("GET", f"/job/{job['job_id']}").status_code == 404


def test_health_stats_and_metrics(service: Service) -> None:
    service.job("face_embedding", "photo-6")
    root = service.ask("GET", "/").json()
    assert set(root) == {"service", "version", "status"} and (root["version"], root["status"]) == ("0.1.0", "running")
    health = service.ask("GET", "/health").json()
    assert health == {"status": "healthy", "database": "connected", "worker": "running", "queue_size": 0}
    stats = service.ask("GET", "/admin/stats", token(is_admin=True)).json()
    assert set(stats) == {"queue_size", "jobs", "storage"}
    assert set(stats["jobs"]) == {"pending", "processing", "completed", "error", "sync_failed"}
    assert stats["storage"]["total_jobs"] == sum(stats["jobs"].values()) > 0
    assert stats["storage"]["disk_usage_mb"] > 0
    tries = 'depthface_job_tries_total{outcome="completed",task="face_embedding"}'
    until(
        lambda: tries in service.ask("GET", "/metrics").text, "the count of the try"
    )  # counted when its job has ended
    metrics = service.ask("GET", "/metrics").text
    assert f'depthface_jobs{{status="completed"}} {stats["jobs"]["completed"]}.0' in metrics


def test_progress_comes_as_events(service: Service) -> None:
    service.store.photos["photo-7"] = PHOTO
    made = service.ask("POST", "/job/face_embedding", token(), json={"media_store_id": "photo-7"}).json()
    with service.ask("GET", f"/job/{made['job_id']}/events", stream=True) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        text = stream.content.decode()
    *before, last = [event.split("\n") for event in text.strip().split("\n\n")]
    assert last[0] == "event: completed" and len(json.loads(last[1].removeprefix("data: "))["result"]["faces"]) == 2
    assert all(event[0] == "event: progress" for event in before)
    assert service.ask("GET", f"/job/{uuid.uuid4()}/events").status_code == 404


def test_the_same_job_twice_is_refused_while_it_waits(face_server: Server, tmp_path: Path, service: Service) -> None:
    """Without a worker nothing is done: jobs wait, are streamed, cleaned up, and survive a restart."""
    settings = environment(face_server, tmp_path, service.store, AUTH_DISABLED="true")
    settings["options"] = (*settings["options"], "--without-worker")
    with gateway("jobs", **settings) as running:
        alone = Service(running.urls["jobs"], tmp_path, service.store, running)
        first = alone.ask("POST", "/job/face_detection", json={"media_store_id": "m", "priority": 0})
        assert first.status_code == 201 and first.json()["status"] == "pending"
        again = alone.ask("POST", "/job/face_detection", json={"media_store_id": "m"})
        assert again.status_code == 409
        assert again.json() == {"detail": "Job already exists for media_store_id=m, task_type=face_detection"}
        upload = alone.ask("POST", "/job/face_detection", files={"file": PHOTO})
        assert upload.status_code == 201
        assert alone.ask("POST", "/job/face_detection", files={"file": PHOTO}).status_code == 409
        uploads = tmp_path / "inference" / "jobs" / ".uploads"
        assert [path.name for path in uploads.iterdir()] == [upload.json()["job_id"]]
        health = alone.ask("GET", "/health").json()
        assert health["worker"] == "unknown" and health["queue_size"] == 2
        with alone.ask("GET", f"/job/{first.json()['job_id']}/events", stream=True) as watching:
            events = watching.iter_lines()
            assert next(events) == b"event: progress"
            started = time.monotonic()
            assert running.stop() == 0
            assert time.monotonic() - started < 20, "an open stream does not hold up the end, as 25 s for others would"
            assert not [line for line in events if line.startswith(b"event")]
    with gateway("jobs", **settings) as running:
        alone = Service(running.urls["jobs"], tmp_path, service.store, running)
        assert alone.ask("GET", f"/job/{first.json()['job_id']}").json() == first.json()
        clean = {"older_than_seconds": 3600}
        assert alone.ask("DELETE", "/admin/cleanup", json=clean).json()["jobs_deleted"] == 0
        kept = alone.ask("DELETE", "/admin/cleanup", json={"remove_queue": False}).json()
        assert kept == {"jobs_deleted": 0, "files_deleted": 0, "queue_entries_removed": 0}
        orphan = tmp_path / "inference" / "jobs" / str(uuid.uuid4()) / "faces"
        orphan.mkdir(parents=True)
        (orphan / "0.jpg").write_bytes(b"x")
        waiting = alone.ask("GET", "/health").json()["queue_size"]
        bad = ({"older_than_second": 3600}, {"status": "odd"}, {"older_than_seconds": -1}, {"older_than_seconds": "x"})
        for body in (*bad, [], "x"):
            assert alone.ask("DELETE", "/admin/cleanup", json=body).status_code == 422
        assert alone.ask("GET", "/health").json()["queue_size"] == waiting == 2, "nothing is deleted"
        wanted = {"status": "pending", "remove_orphaned_files": True}
        done = alone.ask("DELETE", "/admin/cleanup", json=wanted).json()
        assert done == {"jobs_deleted": 2, "files_deleted": 1, "queue_entries_removed": 2}
        assert not orphan.parent.exists() and list(uploads.iterdir()) == []
        assert alone.ask("DELETE", "/admin/cleanup").json()["jobs_deleted"] == 0
