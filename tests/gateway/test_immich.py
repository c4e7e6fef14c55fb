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
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import requests
from fixtures.gateways import CROWD, MODEL, MOST_MIB, NO_PHOTO, NOBODY, PORTRAIT, gateway
from fixtures.photos import with_orientation

from depthface.errors import InvalidInput, ServeError, ServerFault
from depthface_client import ModelInfo
from depthface_gateway import immich
from depthface_gateway.immich.embedding import literal
from depthface_gateway.immich.entries import CLIP, FACES, Entry, cleaned, parsed
from depthface_gateway.immich.models import Models, preloaded
from depthface_gateway.meanings import analyses, exportable

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

MINE = analyses(exportable())["buffalo_l"]

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
    return requests.post(f"{url}/predict", files=files, timeout=300)


def test_the_two_small_routes(url):
    assert requests.get(url, timeout=60).json() == {"message": "Immich ML"}
    ping = requests.get(f"{url}/ping", timeout=60)
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


def test_entries_that_are_absent_are_fastapis_own_refusal(url):
    answer = requests.post(f"{url}/predict", files={"image": ("blob", CROWD)}, timeout=60)
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
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    is_up, status, answer = json.loads(done.stdout)
    assert (is_up, status) == (True, 200)
    assert answer == predict(url, WHO, PORTRAIT).json()


def test_two_hundred_at_once_are_right_and_pings_do_not_wait_for_them(url):
    photos = [CROWD, PORTRAIT, NOBODY]
    expected = [predict(url, WHO, photo).json() for photo in photos]
    pinged: list[tuple[float, int]] = []
    with ThreadPoolExecutor(200) as pool:
        answers = [pool.submit(predict, url, WHO, photos[index % 3]) for index in range(200)]
        while not all(answer.done() for answer in answers):
            started = time.monotonic()
            status = requests.get(f"{url}/ping", timeout=60).status_code
            pinged.append((time.monotonic() - started, status))
    for index, answer in enumerate(answers):
        assert answer.result().status_code == 200
        assert_same(answer.result().json(), expected[index % 3])
    assert {status for _, status in pinged} == {200}
    assert len(pinged) > 2
    assert sorted(took for took, _ in pinged)[len(pinged) // 2] < 2  # immich's patience; half, as the machine is shared


def assert_same(answer: dict, expected: dict) -> None:
    """The same faces; several photos in a batch may differ in a last digit."""
    assert len(answer[FACES]) == len(expected[FACES])
    for row, other in zip(answer[FACES], expected[FACES], strict=True):
        assert row["boundingBox"] == other["boundingBox"]
        np.testing.assert_allclose(json.loads(row["embedding"]), json.loads(other["embedding"]), atol=1e-3)


def test_without_a_triton_it_says_so_at_once(lonely_gateway):
    url = lonely_gateway.urls["immich"]
    assert requests.get(url, timeout=60).status_code == 200
    assert requests.get(f"{url}/ping", timeout=60).status_code == 503
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


@pytest.fixture
def other() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Other)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_what_is_lacking_goes_upstream_and_models_come_and_go(face_server, face_client, other):
    """One gateway for all that needs its own settings."""

    def state() -> bool:
        return {model.name: model.ready for model in face_client.models()}.get(MODEL, False)

    face_client.unload(MODEL)
    try:
        assert not state()
        variables = {
            "DEPTHFACE_GATEWAY_ALIASES": f"buffalo_l={MODEL}",
            "MACHINE_LEARNING_PRELOAD__FACIAL_RECOGNITION__RECOGNITION": "buffalo_l",
            "MACHINE_LEARNING_MODEL_TTL": "1",
            "MACHINE_LEARNING_MODEL_TTL_POLL_S": "0.2",
            "MACHINE_LEARNING_WORKERS": "3",
        }
        options = ("--upstream", other)
        with gateway("immich", url=face_server.host, options=options, **variables) as running:
            url = running.urls["immich"]
            assert predict(url, READ, CROWD).json()["ocr"]["text"] == ["hello"]
            assert b'name="entries"' in _Other.got[-1]
            assert CROWD in _Other.got[-1]
            predict(url, SAID, text="ein rotes Auto")
            assert b"ein rotes Auto" in _Other.got[-1]

            wait(lambda: any("unloaded" in line for line in running.lines))
            assert not state()
            assert len(predict(url, WHO, PORTRAIT).json()[FACES]) == 1  # comes again when it is wanted
            assert any("loaded face_analysis_synthetic" in line for line in running.lines)
            assert any("MACHINE_LEARNING_WORKERS has no effect" in line for line in running.lines)
            assert running.stop() == 0
    finally:
        face_client.load(MODEL)
    assert state()


def wait(condition, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("theirs", "clean"),
    [
        ("ViT-B-32__openai", "ViT-B-32__openai"),
        ("immich-app/ViT-B-32__openai", "ViT-B-32__openai"),
        ("a:b\\c.d", "a_b_cd"),
        ("../../etc/passwd", "passwd"),
    ],
)
def test_names_are_cleaned_as_immich_does(theirs, clean):
    assert cleaned(theirs) == clean
    (entry,) = parsed(json.dumps({CLIP: {"visual": {"modelName": theirs}}}))
    assert entry.model == clean


def served(name: str, weights: str = "", **more: object) -> ModelInfo:
    known = exportable().get(name)
    if known is not None and not more:
        return replace(known, ready=True, weights=weights)
    facts = {"name": name, "ready": True, "weights": weights, "task": "faces", "precision": "fp32", "is_lazy": False}
    return ModelInfo(**facts | more)


