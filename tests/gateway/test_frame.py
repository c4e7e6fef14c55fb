"""What all contracts share: settings, limits at the edge, and the command itself."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from urllib.parse import unquote

import pytest
import requests
from fastapi import FastAPI, Request
from fixtures.gateways import gateway
from fixtures.serving import depthface
from fixtures.waiting import HANGS_AFTER_S
from starlette.responses import JSONResponse, StreamingResponse

from depthface.errors import InvalidInput, OutputError, ServerOverloaded
from depthface_gateway import cli, contracts, edge, logs
from depthface_gateway.context import Context
from depthface_gateway.frame import Frame, new_app, request_id
from depthface_gateway.settings import Settings, flag, number, words
from depthface_gateway.triton import Triton


def settings(**variables: str) -> Settings:
    return Settings.of({f"DEPTHFACE_GATEWAY_{name}": value for name, value in variables.items()})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MAX_MIB", "many"),
        ("MAX_MIB", "0"),
        ("MAX_MIB", "nan"),
        ("HELD_MIB", "63"),  # less than one request
        ("DEADLINE_S", "-1"),
        ("IN_FLIGHT", "inf"),
        ("WAITING", "-1"),
        ("ALIASES", "buffalo_l"),
        ("ALIASES", "=x"),
        ("ALIASES", "x="),
    ],
)
def test_a_setting_that_cannot_be_is_named(name, value):
    with pytest.raises(InvalidInput, match=f"DEPTHFACE_GATEWAY_{name}"):
        settings(**{name: value})


def test_settings_are_read():
    found = settings(ALIASES="a=b, c = d", MAX_MIB="1.5", ORIGINS="https://a, https://b", API_KEY="")
    assert found.aliases == {"a": "b", "c": "d"}
    assert found.max_body_bytes == 1.5 * 2**20
    assert found.origins == ("https://a", "https://b")
    assert found.api_key == ""
    assert words({"X": " a,, b "}, "X") == ("a", "b")
    assert flag({"X": "Yes"}, "X")
    assert not flag({"X": ""}, "X")
    with pytest.raises(InvalidInput, match="X is 'perhaps'"):
        flag({"X": "perhaps"}, "X")
    assert number({"X": " "}, "X", 3) == 3


@pytest.mark.parametrize(
    ("variables", "told", "address"),
    [
        ({}, {}, ("127.0.0.1", 3003)),
        ({"IMMICH_HOST": "[::]", "IMMICH_PORT": "3004"}, {}, ("::", 3004)),
        ({"IMMICH_HOST": "[::]", "IMMICH_PORT": "3004"}, {"host": "127.0.0.2", "port": 0}, ("127.0.0.2", 0)),
        ({"AI_SERVICE_PORT": "1"}, {}, ("127.0.0.1", 3003)),
    ],
)
def test_an_address_is_what_was_told_or_what_the_users_variables_say(variables, told, address):
    assert contracts.address(contracts.contract_named("immich"), variables, **told) == address


@pytest.mark.parametrize(
    ("arguments", "environment", "sentence"),
    [
        (("immich", "faces", "--port", "1"), {}, "--port is for one NAME"),
        (("teeth",), {}, "'teeth' is not one of"),
        (("immich",), {"IMMICH_PORT": "many"}, "IMMICH_PORT is 'many'"),
        (("immich", "--url", ","), {}, "No address of a Triton server is given"),
        (("immich", "--port", "0", "--upstream", "x"), {}, "--upstream x is not an HTTP address"),
        (("immichvr", "--port", "0"), {"DEPTH_MODEL": "huge"}, "DEPTH_MODEL is 'huge'"),
        (("faces", "--port", "0"), {"DEF_DET_THRESH": "2"}, "DEF_DET_THRESH is '2'"),
        (("faces", "--port", "0"), {"MAX_FILE_SIZE": "5 apples"}, "MAX_FILE_SIZE is '5 apples'"),
        (("depthflow", "--port", "0"), {"API_KEY_ENABLED": "1"}, "API_KEY_ENABLED is set, and API_KEY is empty"),
    ],
)
def test_a_start_that_cannot_be_is_one_sentence(arguments, environment, sentence):
    done = depthface("gateway", *arguments, **environment)
    assert done.returncode in (1, 2)
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("variables", "level"),
    [
        ({}, "info"),
        ({"IMMICH_LOG_LEVEL": "verbose"}, "debug"),
        ({"IMMICH_LOG_LEVEL": "debug"}, "debug"),
        ({"IMMICH_LOG_LEVEL": "log"}, "info"),
        ({"IMMICH_LOG_LEVEL": "warn"}, "warning"),
        ({"IMMICH_LOG_LEVEL": "error"}, "error"),
        ({"IMMICH_LOG_LEVEL": "fatal"}, "critical"),
        ({"LOG_LEVEL": "WARNING"}, "warning"),
        ({"DEPTHFACE_GATEWAY_LOG_LEVEL": "error", "IMMICH_LOG_LEVEL": "verbose", "LOG_LEVEL": "info"}, "error"),
    ],
)
def test_the_level_of_the_log_is_what_its_users_set(variables, level, monkeypatch):
    for name in ("DEPTHFACE_GATEWAY_LOG_LEVEL", "IMMICH_LOG_LEVEL", "LOG_LEVEL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cli.gateway.make_context("gateway", ["immich"]).params["log_level"] == level


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = depthface("gateway", "immichvr", "--port", str(port))
    assert done.returncode == 1
    assert f"immichvr cannot listen at 127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr


# The edge, in process.


Handler = Callable[[Request], Awaitable[object]]
Answer = tuple[int, dict[str, str], bytes]


def context_of(**variables: str) -> Context:
    return Context(Triton(["127.0.0.1:1"], settings(**variables)), settings(**variables))


def app_of(handler: Handler, context: Context) -> FastAPI:
    """An app with one route."""
    app = new_app(context, Frame("x", "x", lambda problem: JSONResponse({"said": problem.message}, problem.status)))
    app.add_api_route("/x", handler, methods=["POST"])
    return app


async def asked(
    app: FastAPI,
    body: bytes = b"",
    chunks: int = 1,
    stall: bool = False,
    method: str = "POST",
    headers: Mapping[str, str] | None = None,
    path: str = "/x",
) -> Answer:
    """Ask an app; return status, headers, body."""
    given = {"x-request-id": "mine"} | ({"transfer-encoding": "chunked"} if body else {}) | (headers or {})
    sent: list[dict] = []
    size = -(-len(body) // chunks) if body else 0
    parts = [body[index * size : (index + 1) * size] for index in range(chunks)]

    async def receive() -> dict:
        if not parts or stall:
            await asyncio.sleep(3600)
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def send(message: dict) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "server": ("test", 80),
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
    }
    await app(scope, receive, send)
    told = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], told, b"".join(message.get("body", b"") for message in sent[1:])


def served(
    handler: Handler,
    body: bytes = b"",
    chunks: int = 1,
    stall: bool = False,
    method: str = "POST",
    headers: Mapping[str, str] | None = None,
    path: str = "/x",
    **variables: str,
) -> Answer:
    """Ask an app with one route."""
    app = app_of(handler, context_of(**variables))
    return asyncio.run(asked(app, body, chunks, stall, method, headers, path))


async def echo(request: Request) -> object:
    return {"bytes": len(await request.body()), "id": request_id(request)}


def test_a_body_without_a_length_is_counted():
    status, headers, body = served(echo, bytes(1000), chunks=10, MAX_MIB="0.001")
    assert (status, body) == (200, b'{"bytes":1000,"id":"mine"}')
    assert headers["x-request-id"] == "mine"
    status, _, body = served(echo, bytes(2000), chunks=10, MAX_MIB="0.001")
    assert status == 413
    assert b"larger than 0.001" in body


def test_who_goes_on_sending_too_much_is_cut_off(monkeypatch):
    monkeypatch.setattr(edge, "_DRAINED_BYTES", 0)
    for headers in ({}, {"content-length": "2000"}):
        status, told, _ = served(echo, bytes(2000), chunks=10, headers=headers, MAX_MIB="0.001")
        assert (status, told["connection"]) == (413, "close")


def test_all_requests_together_hold_no_more_than_they_may():
    context = context_of(MAX_MIB="0.001", HELD_MIB="0.0015")

    async def ask() -> list[Answer]:
        is_here, may_go = asyncio.Event(), asyncio.Event()

        async def slow(request: Request) -> object:
            await request.body()
            is_here.set()
            await may_go.wait()
            return {}

        first = asyncio.create_task(asked(app_of(slow, context), bytes(1000), chunks=10))
        await is_here.wait()
        other = app_of(echo, context)
        answers = [
            await asked(other, bytes(1000), headers={"content-length": "1000"}),
            await asked(other, bytes(1000), chunks=10),
            await asked(other, bytes(500), chunks=10),
        ]
        assert context.held.bytes == 1000
        may_go.set()
        return [*answers, await first, await asked(other, bytes(1000), chunks=10)]

    answers = asyncio.run(ask())
    assert [status for status, _, _ in answers] == [503, 503, 200, 200, 200]
    for _, headers, body in answers[:2]:
        assert headers["retry-after"] == "5"
        assert b"would hold more than 0.0015" in body
    assert context.held.bytes == 0


def test_a_503_of_the_contract_itself_says_when_to_ask_again():
    async def busy(request: Request) -> object:
        raise ServerOverloaded("100 requests wait here already.", "Send this one again in a moment.")

    status, headers, _ = asyncio.run(asked(app_of(busy, context_of()), b""))
    assert (status, headers["retry-after"]) == (503, "5")


def test_whoever_ends_early_holds_nothing_either():
    async def broken(request: Request) -> object:
        await request.body()
        raise RuntimeError

    async def slow(request: Request) -> object:
        await request.body()
        await asyncio.sleep(3600)
        return {}

    context = context_of(MAX_MIB="0.001", DEADLINE_S="0.1")
    for handler, size, expected in ((broken, 1000, 500), (slow, 1000, 504), (echo, 2000, 413)):
        status, _, _ = asyncio.run(asked(app_of(handler, context), bytes(size), chunks=10))
        assert (status, context.held.bytes) == (expected, 0)


def test_a_request_that_takes_too_long_ends():
    async def slow(request: Request) -> object:
        await request.body()
        await asyncio.sleep(3600)
        return {}

    status, _, body = served(slow, b"x", DEADLINE_S="0.2")
    assert (status, b"no answer within 0.2 s" in body) == (504, True)
    status, headers, body = served(echo, b"x", stall=True, DEADLINE_S="0.2")
    assert (status, b"did not come within 0.2 s" in body) == (408, True)
    assert headers["connection"] == "close"


def test_who_sends_no_body_is_not_told_that_it_did_not_come():
    async def slow(request: Request) -> object:
        await asyncio.sleep(3600)
        return {}

    status, headers, body = served(slow, DEADLINE_S="0.2")
    assert (status, b"no answer within 0.2 s" in body, "connection" in headers) == (504, True, False)


def test_a_stream_of_events_lasts_beyond_the_deadline():
    async def events() -> AsyncIterator[str]:
        for index in range(5):
            yield f"data: {index}\n\n"
            await asyncio.sleep(0.1)

    async def watch(request: Request) -> object:
        return StreamingResponse(events(), media_type="text/event-stream")

    _, _, body = served(watch, DEADLINE_S="0.2")
    assert body.count(b"data: ") == 5


def test_pages_of_an_allowed_origin_read_errors_of_the_edge_too():
    async def broken(request: Request) -> object:
        raise RuntimeError

    async def slow(request: Request) -> object:
        await asyncio.sleep(3600)
        return {}

    page, asked = {"origin": "https://a"}, {"ORIGINS": "https://a"}
    for expected, (status, headers, _) in (
        (200, served(echo, headers=page, **asked)),
        (401, served(echo, headers=page, API_KEY="secret", **asked)),
        (413, served(echo, headers={**page, "content-length": "2000000"}, MAX_MIB="1", **asked)),
        (500, served(broken, headers=page, **asked)),
        (504, served(slow, headers=page, DEADLINE_S="0.1", **asked)),
    ):
        assert (status, headers["access-control-allow-origin"]) == (expected, "https://a")
        assert headers["x-request-id"] == "mine"
    assert "access-control-allow-origin" not in served(echo, headers={"origin": "https://b"}, **asked)[1]


def test_what_a_browser_asks_beforehand_needs_no_key_and_is_logged(caplog):
    beforehand = {"origin": "https://a", "access-control-request-method": "POST"}
    with caplog.at_level(logging.INFO):
        status, headers, _ = served(echo, method="OPTIONS", headers=beforehand, ORIGINS="https://a", API_KEY="secret")
    assert (status, headers["access-control-allow-origin"], headers["x-request-id"]) == (200, "https://a", "mine")
    assert [record for record in caplog.records if getattr(record, "request_id", "") == "mine"]


def test_no_word_of_a_caller_forges_a_line_of_the_log():
    """Not the name of a model either, nor what a library says of it; a trace keeps its lines."""
    try:
        raise ValueError("one\ntwo")
    except ValueError:
        named = "a\n2026-01-01 ERROR forged\x1b[2J\u2028"
        record = logging.LogRecord("x", logging.ERROR, "", 1, "%s is not served", (named,), sys.exc_info())
    first, *others = logs._Text("%(levelname)s %(message)s").format(record).split("\n")
    assert first == r"ERROR a\n2026-01-01 ERROR forged\x1b[2J\u2028 is not served"
    assert (others[0], others[-2:]) == ("Traceback (most recent call last):", ["ValueError: one", "two"])


def test_a_path_forges_no_line_of_the_log(caplog):
    forged = "/a%0a2026-01-01%2000:00:00%20ERROR%20forged"
    with caplog.at_level(logging.INFO):
        assert served(echo, path=forged)[0] == 404
    (record,) = [record for record in caplog.records if record.name == "depthface_gateway.requests"]
    assert record.path == forged
    assert record.getMessage().startswith(f"POST {forged} 404 ")


def test_whatever_fails_is_an_answer_without_its_secrets():
    async def broken(request: Request) -> object:
        raise RuntimeError("the password is 1234")

    status, _, body = served(broken, b"x")
    assert status == 500
    assert b"1234" not in body

    async def full(request: Request) -> object:
        raise OutputError("/secret/clip.mp4 cannot be written (No space left on device).")

    status, _, body = served(full, b"x")
    assert (status, b"secret" in body) == (500, False)


def test_it_ends_what_is_in_flight_and_then_itself(lonely_gateway):
    with gateway("immichvr", "faces", url="127.0.0.1:1") as running:
        assert set(running.urls) == {"immichvr", "faces"}
        assert requests.get(f"{running.urls['faces']}/", timeout=HANGS_AFTER_S).status_code == 200
        assert running.stop() == 0
    assert not [line for line in running.lines if "Traceback" in line or "was never" in line]
