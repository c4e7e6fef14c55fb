"""Forms as the gateway reads them, held against Starlette's own reading."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator

import pytest
from fastapi.routing import APIRoute
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartParser
from starlette.routing import BaseRoute

from depthface_gateway import contracts
from depthface_gateway.context import Context
from depthface_gateway.forms import MOST_VALUES, _Request, _Route
from depthface_gateway.settings import Settings
from depthface_gateway.triton import Triton

PHOTO = random.Random(1).randbytes(300_000)


def part(disposition: str, value: bytes, *headers: str, charset: str = "utf-8") -> bytes:
    lines = [f"Content-Disposition: form-data; {disposition}", *headers]
    return b"--b\r\n" + "\r\n".join(lines).encode(charset) + b"\r\n\r\n" + value + b"\r\n"


BODIES = {
    "a photo and a field": [part('name="entries"', b"{}"), part('name="image"; filename="blob"', PHOTO, "X-Y: z")],
    "a boundary that nearly comes": [part('name="image"; filename="x"', b"\r\n--\r\n--c\r\n-\r--b\n--b--" * 999)],
    "no file was chosen": [part('name="image"; filename=""', b"", "Content-Type: application/octet-stream")],
    "two of a name": [part('name="a"', b"1"), part('name="a"', b"2"), part('name="a"; filename="f"', b"3")],
    "letters of the world": [part('name="text"', "ein rotes Auto, 東京, é".encode())],
    "a name of the world": [part('name="file"; filename="größe.jpg"', b"x")],
    "a name in a camera's code page": [part('name="file"; filename="Übung.jpg"', b"x", charset="latin-1")],
    "a name from China": [part('name="file"; filename="照片.jpg"', b"x", charset="gbk")],
    "a field in a camera's code page": [part('name="größe"', b"1", charset="latin-1")],
    "a part that names a shorter length": [part('name="file"; filename="f"', b"xyz", "Content-Length: 2")],
    "a part that names a longer length": [part('name="file"; filename="f"', b"xyz", "Content-Length: 200")],
    "not UTF-8": [part('name="text"', b"\xff\xfe")],
    "half a character": [part('name="text"', b"+2AA-", "Content-Type: text/plain; charset=utf-7")],
    "a charset for nobody": [part('name="text"', b"a", "Content-Type: text/plain; charset=undefined")],
    "an empty field": [part('name="text"', b"")],
    "no part": [],
}


def chunked(body: bytes, size: int) -> AsyncIterator[bytes]:
    async def stream() -> AsyncIterator[bytes]:
        for start in range(0, len(body), size):
            yield body[start : start + size]
        yield b""

    return stream()


def read(body: bytes, size: int = 65536, kind: str = "multipart/form-data; boundary=b") -> FormData:
    parts = [body[start : start + size] for start in range(0, len(body), size)] or [b""]

    async def receive() -> dict:
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    request = _Request({"type": "http", "headers": [(b"content-type", kind.encode())]}, receive)

    async def ask() -> FormData:
        return await request.form()

    return asyncio.run(ask())


def essence(form: FormData) -> list[tuple[str, object]]:
    async def of(value: str | UploadFile) -> object:
        if isinstance(value, str):
            return value
        return value.filename, value.content_type, value.size, await value.read(), sorted(value.headers.items())

    async def all_of() -> list[tuple[str, object]]:
        try:
            return [(name, await of(value)) for name, value in form.multi_items()]
        finally:
            await form.close()

    return asyncio.run(all_of())


@pytest.mark.parametrize("size", [1, 7, 1000, 10**6])
@pytest.mark.parametrize("name", BODIES)
def test_a_form_is_what_starlette_reads(name, size):
    body = b"".join(BODIES[name]) + b"--b--\r\n"
    if size == 1 and len(body) > 10_000:
        body = body[:200] + body[-2000:]
    headers = Headers({"content-type": "multipart/form-data; boundary=b"})
    expected = asyncio.run(MultiPartParser(headers, chunked(body, size)).parse())
    assert essence(read(body, size)) == essence(expected)


@pytest.mark.parametrize(
    ("body", "kind", "sentence"),
    [
        (b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nhalf', "; boundary=b", "cannot be read"),
        (b"--b--\r\n", "", "cannot be read"),
        (b"", "; boundary=b", "cannot be read"),
        (b"no form at all", "; boundary=b", "cannot be read"),
        (b"--b\r\nX: y\r\n\r\nz\r\n--b--\r\n", "; boundary=b", "cannot be read"),
        (part('name="a"', bytes(2**20 + 1)) + b"--b--\r\n", "; boundary=b", "field 'a' is larger than 1048576 bytes"),
        (part('name="a"', b"") * 1001 + b"--b--\r\n", "; boundary=b", "cannot be read"),
        (b"--b\r\n" + b"a" * 100_000, "; boundary=b", "cannot be read"),
    ],
)
def test_a_form_that_cannot_be_read_is_400(body, kind, sentence):
    with pytest.raises(HTTPException) as raised:
        read(body, kind=f"multipart/form-data{kind}")
    assert raised.value.status_code == 400
    assert sentence in raised.value.detail


def said(body: bytes) -> object:
    async def receive() -> dict:
        return {"type": "http.request", "body": body, "more_body": False}

    return asyncio.run(_Request({"type": "http", "headers": []}, receive).json())


def test_json_is_read_as_ever():
    assert said(b'{"a": [1, "x,y", null]}') == {"a": [1, "x,y", None]}
    assert len(said(b"[" + b"0," * (MOST_VALUES - 1) + b"0]")) == MOST_VALUES
    with pytest.raises(ValueError, match="Expecting"):
        said(b"{")


@pytest.mark.parametrize("part", [b"0,", b"[],", b"[", b'{"a":'])
def test_json_of_too_many_values_is_not_read(part):
    with pytest.raises(HTTPException) as raised:
        said(b"[" + part * (MOST_VALUES + 1))
    assert raised.value.status_code == 413


def test_json_that_is_nested_too_deep_is_none():
    with pytest.raises(ValueError):
        said(b"[" * 5000)


def test_other_forms_are_read_as_ever():
    assert read(b"a=1&b=%32", kind="application/x-www-form-urlencoded").multi_items() == [("a", "1"), ("b", "2")]
    assert read(b"{}", kind="application/json").multi_items() == []


def test_every_route_of_every_contract_reads_them_so():
    settings = Settings.of({})
    context = Context(Triton(["127.0.0.1:1"], settings), settings, {"AUTH_DISABLED": "1"})
    for name in contracts.NAMES:
        found = all_routes(contracts.contract_named(name).app(context).routes)
        own = [route for route in found if isinstance(route, APIRoute)]
        assert any(route.body_field is not None for route in own), name
        assert all(isinstance(route, _Route) for route in own), name


def all_routes(routes: list[BaseRoute]) -> Iterator[BaseRoute]:
    """FastAPI keeps a router that was included as one route."""
    for route in routes:
        router = getattr(route, "original_router", None)
        yield from [route] if router is None else all_routes(router.routes)
