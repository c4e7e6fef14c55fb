"""The DepthFlow API over HTTP: the real app, worker and renderer; depth from a map that the test draws, and once from
the real server."""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import av
import numpy as np
import pytest
import requests
from fixtures.depthflow import BROKEN, PHOTO, SHORT, DrawnDepth, Service, context_of, serving
from fixtures.gateways import gateway
from fixtures.photos import encoded, photo
from fixtures.serving import Server
from fixtures.waiting import HANGS_AFTER_S, until

from depthface.errors import InvalidInput, OutputError
from depthface_gateway import depthflow
from depthface_gateway.contracts import address, contract_named
from depthface_gateway.depthflow.clips import TASK, clip_task, depth_of, frame_size, path_of
from depthface_gateway.depthflow.wire import Parameters
from depthface_gateway.jobs.claims import Claim
from depthface_gateway.jobs.inference import Try
from depthface_gateway.jobs.verdicts import Fate, verdict


def frames_of(clip: bytes) -> list[np.ndarray]:
    with av.open(BytesIO(clip)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize(("kind", "media"), [("mp4", "video/mp4"), ("webm", "video/webm"), ("gif", "image/gif")])
def test_a_clip_is_what_was_asked_for(service: Service, kind: str, media: str) -> None:
    made = service.process({"output_format": kind, "camera_movement": "orbit"})
    assert made.json()["status"] == "pending" and made.json()["created_at"] <= made.json()["updated_at"]
    task = service.ended(made)
    assert task["status"] == "completed" and task["progress"] == 100, task
    assert task["parameters"]["output_format"] == kind and task["metadata"]["notes"] == []
    result = service.ask("GET", task["result_url"])
    assert result.headers["content-type"] == media
    assert f"depthflow_{task['task_id']}.{kind}" in result.headers["content-disposition"]
    assert len(result.content) == task["metadata"]["output_size"] == task["metadata"]["file_size"]
    took = datetime.fromisoformat(task["updated_at"]) - datetime.fromisoformat(made.json()["created_at"])
    assert 0 < task["metadata"]["processing_time"] <= took.total_seconds() + 0.1
    frames = frames_of(result.content)
    assert len(frames) == 15 and frames[0].shape == (212, 320, 3)
    assert float(np.abs(frames[3].astype(int) - frames[10].astype(int)).mean()) > 1, "it moves"


def test_static_stands_still_and_a_loop_comes_back(service: Service) -> None:
    task = service.ended(service.process({"camera_movement": "static"}))
    still = frames_of(service.ask("GET", task["result_url"]).content)
    assert max(float(np.abs(still[0].astype(int) - frame).mean()) for frame in still) < 2

    def ends(loop: bool) -> float:
        task = service.ended(service.process({"camera_movement": "dolly", "loop": loop, "depth_strength": 2}))
        moving = frames_of(service.ask("GET", task["result_url"]).content)
        return float(np.abs(moving[0].astype(int) - moving[-1]).mean())

    assert ends(loop=True) < ends(loop=False) / 2


@pytest.mark.parametrize(
    ("asked", "model"),
    [({}, None), ({"depth_model": "default"}, None), ({"depth_model": None}, None), ({"depth_model": "mine"}, "mine")],
)
def test_the_documented_default_is_the_usual_model(
    service: Service, asked: dict[str, str | None], model: str | None
) -> None:
    task = service.ended(service.process(asked))
    assert task["status"] == "completed" and service.triton.models[-1] == model, task
    assert task["parameters"]["depth_model"] == asked.get("depth_model", "default")


def test_no_movement_is_the_usual_one(service: Service) -> None:
    task = service.ended(service.process({"camera_movement": None}))
    assert task["status"] == "completed" and task["parameters"]["camera_movement"] is None, task
    assert path_of(Parameters(camera_movement=None))(0.3) == path_of(Parameters(camera_movement="orbit"))(0.3)


def test_what_cannot_be_so_large_is_smaller_and_says_so(service: Service) -> None:
    task = service.ended(service.process({"resolution": 1920, "output_format": "gif", "fps": 60}))
    notes = task["metadata"]["notes"]
    assert task["metadata"]["width"] == 320 and "320 pixels instead of 1920" in notes[0] and "50 frames" in notes[1]
    assert frame_size((3000, 4001), None) == ((1536, 2048), ["The long side is 2048 pixels instead of 4001."])
    assert frame_size((3000, 4000), 720) == ((540, 720), [])
    assert frame_size((101, 333), None)[0] == (100, 332)
    assert frame_size((103, 2047), None)[0] == (102, 2046), "never larger than the photo"
    assert frame_size((3000, 4000), 1023)[0] == (768, 1022), "nor than what was asked for"


@pytest.mark.parametrize(
    ("loop", "strength", "notes"),
    [
        (True, 2.9, []),
        (False, 1.4, []),
        (True, 5, ["The zoom has the strength 3 instead of 5: nearer it cannot go."]),
        (False, 2, ["The zoom has the strength 1.5 instead of 2: nearer it cannot go."]),
    ],
)
def test_a_zoom_that_cannot_be_so_strong_is_weaker_and_says_so(
    service: Service, loop: bool, strength: float, notes: list[str]
) -> None:
    task = service.ended(service.process({"camera_movement": "zoom", "loop": loop, "depth_strength": strength}))
    assert task["status"] == "completed" and task["metadata"]["notes"] == notes, task


BAD: dict[str, tuple[str, str]] = {
    "no JSON": ("{", "invalid_json"),
    "a list": ("[]", "parameter_validation_error"),
    "NaN": ('{"parameters": {"depth_strength": NaN}}', "parameter_validation_error"),
    "too strong": ('{"parameters": {"depth_strength": 5.1}}', "parameter_validation_error"),
    "too long": ('{"parameters": {"animation_duration": 11}}', "parameter_validation_error"),
    "too fast": ('{"parameters": {"fps": 61}}', "parameter_validation_error"),
    "too large": ('{"parameters": {"resolution": 2049}}', "parameter_validation_error"),
    "another format": ('{"parameters": {"output_format": "avi"}}', "parameter_validation_error"),
    "another movement": ('{"parameters": {"camera_movement": "fly"}}', "parameter_validation_error"),
    "a misspelt name": ('{"parameters": {"strength": 1}}', "parameter_validation_error"),
    "a webhook to a file": ('{"webhook_url": "file:///etc/passwd"}', "parameter_validation_error"),
    "a parameter in the wrong place": ('{"depth_strength": 3}', "parameter_validation_error"),
    "a misspelt webhook": ('{"webhook": "https://example.org/"}', "parameter_validation_error"),
    "many misspelt names": (
        json.dumps({"parameters": {f"x{index}": 1 for index in range(3000)}}),
        "parameter_validation_error",
    ),
    "far too much": (json.dumps({"webhook_url": "x" * 2**16}), "parameter_validation_error"),
    "a webhook without a host": ('{"webhook_url": "http://"}', "parameter_validation_error"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_parameters(service: Service, name: str) -> None:
    asked, code = BAD[name]
    answer = service.ask("POST", "/api/v1/process", files={"file": ("a.jpg", PHOTO)}, data={"request": asked})
    body = answer.json()
    assert answer.status_code == 400 and body["error"] == body["detail"]["error"] == code and body["message"]
    assert list(body["detail"]["detail"]) == ["error"], "facts, as the original gives them"
    assert len(answer.content) < 5000


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [("a.gif", PHOTO, "invalid_file_format"), ("a", PHOTO, "invalid_file_format"),
     ("a.png", b"no photo", "invalid_file_format"), ("a.jpg", bytes(10 * 2**20 + 1), "file_too_large"),
     ("a.png", encoded(photo().resize((99, 200)), "PNG"), "invalid_file_format")],
)  # fmt: skip
def test_bad_files(service: Service, name: str, data: bytes, code: str) -> None:
    answer = service.ask("POST", "/api/v1/process", files={"file": (name, data)})
    assert answer.status_code == 400 and answer.json()["detail"]["error"] == code
    facts = answer.json()["detail"]["detail"]
    assert facts == {"file_size": len(data)} if code == "file_too_large" else facts["filename"] == name


def test_what_is_not_there(service: Service) -> None:
    for task_id in (str(uuid.uuid4()), "x", "..%2f..", "a%00"):
        for method, path in (("GET", "task"), ("GET", "result"), ("DELETE", "task")):
            answer = service.ask(method, f"/api/v1/{path}/{task_id}")
            assert answer.status_code == 404 and answer.json()["error"] in ("task_not_found", "not_found")
            facts = {"task_id": unquote(task_id)} if answer.json()["error"] == "task_not_found" else None
            assert answer.json()["detail"]["detail"] == facts
    answer = service.ask("POST", "/api/v1/process")
    assert answer.status_code == 422 and answer.json()["detail"]["detail"] is None


@dataclass
class Hook:
    """An address that is told."""

    url: str = ""
    told: list[dict[str, Any]] = field(default_factory=list)


@contextmanager
def hook() -> Iterator[Hook]:
    heard = Hook()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.told.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    heard.url = f"http://127.0.0.1:{server.server_port}/told"
    yield heard
    server.shutdown()
    server.server_close()
    thread.join(10)


@pytest.mark.parametrize("kind", ["mp4", "webm", "gif"])
def test_a_disk_that_is_full_in_the_middle_of_a_clip_costs_no_try(kind: str, small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(60 * 1024))
    asked = {"parameters": SHORT | {"output_format": kind}}
    attempt = Try(Claim("job", "claim", TASK, "m", asked, 1, 3, False), PHOTO, small_disk, lambda share: None)
    clip = clip_task(depth_of(DrawnDepth()), ThreadPoolExecutor(1))  # type: ignore[arg-type]
    with pytest.raises(OutputError) as full:
        asyncio.run(clip(attempt))
    fate, told = verdict(full.value)
    assert fate is Fate.WAITS and "No space left" in told and str(small_disk) not in told


def test_clips_take_no_thread_that_all_else_waits_for(tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def report(share: float) -> None:
        begun.set()
        go_on.wait(HANGS_AFTER_S)

    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        clip = clip_task(depth_of(DrawnDepth()), ThreadPoolExecutor(1))  # type: ignore[arg-type]
        attempt = Try(Claim("job", "claim", TASK, "m", {"parameters": SHORT}, 1, 3, False), PHOTO, tmp_path, report)
        making = asyncio.ensure_future(clip(attempt))
        try:
            while not begun.is_set():
                await asyncio.sleep(0.01)
            assert await asyncio.wait_for(asyncio.to_thread(int), 10) == 0
        finally:
            go_on.set()
        assert (await making)["frames"] == 15

    asyncio.run(main())


def test_a_photo_that_cannot_be_kept_is_refused_in_the_contracts_form(small_disk: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "depthflow").symlink_to(small_disk)  # the database is elsewhere
    with serving(data) as service:
        ballast = small_disk / "ballast"
        ballast.write_bytes(bytes(60 * 1024))
        answer = service.process()
        body = answer.json()
        assert answer.status_code == 500 and body["error"] == body["detail"]["error"] == "file_save_error"
        assert body["message"] and str(small_disk) not in answer.text
        ballast.unlink()
        assert service.process().status_code == 200


def test_a_private_webhook_is_told_only_where_it_is_allowed(service: Service, tmp_path: Path) -> None:
    with hook() as heard:
        refused = service.process(webhook_url=heard.url)
        assert service.ended(refused)["status"] == "completed"
        with serving(tmp_path, DEPTHFACE_GATEWAY_ALLOWED_NETWORKS="127.0.0.0/8") as allowed:
            good = allowed.ended(allowed.process(webhook_url=heard.url))
            until(lambda: heard.told, "the webhook's message")
            bad = allowed.ended(allowed.process({"depth_model": BROKEN}, webhook_url=heard.url))
            until(lambda: len(heard.told) == 2, "the message of the failure")
        assert heard.told == [
            {
                "task_id": good["task_id"],
                "status": "completed",
                "message": "Task completed",
                "result_url": good["result_url"],
                "error_message": None,
                "metadata": good["metadata"],
            },
            {
                "task_id": bad["task_id"],
                "status": "failed",
                "message": "Task failed",
                "result_url": None,
                "error_message": "The model is broken. Take another.",
                "metadata": {},
            },
        ]
        path = f"/api/v1/task/{refused.json()['task_id']}"
        until(lambda: "webhook" in (service.ask("GET", path).json()["error_message"] or ""), "the refusal")


def test_cancelling_waiting_keys_and_expiry(tmp_path: Path) -> None:
    with serving(tmp_path, DEPTHFLOW_API_KEY="secret", DEPTHFLOW_MAX_WAITING="1") as service:
        assert service.process().status_code == 401
        assert requests.get(f"{service.url}/health", timeout=HANGS_AFTER_S).status_code == 200
        service.key = "secret"
        service.triton.let_go.clear()
        running = service.process()
        until(lambda: service.triton.models)
        waiting = service.process()
        status = service.ask("GET", "/api/v1/status").json()
        assert (status["queue_length"], status["active_tasks"]) == (1, 1)
        busy = service.process()
        assert (busy.status_code, busy.json()["error"]) == (503, "service_busy")
        assert busy.json()["detail"]["detail"]["queue_length"] == 1
        early = service.ask("GET", f"/api/v1/result/{running.json()['task_id']}")
        assert (early.status_code, early.json()["error"]) == (400, "task_not_completed")
        assert early.json()["detail"]["detail"] == {"status": "processing"}
        for task in (waiting, running):
            answer = service.ask("DELETE", f"/api/v1/task/{task.json()['task_id']}")
            assert answer.json() == {"message": "Task cancelled", "task_id": task.json()["task_id"]}
            again = service.ask("DELETE", f"/api/v1/task/{task.json()['task_id']}")
            assert (again.status_code, again.json()["error"]) == (400, "task_not_cancellable")
            assert again.json()["detail"]["detail"] == {"status": "cancelled"}
            assert service.ended(task)["status"] == "cancelled"
        service.triton.let_go.set()
        done = service.ended(service.process())
        assert done["status"] == "completed"
        assert service.ask("POST", "/api/v1/monitoring/cleanup?days=7").json()["tasks_deleted"] == 0
        assert service.ask("POST", "/api/v1/monitoring/cleanup?days=0").json()["tasks_deleted"] == 3
        gone = service.ask("GET", done["result_url"])
        assert (gone.status_code, gone.json()["error"]) == (404, "task_not_found")
        left = [path.name for path in (tmp_path / "depthflow").rglob("*") if path.is_file()]
        assert left == [".store"]


def test_a_clip_whose_task_was_deleted_is_deleted_too_when_it_is_as_old(tmp_path: Path) -> None:
    """Whoever deleted the task ended before it had deleted the clip."""
    old, young = (tmp_path / "depthflow" / str(uuid.uuid4()) for _ in range(2))
    for folder in (old, young):
        folder.mkdir(parents=True)
        (folder / "clip.mp4").write_bytes(b"a clip")
    os.utime(old, (1, 1))
    with serving(tmp_path) as service:
        until(lambda: not old.exists(), "the end of the clip")
        done = service.ended(service.process())
        assert young.exists()
        cleaned = service.ask("POST", "/api/v1/monitoring/cleanup?days=0.5").json()
        assert (cleaned["tasks_deleted"], cleaned["files_deleted"]) == (0, 0)
        assert young.exists() and service.ask("GET", done["result_url"]).status_code == 200


OPEN_BY_MISTAKE = [{"DEPTHFLOW_API_KEY": ""}, {"API_KEY_ENABLED": "true"}, {"API_KEY_ENABLED": "1", "API_KEY": " "}]


@pytest.mark.parametrize("told", OPEN_BY_MISTAKE)
def test_it_does_not_stand_open_where_a_key_is_wanted_and_empty(told: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=f"{next(iter(told))} is"):
        depthflow.app(context_of(DrawnDepth(), tmp_path, told))
    depthflow.app(context_of(DrawnDepth(), tmp_path, told | {"DEPTHFACE_GATEWAY_API_KEY": "secret"}))


@pytest.mark.parametrize(
    "told",
    [
        {"API_KEY_ENABLED": "true", "API_KEY": "secret"},
        {"API_KEY_ENABLED": "true", "API_KEY": "theirs", "DEPTHFLOW_API_KEY": "secret"},
        {"API_KEY_ENABLED": "false", "API_KEY": "theirs", "DEPTHFACE_GATEWAY_API_KEY": "secret"},
        {"API_KEY_ENABLED": "true", "API_KEY": "secret", "DEPTHFACE_GATEWAY_API_KEY": "ours"},
    ],
)
def test_the_key_is_the_one_that_its_users_have_set(told: dict[str, str], tmp_path: Path) -> None:
    with serving(tmp_path, **told) as service:
        for key, status, code in (("", 401, "missing_api_key"), ("wrong", 401, "invalid_api_key"), ("secret", 200, "")):
            service.key = key
            answer = service.ask("GET", "/api/v1/status")
            assert answer.status_code == status
            for path in ("/docs", "/redoc", "/openapi.json"):
                assert service.ask("GET", path).status_code == status
            assert service.ask("GET", "/").status_code == service.ask("GET", "/health").status_code == 200
            if code:
                assert answer.json()["error"] == answer.json()["detail"]["error"] == code
                assert set(answer.json()) == {"error", "message", "detail"}
                headers = {"content-type": "multipart/form-data; boundary=b"}
                unread = service.ask("POST", "/api/v1/process", data=b"no form", headers=headers)
                assert (unread.status_code, unread.json()["error"]) == (401, code), "the key is looked at first"


def test_without_a_key_nobody_is_asked(tmp_path: Path) -> None:
    with serving(tmp_path, API_KEY="your-secret-api-key", API_KEY_ENABLED="false") as service:
        assert service.ask("GET", "/api/v1/status").status_code == 200


def test_its_address_is_what_its_users_have_set() -> None:
    contract = contract_named("depthflow")
    assert address(contract, {}) == ("127.0.0.1", 8080)
    assert address(contract, {"API_HOST": "0.0.0.0", "API_PORT": "8081"}) == ("0.0.0.0", 8081)


def test_on_the_real_server(server: Server, tmp_path: Path) -> None:
    with gateway("depthflow", url=server.host, options=("--data", str(tmp_path))) as running:
        service = Service(running.urls["depthflow"], DrawnDepth())
        task = service.ended(service.process())
        assert task["status"] == "completed" and task["metadata"]["weights"].startswith("random"), task
        assert len(frames_of(service.ask("GET", task["result_url"]).content)) == 15
