"""Forms with photos in them, and JSON, read in memory; what a form means is as Starlette has it.

Starlette's own reading takes 2 ms of a core for a megabyte, and writes what is larger to a file, in a thread for each
piece. Here a photo is sent on whole in any case, and the edge has bounded it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from io import BytesIO
from typing import Any

from fastapi import APIRouter, Request
from fastapi.routing import APIRoute
from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.exceptions import HTTPException
from starlette.responses import Response

__all__ = ["MOST_VALUES", "check_values", "new_router"]

_MULTIPART = "multipart/form-data"
_MOST_PARTS = 1000
_MOST_FIELD_BYTES = 2**20
_AS_IT_IS = "latin-1"
"""Each byte is a letter: cameras and older programs send names in their own code page."""

MOST_VALUES = 10_000
"""The most in JSON or msgpack: a thousand photos are far fewer. One takes twenty times the memory of its text."""


def new_router(**options: Any) -> APIRouter:
    """Return a router whose routes read forms and JSON so; the options are FastAPI's."""
    return APIRouter(route_class=_Route, **options)


def check_values(body: bytes, most: int = MOST_VALUES) -> None:
    """Raise 413, before it is read, for JSON of more values than that, as its commas and brackets tell."""
    if any(_has_more(body, sign, most) for sign in (b",", b"[", b"{")):
        raise HTTPException(413, f"The request holds more than {most} values. Send fewer at once.")


def _has_more(body: bytes, sign: bytes, most: int) -> bool:
    at = -1
    for _ in range(most + 1):
        at = body.find(sign, at + 1)
        if at < 0:
            return False
    return True


class _Route(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def quicker(request: Request) -> Response:
            return await handle(_Request(request.scope, request.receive))

        return quicker


class _Request(Request):
    async def _get_form(self, **limits: Any) -> FormData:
        """Return the form; Starlette's own way if it is no multipart one."""
        kind, options = parse_options_header(self.headers.get("content-type", ""))
        if kind != _MULTIPART:
            return await super()._get_form(**limits)
        if self._form is None:
            try:
                self._form = await _read(options.get("boundary", ""), self.stream())
            except MultipartError as error:
                raise HTTPException(400, f"The form cannot be read: {error}.") from error
        return self._form

    async def json(self) -> Any:
        """Return what the body says.

        Raises:
            HTTPException: it holds too many values.
            ValueError: it is no JSON, or is nested too deep.
        """
        check_values(await self.body())
        try:
            return await super().json()
        except RecursionError as error:
            raise ValueError("The JSON is nested too deep.") from error


class _InMemory(BytesIO):
    _rolled = False
    """What Starlette asks before it reads: nothing of it is on a disk, so that no thread is needed."""


class _Parser(PushMultipartParser):  # type: ignore[misc]  # it has no types
    def _create_segment(self, headerlist: list[tuple[str, str]]) -> MultipartSegment:
        self._segment_limit = -1  # a part may say what length it likes: its boundary ends it
        return super()._create_segment(headerlist)


async def _read(boundary: str, stream: AsyncIterator[bytes]) -> FormData:
    """Return the parts in their order, each a `str`, or an `UploadFile` if it names a file."""
    parts: list[tuple[str, str | UploadFile]] = []
    chunks: list[bytes] = []
    segment: MultipartSegment | None = None
    with _Parser(boundary, max_segment_count=_MOST_PARTS, header_charset=_AS_IT_IS) as parser:
        async for chunk in stream:
            if not chunk:
                continue
            for event in parser.parse(chunk):
                if isinstance(event, MultipartSegment):
                    segment, chunks = event, []
                elif segment is not None and event is not None:
                    if segment.filename is None and segment.bytes_received > _MOST_FIELD_BYTES:
                        raise HTTPException(
                            400, f"The field {_name(segment.name)!r} is larger than {_MOST_FIELD_BYTES} bytes."
                        )
                    chunks.append(bytes(event))
                elif segment is not None:
                    parts.append((_name(segment.name), _value(segment, b"".join(chunks))))
    return FormData(parts)


def _name(said: str | None) -> str:
    """Return a name as UTF-8 has it, or else as it is."""
    try:
        return (said or "").encode(_AS_IT_IS).decode()
    except UnicodeError:  # of another code page, or written in `filename*`
        return said or ""


def _value(segment: MultipartSegment, data: bytes) -> str | UploadFile:
    if segment.filename is None:
        try:
            return data.decode()
        except UnicodeDecodeError:
            return data.decode("latin-1")
    headers = Headers(raw=[(name.lower().encode(), value.encode(_AS_IT_IS)) for name, value in segment.headerlist])
    return UploadFile(_InMemory(data), size=len(data), filename=_name(segment.filename), headers=headers)