def models_of(*models: ModelInfo, **aliases: str) -> Models:
    triton = SimpleNamespace(models={model.name: model for model in models}, is_alive=True)
    return Models.of(triton, aliases, {})


def embedding(name: str, weights: str, taking: str, space: str) -> ModelInfo:
    return served(name, weights, task="embedding", inputs=(taking,), facts={"space": space})


@pytest.mark.parametrize(
    ("theirs", "type", "ours"),
    [
        ("ViT-B-32__openai", "visual", "clip_vit_b_32_image"),  # what the card is made for, whatever the weights
        ("ViT-B-32__openai", "textual", "clip_vit_b_32_text"),
        ("ViT-B-32__laion2b-s34b-b79k", "visual", "clip_vit_b_32_laion2b_image"),
        ("ViT-L-14__openai", "visual", "eyes"),  # by its weights
        ("ViT-L-14__openai", "textual", "words"),
        ("clip_vit_b_32", "visual", "clip_vit_b_32_image"),  # by its own name
        ("my-own", "visual", "eyes"),  # by an alias of the space
        ("the-one", "visual", "eyes"),  # by an alias of the model
        ("ViT-B-16__openai", "visual", None),
        ("ViT-B-32__openai", "detection", None),
        ("../x", "visual", None),
    ],
)
def test_clips_are_known_by_their_weights_their_cards_and_by_aliases(theirs, type, ours):
    models = models_of(
        served("clip_vit_b_32_laion2b_image", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K@1a25a44"),
        served("clip_vit_b_32_image", "synthetic"),
        served("clip_vit_b_32_text", "synthetic"),
        embedding("eyes", "openai/clip-vit-large-patch14@1", "image", "large"),
        embedding("words", "openai/clip-vit-large-patch14@1", "text", "large"),
        **{"my-own": "large", "the-one": "eyes"},
    )
    assert models.name(Entry(CLIP, type, theirs, {})) == ours


@pytest.mark.parametrize(
    ("theirs", "ours"), [("mine", "anything"), ("buffalo_l", "anything"), ("anything", "anything"), ("other", None)]
)
def test_packs_are_known_by_what_their_analysis_says(theirs, ours):
    finding = served("face_analysis_of_another", facts={})  # it tells no pack: it finds faces alone
    models = models_of(served("anything", facts={"pack": "mine"}), finding, buffalo_l="mine")
    assert models.name(Entry(FACES, "recognition", theirs, {})) == ours


def test_what_is_to_be_preloaded_is_read_from_immichs_variables():
    variables = {
        "MACHINE_LEARNING_PRELOAD__CLIP__TEXTUAL": "a, b",
        "MACHINE_LEARNING_PRELOAD__FACIAL_RECOGNITION": "buffalo_l",
    }
    assert [(entry.task, entry.type, entry.model) for entry in preloaded(variables)] == [
        (CLIP, "textual", "a"),
        (CLIP, "textual", "b"),
        (FACES, "recognition", "buffalo_l"),
    ]


def test_a_vector_is_a_literal_of_pgvector():
    vector = np.array([0.1, -1e-7, 1, 0], np.float32)
    assert literal(vector) == "[0.1,-1e-7,1.0,0.0]"
    with pytest.raises(ServerFault):
        literal(np.array([np.nan], np.float32))


def test_a_pack_that_does_not_fit_immichs_column_is_refused_at_the_start():
    async def width(model: str, output: str) -> int:
        return 128

    def context(*names: str) -> SimpleNamespace:
        models = {name: served(name, facts={"pack": name}) for name in names}
        return SimpleNamespace(triton=SimpleNamespace(models=models, width=width), settings=SimpleNamespace(aliases={}))

    with pytest.raises(ServeError, match="face vectors of 128 numbers, and immich stores 512"):
        asyncio.run(immich._check_width(context("small")))
    asyncio.run(immich._check_width(context("small", "other")))


@pytest.mark.parametrize("upstream", ["immich-ml:3003", "ftp://immich-ml", "http://"])
def test_an_upstream_that_cannot_be_is_refused(upstream):
    with pytest.raises(InvalidInput, match="no address of HTTP"):
        immich.Upstream(upstream, 1.0)


def test_a_model_that_was_loaded_here_is_known_when_it_is_away():
    """What was preloaded and left memory before anybody asked is still ours, and not the upstream's."""
    done: list[str] = []

    served_now = {}

    async def on_every_server(call) -> None:
        await call(SimpleNamespace(load=noted("load"), unload=noted("unload")))
        served_now.clear()
        if done[-1].startswith("load"):
            served_now[MINE] = exportable()[MINE]

    def noted(what: str):
        async def act(name: str) -> None:
            done.append(f"{what} {name}")

        return act

    async def ask(call) -> str:
        return "answer"

    async def run() -> None:
        models = models_of()
        models.triton.models = served_now
        models.triton.on_every_server = on_every_server
        models.triton.ask = ask
        faces = Entry(FACES, "recognition", "buffalo_l", {})
        await models.preload([faces])
        await models._unload(MINE)
        name = models.name(faces)
        assert name is not None
        assert await models.ask(name, lambda client: client) == "answer"

    asyncio.run(run())
    assert done == [f"load {MINE}", f"unload {MINE}", f"load {MINE}"]
