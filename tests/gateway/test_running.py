"""What stands between a connection and an app: whole photos at once, and limits to what comes before a request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn
from fixtures.waiting import HANGS_AFTER_S
from uvicorn.server import ServerState

from depthface_gateway import running

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: "


async def count(scope, receive, send):
    """Answer how many bytes came, in how many pieces; read nothing at `/unread`, and take a while at `/slow`."""
    pieces = size = 0
    more = scope["path"] != "/unread"
    while more:
        message = await receive()
        more = message["more_body"]
        pieces, size = pieces + 1, size + len(message["body"])
    if scope["path"] == "/slow":
        await asyncio.sleep(1)
    body = f"{size} in {pieces}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect to a server of `count`."""
    config = uvicorn.Config(count, http=running._Protocol, ws="none", lifespan="off", log_config=None)
    config.load()
    state = ServerState()
    server = await asyncio.get_running_loop().create_server(
        lambda: config.http_protocol_class(config=config, server_state=state, app_state={}), "127.0.0.1", 0
    )
    async with server, asyncio.timeout(HANGS_AFTER_S):
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        yield reader, writer
        writer.close()


async def answer(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(ANSWER)
    return await reader.readexactly(int(head[len(ANSWER) :].split(b"\r\n")[0]))


def post(path: str, size: int) -> bytes:
    return f"POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {size}\r\n\r\n".encode()


@pytest.mark.parametrize(("size", "pieces"), [(0, 1), (900_000, 1), (2_500_000, None)])
def test_a_photo_comes_to_the_app_whole(size, pieces):
    async def ask() -> bytes:
        async with connected() as (reader, writer):
            writer.write(post("/", size))
            for start in range(0, size, 100_000):
                writer.write(bytes(min(100_000, size - start)))
                await writer.drain()
                await asyncio.sleep(0.01)
            return await answer(reader)

    came, _, times = asyncio.run(ask()).partition(b" in ")
    assert int(came) == size
    assert int(times) == pieces if pieces else int(times) > 1


def test_a_head_without_an_end_is_refused():
    async def ask() -> bytes:
        async with connected() as (reader, writer):
            writer.write(b"GET / HTTP/1.1\r\nx: ")
            for _ in range(40):
                writer.write(b"a" * 4096)
                await asyncio.sleep(0.005)
                if reader.at_eof() or reader._buffer:  # type: ignore[attr-defined]
                    break
            return await reader.read()

    said = asyncio.run(ask())
    assert said.startswith(b"HTTP/1.1 400 ")
    assert b"too long" in said


def test_many_requests_one_behind_the_other_are_no_long_head():
    async def ask() -> list[bytes]:
        async with connected() as (reader, writer):
            writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n" * 5000)  # 130 KB
            return [await answer(reader) for _ in range(5000)]

    assert set(asyncio.run(ask())) == {b"0 in 1"}


def test_a_body_that_nobody_reads_is_no_head():
    async def ask() -> tuple[bytes, bytes]:
        async with connected() as (reader, writer):
            writer.write(post("/unread", 300_000))
            first = await answer(reader)
            for _ in range(30):
                writer.write(bytes(10_000))
                await asyncio.sleep(0.002)
            writer.write(post("/", 3) + b"abc")
            return first, await answer(reader)

    assert asyncio.run(ask()) == (b"0 in 0", b"3 in 1")


@pytest.mark.parametrize("begun", [b"", b"GET / HT"])
def test_a_connection_without_a_request_is_closed(monkeypatch, begun):
    monkeypatch.setattr(running, "_HEAD_S", 0.3)

    async def ask() -> tuple[bytes, bytes]:
        async with connected() as (reader, writer):
            writer.write(post("/slow", 1) + b"x")
            while_it_works = await answer(reader)  # a second, and the connection lasts
            writer.write(begun)
            return while_it_works, await reader.read()

    assert asyncio.run(ask()) == (b"1 in 1", b"")
