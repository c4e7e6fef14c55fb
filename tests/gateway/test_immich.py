"""immich's contract: what its server sends, what it stores, and what it takes for a service that is down."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import requests
from fixtures.gateways import CROWD, MODEL, MOST_MIB, NO_PHOTO, NOBODY, PACK, PORTRAIT, gateway
from fixtures.photos import with_orientation
from fixtures.waiting import HANGS_AFTER_S, until
from starlette.datastructures import FormData, UploadFile

from depthface.tasks.faces import Options
from depthface_gateway.immich import _faces
from depthface_gateway.immich.away import note
from depthface_gateway.immich.entries import CLIP, FACES, Entry
from depthface_gateway.immich.upstream import Upstream
from depthface_gateway.meanings import exportable

WHO = {
    FACES: {
        "detection": {"modelName": "buffalo_l", "options": {"minScore": 0.7}},
        "recognition": {"modelName": "buffalo_l"},
    }
}
SEEN = {CLIP: {"visual": {"modelName": "ViT-B-32__openai"}}}
SAID = {CLIP: {"textual": {"modelName": "ViT-B-32__openai", "options": {"language": "de"}}}}
READ = {
    "ocr": {
        "detection": {"modelName": "PP-OCRv5_mobile", "options": {"minScore": 0.5, "maxResolution": 736}},
        "recognition": {"modelName": "PP-OCRv5_mobile", "options": {"minScore": 0.8}},
    }
}


# A literal of pgvector: finite numbers, commas, brackets.
VECTOR = re.compile(r"\[-?\d+(\.\d+)?(e-?\d+)?(,-?\d+(\.\d+)?(e-?\d+)?)*\]")


@pytest.fixture(scope="session")
def url(faces_gateway) -> str:
    return faces_gateway.urls["immich"]


def predict(url: str, entries: object, photo: bytes | None = None, **fields: str) -> requests.Response:
    """As immich's server does: the photo is Node's `blob`."""
    text = entries if isinstance(entries, str) else json.dumps(entries)
    files = {"entries": (None, text), **{name: (None, value) for name, value in fields.items()}}
    if photo is not None:
        files["image"] = ("blob", photo, "application/octet-stream")
    return requests.post(f"{url}/predict", files=files, timeout=HANGS_AFTER_S)


def test_the_two_small_routes(url):
    assert requests.get(url, timeout=HANGS_AFTER_S).json() == {"message": "Immich ML"}
    ping = requests.get(f"{url}/ping", timeout=HANGS_AFTER_S)
    assert (ping.status_code, ping.text) == (200, "pong")
    assert ping.headers["content-type"].startswith("text/plain")


def test_faces_are_as_immich_stores_them(url, face_client):
    answer = predict(url, WHO, CROWD).json()
    expected = face_client.faces(CROWD, model=MODEL, parts=["embedding"], min_score=0.7, det_size=640)
    assert list(answer) == [FACES, "imageWidth", "imageHeight"]
    assert (answer["imageWidth"], answer["imageHeight"]) == (640, 480)
    assert len(answer[FACES]) == len(expected) >= 4
    for row, face in zip(answer[FACES], expected, strict=True):
        assert list(row) == ["boundingBox", "embedding", "score"]
        assert all(type(side) is int for side in row["boundingBox"].values())
        assert [row["boundingBox"][name] for name in ("x1", "y1", "x2", "y2")] == [round(float(x)) for x in face.box]
        assert row["score"] == pytest.approx(face.score, abs=1e-4)
        assert VECTOR.fullmatch(row["embedding"])
        vector = np.array(json.loads(row["embedding"]), np.float32)
        assert vector.shape == (512,)
        np.testing.assert_allclose(vector, face.embedding, atol=1e-4)


def test_min_score_is_each_requests_own(url):
    def found(min_score: float) -> int:
        entries = {FACES: {**WHO[FACES], "detection": {"modelName": "buffalo_l", "options": {"minScore": min_score}}}}
        return len(predict(url, entries, CROWD).json()[FACES])

    with ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(found, [0.7, 1.0] * 8))
    assert set(counts[::2]) == {counts[0]}
    assert counts[0] >= 4
    assert set(counts[1::2]) == {0}


@pytest.mark.parametrize(("said", "asked"), [(0, 1e-6), (-3, 1e-6), (1e-300, 1e-6), (0.5, 0.5), (7, 1.0)])
def test_a_min_score_that_is_none_is_the_nearest_one(said, asked):
    heard: list[float] = []

    class Asked:
        async def faces(self, photo: bytes, *, min_score: float, **_: object) -> list:
            Options.of(min_score, None, None)  # or it raises
            heard.append(min_score)
            return []

    models = SimpleNamespace(name=lambda entry: entry.model, ask=lambda name, call: call(Asked()), known={})
    entry = Entry(FACES, "detection", "pack", {"minScore": said})
    asyncio.run(_faces(models, [entry], CROWD, "id"))
    assert heard == [asked]


def test_nobody_is_an_empty_list(url):
    assert predict(url, WHO, NOBODY).json() == {FACES: [], "imageWidth": 640, "imageHeight": 480}


def test_a_turned_photo_is_measured_upright(url):
    upright, sideways = (predict(url, WHO, with_orientation(turn)).json() for turn in (1, 6))
    assert (sideways["imageWidth"], sideways["imageHeight"]) == (upright["imageHeight"], upright["imageWidth"])


@pytest.mark.parametrize(
    ("entries", "photo", "status", "detail"),
    [
        (WHO, None, 400, "Either image or text must be provided"),
        ("{", CROWD, 422, "Invalid request format."),
        ("[]", CROWD, 422, "Invalid request format."),
        ("{}", CROWD, 422, "Invalid request format."),
        ("[" * 100_000, CROWD, 422, "Invalid request format."),
        ({FACES: {"detection": {}}}, CROWD, 422, "Invalid request format."),
        ({FACES: {"detection": {"modelName": 3}}}, CROWD, 422, "Invalid request format."),
        ({"teeth": {"detection": {"modelName": "x"}}}, CROWD, 422, "Invalid request format."),
        ({FACES: {"detection": {"modelName": "buffalo_l", "options": {"minScore": "much"}}}}, CROWD, 422, "Invalid"),
        ({FACES: {"detection": {"modelName": "buffalo_l", "options": {"minScore": 10**400}}}}, CROWD, 422, "Invalid"),
        ({FACES: {"recognition": {"modelName": "buffalo_l"}}}, CROWD, 400, "needs detection"),
        ({FACES: {"detection": {"modelName": "antelopev2"}}}, CROWD, 400, "'antelopev2' .* not served here.*upstream"),
        (SEEN, CROWD, 400, "'ViT-B-32__openai' for clip visual is not served"),
        (READ, CROWD, 400, "--upstream"),
        (WHO, NO_PHOTO, 400, "not an image"),
        (WHO, b"", 400, ""),
        (WHO, bytes(MOST_MIB * 2**20 + 1), 413, f"larger than {MOST_MIB} MiB"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_its_form(url, entries, photo, status, detail):
    answer = predict(url, entries, photo)
    assert answer.status_code == status
    assert re.search(detail, answer.json()["detail"])


def test_what_is_not_served_is_named_in_the_log_once_with_what_to_do(faces_gateway):
    """immich asks for OCR by default, and takes each refusal for a service that is down."""
    for _ in range(2):
        assert predict(faces_gateway.urls["immich"], READ, CROWD).status_code == 400
    until(lambda: any("for ocr detection is not served" in line for line in faces_gateway.lines))
    (warning,) = [line for line in faces_gateway.lines if "for ocr detection is not served" in line]
    assert "WARNING" in warning
    assert "Switch off OCR in immich's machine learning settings, or give an --upstream" in warning


def test_entries_that_are_absent_are_fastapis_own_refusal(url):
    answer = requests.post(f"{url}/predict", files={"image": ("blob", CROWD)}, timeout=HANGS_AFTER_S)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "entries"]


@pytest.mark.skipif(shutil.which("node") is None, reason="no node is installed")
def test_nodes_own_fetch_is_understood(url, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(PORTRAIT)
    script = """
        const [url, path, entries] = process.argv.slice(1);
        const { readFileSync } = require('node:fs');
        (async () => {
          const form = new FormData();
          form.append('entries', entries);
          form.append('image', new Blob([readFileSync(path)]));
          const ping = await fetch(new URL('/ping', url), { signal: AbortSignal.timeout(60000) });
          const response = await fetch(new URL('/predict', url), { method: 'POST', body: form });
          console.log(JSON.stringify([ping.ok, response.status, await response.json()]));
        })();
    """
    command = ["node", "-e", script, url, str(tmp_path / "photo.jpg"), json.dumps(WHO)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANGS_AFTER_S, check=False)
    assert done.returncode == 0, done.stderr
    is_up, status, answer = json.loads(done.stdout)
    assert (is_up, status) == (True, 200)
    assert answer == predict(url, WHO, PORTRAIT).json()


def test_two_hundred_at_once_are_right_and_pings_do_not_wait_for_them(url):
    photos = [CROWD, PORTRAIT, NOBODY]
    expected = [predict(url, WHO, photo).json() for photo in photos]
    pinged: list[tuple[float, int]] = []
    begun = time.monotonic()
    with ThreadPoolExecutor(200) as pool:
        answers = [pool.submit(predict, url, WHO, photos[index % 3]) for index in range(200)]
        while not all(answer.done() for answer in answers):
            started = time.monotonic()
            status = requests.get(f"{url}/ping", timeout=HANGS_AFTER_S).status_code
            pinged.append((time.monotonic() - started, status))
    all_took_s = time.monotonic() - begun
    for index, answer in enumerate(answers):
        assert answer.result().status_code == 200
        assert_same(answer.result().json(), expected[index % 3])
    assert {status for _, status in pinged} == {200}
    assert len(pinged) > 2
    # immich's patience is 2 s; a machine that is too slow for that is as slow with all the others.
    slowest_s = max(took for took, _ in pinged)
    assert slowest_s < max(2, all_took_s / 10), (slowest_s, all_took_s)


def assert_same(answer: dict, expected: dict) -> None:
    """The same faces; several photos in a batch may differ in a last digit."""
    assert len(answer[FACES]) == len(expected[FACES])
    for row, other in zip(answer[FACES], expected[FACES], strict=True):
        assert row["boundingBox"] == other["boundingBox"]
        np.testing.assert_allclose(json.loads(row["embedding"]), json.loads(other["embedding"]), atol=1e-3)


def test_without_a_triton_it_says_so_at_once(lonely_gateway):
    url = lonely_gateway.urls["immich"]
    assert requests.get(url, timeout=HANGS_AFTER_S).status_code == 200
    assert requests.get(f"{url}/ping", timeout=HANGS_AFTER_S).status_code == 503
    assert predict(url, WHO, CROWD).status_code == 503


class _Other(BaseHTTPRequestHandler):
    """Another machine learning service, which can read."""

    got: ClassVar[list[bytes]] = []

    def do_POST(self) -> None:
        _Other.got.append(self.rfile.read(int(self.headers["content-length"])))
        body = b'{"ocr":{"text":["hello"],"box":[],"boxScore":[],"textScore":[]}}'
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@contextmanager
def served_by(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def other() -> Iterator[str]:
    with served_by(_Other) as url:
        yield url


class _Curt(_Other):
    """One that ends a connection as soon as it is used again."""

    protocol_version = "HTTP/1.1"
    is_used = False

    def do_POST(self) -> None:
        if self.is_used:
            self.close_connection = True
            return
        self.is_used = True
        super().do_POST()


def test_an_upstream_that_ends_connections_is_asked_anew():
    async def ask(url: str) -> list[int]:
        async with Upstream(url, HANGS_AFTER_S) as upstream:
            form = FormData([("entries", json.dumps(READ)), ("image", UploadFile(BytesIO(CROWD), filename="blob"))])
            return [(await upstream.predict(form, "id")).status_code for _ in range(3)]

    with served_by(_Curt) as url:
        assert asyncio.run(ask(url)) == [200, 200, 200]


def test_what_is_lacking_goes_upstream_and_what_is_preloaded_stays(face_server, face_client, other, tmp_path):
    """One gateway for all that needs its own settings."""

    def state() -> bool:
        return {model.name: model.ready for model in face_client.models()}.get(MODEL, False)

    gone = exportable()["clip_vit_b_32_text"]  # unloaded once, and taken out of the repository since
    note(tmp_path / "immich.json", {gone.name: gone})
    face_client.unload(MODEL)
    try:
        assert not state()
        variables = {
            "DEPTHFACE_GATEWAY_ALIASES": f"buffalo_l={MODEL}",
            "MACHINE_LEARNING_PRELOAD__FACIAL_RECOGNITION__RECOGNITION": "buffalo_l",
            "MACHINE_LEARNING_MODEL_TTL": "0.2",
            "MACHINE_LEARNING_MODEL_TTL_POLL_S": "0.05",
            "MACHINE_LEARNING_WORKERS": "3",
            "MACHINE_LEARNING_PRELOAD__OCR__DETECTION": "PP-OCRv5_mobile",
        }
        options = ("--upstream", other, "--data", str(tmp_path))
        with gateway("immich", url=face_server.host, options=options, **variables) as running:
            url = running.urls["immich"]
            assert predict(url, READ, CROWD).json()["ocr"]["text"] == ["hello"]
            assert b'name="entries"' in _Other.got[-1]
            assert CROWD in _Other.got[-1]
            for _ in range(2):
                assert predict(url, SAID, text="ein rotes Auto").status_code == 200
                assert b"ein rotes Auto" in _Other.got.pop()
            assert predict(url, SEEN, CROWD + bytes(2**20)).status_code == 200
            assert_all_goes_upstream(url)

            until(lambda: any(f" loaded {MODEL}" in line for line in running.lines))
            assert len(predict(url, WHO, PORTRAIT).json()[FACES]) == 1
            time.sleep(1)  # several times as long as others stay
            assert state()
            assert running.stop() == 0
        assert not any(f" unloaded {MODEL}" in line for line in running.lines)
        assert any(f"does not serve {gone.name}" in line and "upstream" in line for line in running.lines)
        for name in ("WORKERS", "PRELOAD__OCR__DETECTION"):
            assert any(f"MACHINE_LEARNING_{name} has no effect" in line for line in running.lines)
        assert not any("MODEL_TTL has no effect" in line for line in running.lines)
    finally:
        face_client.load(MODEL)
    assert state()


def assert_all_goes_upstream(url: str) -> None:
    """What this immich's successors may ask, whole; what is no JSON they cannot have meant."""
    for entries in (
        {"pet-detection": {"pipeline": {"modelName": "cats"}}},
        {**WHO, "ocr": {"ocr": {"modelName": "PP-OCRv5_mobile"}}},
        {FACES: {"landmarks": {"modelName": "buffalo_l"}}},
        {"transcription": {"pipeline": {"languages": ["de"]}}},
    ):
        _Other.got.clear()
        answer = predict(url, entries, CROWD, assetId="Größe 7", sound="on")
        assert answer.json()["ocr"]["text"] == ["hello"]
        (got,) = _Other.got
        for part in (json.dumps(entries).encode(), CROWD, b'name="assetId"', "Größe 7".encode(), b'name="sound"'):
            assert part in got
    _Other.got.clear()
    assert predict(url, "{", CROWD).status_code == 422
    assert _Other.got == []


def test_what_was_unloaded_here_is_known_though_the_gateway_was_killed_since(face_server, face_client, tmp_path):
    variables = {"DEPTHFACE_GATEWAY_ALIASES": f"buffalo_l={PACK}"}
    ending = {"MACHINE_LEARNING_MODEL_TTL": "0.5", "MACHINE_LEARNING_MODEL_TTL_POLL_S": "0.1"}
    options = ("--data", str(tmp_path))
    try:
        with gateway("immich", url=face_server.host, options=options, **variables, **ending) as running:
            for _ in range(2):  # it comes again when it is wanted
                running.lines.clear()
                assert len(predict(running.urls["immich"], WHO, PORTRAIT).json()[FACES]) == 1
                until(lambda: any(f" unloaded {MODEL}" in line for line in running.lines))
            running.process.kill()
            running.process.wait(HANGS_AFTER_S)
        assert MODEL not in {model.name for model in face_client.models() if model.ready}
        with gateway("immich", url=face_server.host, options=options, **variables) as running:
            assert len(predict(running.urls["immich"], WHO, PORTRAIT).json()[FACES]) == 1
    finally:
        face_client.load(MODEL)
