"""Whatever answers, and whatever is passed: one class of one tree, with its remedy, from both clients."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import grpc
import numpy as np
import pytest
from fixtures.photos import VARIETY
from fixtures.serving import in_this_process
from fixtures.stub import Answer, raw_server, stub_server
from fixtures.waiting import HANGS_AFTER_S

from depthface_client import (
    AsyncClient,
    Client,
    DepthfaceError,
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

PHOTO = VARIETY["tiny 40×30"]

LONG = bytes(64 * 2**20)
"""More than two sockets hold: it is sent only as it is read."""

MODEL = "some_model"

PAGE = b"<!doctype html><title>Welcome</title>"


def said(text: str) -> bytes:
    return json.dumps({"error": text}).encode()


def blocking(host: str, timeout_s: float = 60, photo: bytes = PHOTO) -> None:
    with Client(host, timeout_s=timeout_s) as client:
        client.depth_png(photo, model=MODEL)


def asynchronous(host: str, timeout_s: float = 60) -> None:
    async def ask() -> None:
        async with AsyncClient(host, timeout_s=timeout_s) as client:
            await client.depth_png(PHOTO, model=MODEL)

    asyncio.run(ask())


both = pytest.mark.parametrize("ask", [blocking, asynchronous])


@both
@pytest.mark.parametrize(
    ("answer", "error", "remedy"),
    [
        (Answer(413, PAGE), ImageTooLarge, "smaller"),
        (Answer(413, said("too long")), ImageTooLarge, "smaller"),
        (Answer(429, PAGE), ServerOverloaded, "later"),
        (Answer(401, PAGE), NotAllowed, "login"),
        (Answer(407, b""), NotAllowed, "login"),
        (Answer(403, PAGE), NotAllowed, "login"),
        (Answer(302, b"", {"Location": "http://127.0.0.1:9/elsewhere"}), ServerUnavailable, "HTTP 302"),
        (Answer(404, PAGE), ServerUnavailable, "HTTP 404"),
        (Answer(404, said("Not Found")), ServerUnavailable, "HTTP 404"),
        (Answer(404, b'{"detail": "Not Found"}'), ServerUnavailable, "HTTP 404"),
        (Answer(404, said("Request for unknown model: 'some_model' is not found")), ModelUnavailable, "models"),
        (Answer(405, b""), ServerUnavailable, "HTTP 405"),
        (Answer(418, said("I am a teapot")), ServerUnavailable, "HTTP 418"),
        (Answer(500, PAGE), ServerUnavailable, "HTTP 500"),
        (Answer(500, said("the model failed")), ServerFault, "log"),
        (Answer(501, PAGE), ServerUnavailable, "HTTP 501"),
        (Answer(502, PAGE), ServerUnavailable, "HTTP 502"),
        (Answer(502, said("bad gateway")), ServerUnavailable, "HTTP 502"),
        (Answer(503, PAGE), ServerOverloaded, "HTTP 503"),
        (Answer(503, said("Exceeds maximum queue size")), ServerOverloaded, "moment"),
        (Answer(504, PAGE), RequestTimeout, "HTTP 504"),
        (Answer(400, PAGE), ServerUnavailable, "HTTP 400"),
        (Answer(400, said("invalid_image: It is broken. Mend it.")), InvalidImage, "Mend it"),
        (Answer(400, said("unexpected shape")), InvalidInput, "unexpected shape"),
        (Answer(200, PAGE), ServerUnavailable, "Triton"),
        (Answer(200, b""), ServerUnavailable, "Triton"),
        (Answer(200, b"[]"), ServerUnavailable, "Triton"),
        (Answer(200, b'{"outputs": []}'), ServerUnavailable, "Triton"),
        (Answer(200, b"\xff\xfe\x00" * 100), ServerUnavailable, "Triton"),
        (Answer(200, b'{"outputs"', {"Inference-Header-Content-Length": "a"}), ServerUnavailable, "Triton"),
        (Answer(200, b"{}", {"Inference-Header-Content-Length": "999999"}), ServerUnavailable, "Triton"),
    ],
    ids=lambda value: f"{value.status} {value.body[:20]!r}" if isinstance(value, Answer) else "",
)
def test_every_answer_is_one_of_our_errors(ask, answer, error, remedy):
    with stub_server(lambda _: answer) as stub, pytest.raises(DepthfaceError) as caught:
        ask(stub.host)
    assert type(caught.value) is error
    assert remedy in str(caught.value)
    assert len(stub.asked) == 1  # neither followed elsewhere nor sent again


@contextmanager
def grpc_server(code: grpc.StatusCode, text: str) -> Iterator[str]:
    """Refuse whatever is asked over gRPC in these words; yield its address."""

    class Refusing(grpc.GenericRpcHandler):
        def service(self, details):
            return grpc.unary_unary_rpc_method_handler(lambda _, context: context.abort(code, text))

    with ThreadPoolExecutor(1) as threads:
        server = grpc.server(threads, handlers=[Refusing()])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"grpc://127.0.0.1:{port}"
        finally:
            server.stop(None).wait()


@both
@pytest.mark.parametrize(
    ("code", "text", "error"),
    [
        (grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size", ServerOverloaded),
        (grpc.StatusCode.UNAVAILABLE, "Request timeout expired", ServerOverloaded),
        (grpc.StatusCode.UNAVAILABLE, "Model 'depth_queue' is not ready", ModelUnavailable),
        (grpc.StatusCode.UNAVAILABLE, "'some_model' is not at ready state", ModelUnavailable),
        (grpc.StatusCode.UNAVAILABLE, "This protocol is restricted, expecting header 'x'", NotAllowed),
        (grpc.StatusCode.UNAVAILABLE, "Socket closed", ServerUnavailable),
        (grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'some_model' is not found", ModelUnavailable),
        (grpc.StatusCode.INTERNAL, "the model failed", ServerFault),
    ],
)
def test_so_is_every_refusal_over_grpc(ask, code, text, error):
    with grpc_server(code, text) as url, pytest.raises(DepthfaceError) as caught:
        ask(url)
    assert type(caught.value) is error


@both
def test_what_speaks_another_protocol_is_named_so(ask):
    def drain(connection):  # who closes before he has read all resets the connection
        while connection.recv(65536):
            pass

    def ssh(connection):
        connection.sendall(b"SSH-2.0-OpenSSH_9.7\r\n")
        drain(connection)

    def hang_up(connection):
        connection.recv(1000)

    def garbage(connection):
        connection.recv(1000)
        connection.sendall(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" * 20)  # as HTTP/2, which gRPC speaks, begins
        connection.shutdown(socket.SHUT_WR)
        drain(connection)

    for talk in (ssh, garbage):
        with raw_server(talk) as host, pytest.raises(ServerUnavailable, match="HTTP"):
            ask(host)
    with raw_server(hang_up) as host, pytest.raises(ServerUnavailable):
        ask(host)


@both
def test_an_answer_that_never_ends_is_given_up(ask):
    def drip(connection):
        connection.recv(100_000)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        try:
            while True:
                connection.sendall(b"x")
                time.sleep(0.05)
        except OSError:
            pass

    started = time.monotonic()
    with raw_server(drip) as host, pytest.raises(RequestTimeout):
        ask(host, 1.0)
    assert time.monotonic() - started < 30  # it would end after 50


def test_a_server_that_does_not_take_the_request_is_given_up():
    over = threading.Event()
    with raw_server(lambda _: over.wait(HANGS_AFTER_S)) as host, pytest.raises(RequestTimeout):
        blocking(host, 1.0, LONG)
    over.set()


@pytest.mark.quiet
def test_the_time_limit_is_that_of_the_whole_call():
    """What it took to send a photo, or the beginning of an answer, is not left for the rest as well.

    All at once, as each only waits.
    """
    over = threading.Event()

    def slow_and_silent(connection):
        time.sleep(3)
        while connection.recv(2**20):
            pass

    def late_and_silent(connection, head):
        connection.recv(100_000)
        time.sleep(3)
        connection.sendall(f"HTTP/1.1 200 OK\r\n{head}Content-Length: 1000\r\n\r\nx".encode())
        over.wait(HANGS_AFTER_S)

    def taken_s(talk, ask, *photo):
        started = time.monotonic()
        with raw_server(talk) as host, pytest.raises(RequestTimeout):
            ask(host, 4.0, *photo)
        return time.monotonic() - started

    kept, closed = (partial(late_and_silent, head=head) for head in ("", "Connection: close\r\n"))
    with ThreadPoolExecutor(5) as pool:
        asked = {"in sending": pool.submit(taken_s, slow_and_silent, blocking, LONG)}
        for ask in (blocking, asynchronous):
            asked |= {f"{ask.__name__}, {talk.keywords}": pool.submit(taken_s, talk, ask) for talk in (kept, closed)}
        taken = {name: one.result(HANGS_AFTER_S) for name, one in asked.items()}
    over.set()
    assert not {name: took_s for name, took_s in taken.items() if not took_s < 6.5}  # 3 s and then 4 s more would be 7


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    "url",
    ["", " ", "ftp://a", "http://", "a:b", "a:0", "a:70000", "a:-1", "http://a:1/?q", "http://:p@a:1", "a\0b:1",
     "a b:1", "::1", "::1:8000", "grpc://a:1/path", "grpc://u:p@a:1", "http://u%3Av:p@a:1", None, 8000,
     "a..b:8000", "a..", ".", f"{'x' * 64}.de", "x." * 127 + "de", "1.2.3.4.5"],
)  # fmt: skip
def test_a_wrong_address_is_said_when_the_client_is_made(kind, url):
    with pytest.raises(InvalidInput, match="address"):
        kind(url)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("url", ["http://ann:secret@h:x", "ann:sec/ret@h", "ftp://ann:secret@h", "ann:secret@h\n:1"])
def test_a_wrong_address_does_not_show_its_password(kind, url):
    with pytest.raises(InvalidInput, match="address") as caught:
        kind(url)
    assert "sec" not in str(caught.value)


@both
def test_a_login_is_sent_to_who_asks_for_it_and_shown_to_nobody(ask):
    """RFC 7617 has an example with a letter that is not of ASCII."""
    with stub_server(lambda _: Answer(401, PAGE)) as stub:
        with pytest.raises(NotAllowed, match="address"):
            ask(stub.host)
        with pytest.raises(NotAllowed, match="does not take") as caught:
            ask(f"http://test:123%C2%A3@{stub.host}")
    assert [headers.get("Authorization") for _, headers in stub.asked] == [None, "Basic dGVzdDoxMjPCow=="]
    assert "123" not in str(caught.value).replace(stub.host, "")


@pytest.mark.parametrize(
    "url",
    ["[::1]", "[::1]:8000", "localhost", "http://h", "https://h:1/base/", "GRPC://h", "ann:secret@h:1", "http://ann@h",
     f"{'x' * 63}.de", "localhost.", "web.1"],
)  # fmt: skip
def test_addresses_that_are_right(url):
    Client(url).close()


@both
def test_an_address_of_ipv4_may_be_short(ask):
    with stub_server(lambda _: Answer(404, said("unknown model"))) as stub, pytest.raises(ModelUnavailable):
        ask(stub.host.replace("127.0.0.1", "127.1"))
    assert stub.asked


HALF = "\ud83d"
"""Of a character outside Unicode's first plane: a file's name in another encoding gives such."""


@pytest.mark.parametrize("url", ["127.0.0.1:9", "grpc://127.0.0.1:9"])
@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.faces(PHOTO, model=HALF, parts=()),
        lambda client: client.swap(PHOTO, PHOTO, model=HALF, analysis=HALF),
        lambda client: client.weights(HALF),
        lambda client: client.depth_png(PHOTO, model=HALF),
        lambda client: client.depth_png(PHOTO, model=5),
        lambda client: client.depth_png(PHOTO, model=MODEL, request_id=HALF),
        lambda client: client.load(HALF),
        lambda client: client.load(""),
    ],
)
def test_a_name_that_no_request_can_carry_is_refused(url, call):
    with Client(url) as client, pytest.raises(InvalidInput, match="whole characters"):
        call(client)

    async def asynchronously() -> None:
        async with AsyncClient(url) as client:
            await call(client)

    with pytest.raises(InvalidInput, match="whole characters"):
        asyncio.run(asynchronously())


@pytest.mark.parametrize("url", ["127.0.0.1:9", "grpc://127.0.0.1:9"])
@pytest.mark.parametrize("key", ["a-key-of-a-file-of-windows\r", "a-key-with-an-ü", "a-key-\udcff"])
def test_a_key_of_the_environment_that_cannot_be_one_is_said_and_not_shown(monkeypatch, url, key):
    done = in_this_process("load", "x", "--url", url, DEPTHFACE_ADMIN_KEY=key)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: DEPTHFACE_ADMIN_KEY is no key.")
    assert "a-key" not in line
    monkeypatch.setenv("DEPTHFACE_ADMIN_KEY", key)

    async def load() -> None:
        async with AsyncClient(url) as client:
            await client.load("x")

    with pytest.raises(InvalidInput, match="DEPTHFACE_ADMIN_KEY is no key"):
        asyncio.run(load())


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_numbers_out_of_range_are_said_when_the_client_is_made(kind):
    for timeout_s in (0, -1, float("nan"), float("inf"), "60", None, 10**400):
        with pytest.raises(InvalidInput, match="timeout_s"):
            kind("h:1", timeout_s=timeout_s)
    for retries in (-1, 1.5, "2", None, True):
        with pytest.raises(InvalidInput, match="retries"):
            kind("h:1", retries=retries)
    with pytest.raises(InvalidInput, match="key"):
        kind("h:1", admin_key="a\r\nb")
    for connections in (0, 1.5, None):
        with pytest.raises(InvalidInput, match="connections"):
            AsyncClient("h:1", connections=connections)


def test_options_are_refused_before_anything_is_sent():
    client = Client("127.0.0.1:9")
    for options in ({"min_score": 0}, {"min_score": float("nan")}, {"max_faces": -1}, {"max_faces": 1.5},
                    {"det_size": 33}, {"det_size": 10**9}, {"min_score": "0.5"}):  # fmt: skip
        with pytest.raises(InvalidInput, match=next(iter(options))):
            client.faces(PHOTO, model=MODEL, **options)
    with pytest.raises(InvalidInput, match="fast_decode"):
        client.depth(PHOTO, model=MODEL, fast_decode="false")
    for bits in (12, "16", None, 8.5):
        with pytest.raises(InvalidInput, match="bits"):
            client.depth_png(PHOTO, model=MODEL, bits=bits)
    with pytest.raises(InvalidInput, match="array"):
        client.depth(np.zeros((0, 5, 3), np.uint8), model=MODEL)


@pytest.mark.parametrize("url", ["ftp://a", "a:99999", "127.0.0.1:9", "nobody.invalid:1"])
def test_commands_say_one_line_and_no_traceback(url, tmp_path):
    photo = tmp_path / "a.png"
    photo.write_bytes(PHOTO)
    done = in_this_process("depth", photo, "--out", tmp_path / "b.png", "--url", url)
    assert done.returncode in (1, 2)
    assert "Error: " in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
