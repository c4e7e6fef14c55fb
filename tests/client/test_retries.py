"""What is sent again and what is not, counted by a server of our own that answers as Triton does."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from depthface_client import (
    AsyncClient,
    Client,
    ImageTooLarge,
    InvalidImage,
    InvalidInput,
    ModelUnavailable,
    NotAllowed,
    RequestTimeout,
    ServerFault,
    ServerOverloaded,
    ServerUnavailable,
)

DEPTH, ANALYSIS, SWAP = "depth_anything_v2_small", "face_analysis_mine", "face_swap_mine"
SERVED = {
    DEPTH: ("depth", ("image",), ("depth", "size", "png16", "png8")),
    ANALYSIS: (
        "faces",
        ("image", "min_score", "max_faces", "det_size"),
        ("boxes", "scores", "keypoints", "embeddings"),
    ),
    SWAP: ("swap", ("source", "target", "pack"), ("image",)),
}
PHOTO = np.arange(40 * 30 * 3, dtype=np.uint8).reshape(30, 40, 3)

OVERLOADED = (503, "Request for unknown model: Exceeds maximum queue size")
BROKEN = "broken"
SILENT = "silent"
GOOD = "good"

MAP = np.arange(14 * 28, dtype=np.float32)
DEPTH_ANSWER = {
    "model_name": DEPTH,
    "model_version": "1",
    "outputs": [
        {"name": "depth", "datatype": "FP32", "shape": [1, 14, 28], "data": MAP.tolist()},
        {"name": "size", "datatype": "INT32", "shape": [1, 2], "data": [30, 40]},
    ],
}

Answer = str | tuple[int, str]


class Stub(ThreadingHTTPServer):
    """Answers inferences by a script, whose last line goes on for ever, and keeps what it was sent."""

    daemon_threads = True

    def __init__(self, script: list[Answer]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script = script
        self.bodies: list[bytes] = []
        self.over = threading.Event()
        self.lock = threading.Lock()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has gone away is no fault of the test's."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Stub

    def log_message(self, *_: object) -> None:
        """Nothing is logged."""

    def answer(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        if self.path == "/v2/models/stats":
            self.answer(200, {"model_stats": [{"name": name, "version": "1"} for name in SERVED]})
            return
        name = self.path.removeprefix("/v2/models/").partition("/")[0]
        task, inputs, outputs = SERVED[name]
        config = {
            "name": name,
            "input": [{"name": each} for each in inputs],
            "output": [{"name": each} for each in outputs],
            "max_batch_size": 1,
            "parameters": {
                "task": {"string_value": task},
                "weights": {"string_value": "a stub's"},
                "fact.pack": {"string_value": "mine"},
            },
        }
        self.answer(200, config)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.server.lock:
            said = self.server.script[min(len(self.server.bodies), len(self.server.script) - 1)]
            self.server.bodies.append(body)
        if said == BROKEN:
            self.close_connection = True
        elif said == SILENT:
            self.server.over.wait(300)
            self.close_connection = True
        elif said == GOOD:
            self.answer(200, DEPTH_ANSWER)
        else:
            self.answer(said[0], {"error": said[1]})


@contextmanager
def stub(*script: Answer) -> Iterator[Stub]:
    server = Stub(list(script))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


def by_client(host: str, call: Callable[[object], object], **options: object) -> object:
    with Client(host, **options) as client:
        return call(client)


def by_async_client(host: str, call: Callable[[object], object], **options: object) -> object:
    async def run() -> object:
        async with AsyncClient(host, **options) as client:
            return await call(client)

    return asyncio.run(run())


@pytest.fixture(params=[by_client, by_async_client], ids=["Client", "AsyncClient"])
def ask(request: pytest.FixtureRequest) -> Callable[..., object]:
    return request.param


def depth(client: object) -> object:
    return client.depth(PHOTO)


METHODS = {
    "depth": depth,
    "depth_png": lambda client: client.depth_png(PHOTO),
    "faces": lambda client: client.faces(PHOTO, model=ANALYSIS, parts=()),
    "swap": lambda client: client.swap(PHOTO, PHOTO, model=SWAP, analysis=ANALYSIS),
}


@pytest.mark.parametrize("size_bytes", [100, 2**21])
def test_a_photo_of_any_size_arrives_whole_and_warns_of_nothing(ask, size_bytes):
    photo = bytes(range(256)) * (size_bytes // 256 + 1)
    with stub((400, "invalid_image: No photo.")) as server:
        with pytest.raises(InvalidImage):
            ask(server.host, lambda client: client.depth_png(photo, model=DEPTH))
        assert photo in server.bodies[0]


@pytest.mark.parametrize("method", METHODS)
def test_a_bad_photo_is_sent_once_however_many_retries_there_are(ask, method):
    with stub((400, "invalid_image: The photo is damaged. Send the whole file.")) as server:
        with pytest.raises(InvalidImage, match="Send the whole file"):
            ask(server.host, METHODS[method], retries=5)
        assert len(server.bodies) == (2 if method == "swap" else 1)  # which of the two photos it is, is asked then


@pytest.mark.parametrize(
    ("status", "text", "error"),
    [
        (400, "invalid_input: det_size is 100; give a multiple of 32.", InvalidInput),
        (400, "image_too_large: The photo is too large. Scale it down.", ImageTooLarge),
        (400, "unexpected shape for input 'image'", InvalidInput),
        (400, "Request for unknown model: 'x' is not found", ModelUnavailable),
        (403, "This API is restricted, expecting header 'x'", NotAllowed),
        (500, "the server's log says why", ServerFault),
    ],
)
def test_what_would_fail_again_is_sent_once(ask, status, text, error):
    with stub((status, text)) as server:
        with pytest.raises(error):
            ask(server.host, depth, retries=5)
        assert len(server.bodies) == 1


@pytest.mark.parametrize("retries", [0, 1, 3])
@pytest.mark.parametrize(
    ("said", "error"), [(OVERLOADED, ServerOverloaded), (BROKEN, ServerUnavailable)], ids=["overloaded", "broken"]
)
def test_what_is_turned_away_is_sent_again_as_often_as_asked(ask, said, error, retries):
    with stub(said) as server:
        with pytest.raises(error):
            ask(server.host, depth, retries=retries)
        assert len(server.bodies) == 1 + retries
        assert len(set(server.bodies)) == 1  # the same photo under the same id


@pytest.mark.parametrize("said", [OVERLOADED, BROKEN], ids=["overloaded", "broken"])
def test_and_no_more_once_it_is_answered(ask, said):
    with stub(said, said, GOOD) as server:
        found = ask(server.host, depth, retries=5)
        assert len(server.bodies) == 3
        np.testing.assert_array_equal(found.array, MAP.reshape(14, 28))
        assert found.size == (30, 40)


def test_a_bad_photo_ends_the_retries_of_an_overloaded_server(ask):
    with stub(OVERLOADED, (400, "invalid_image: No photo.")) as server:
        with pytest.raises(InvalidImage):
            ask(server.host, depth, retries=5)
        assert len(server.bodies) == 2


def test_who_has_waited_too_long_does_not_begin_again(ask):
    with stub(SILENT) as server:
        with pytest.raises(RequestTimeout):
            ask(server.host, depth, retries=5, timeout_s=2)
        assert len(server.bodies) == 1
