"""CompreFace's detection and verification (exadel-inc/CompreFace, `docs/Rest-API-description.md`), under `/api/v1`."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, Depends, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.responses import Response

from depthface.errors import DepthfaceError, InvalidInput
from depthface.tasks.faces import DEFAULT_MIN_SCORE
from depthface.together import together
from depthface_client import Face
from depthface_gateway.answers import Json, finite
from depthface_gateway.edge import NoKey
from depthface_gateway.faces.asking import Faces, by_area
from depthface_gateway.faces.similarity import MOST_NUMBERS, Embeddings, compared, similarity_of
from depthface_gateway.forms import check_values, new_router
from depthface_gateway.frame import Problem, request_id
from depthface_gateway.photos import from_base64
from depthface_gateway.settings import Environment, text

__all__ = ["PREFIX", "WITHOUT_EFFECT", "answer", "max_file_bytes", "router"]

PREFIX = "/api/v1"

WITHOUT_EFFECT = {"MAX_REQUEST_SIZE": "the largest request is that of DEPTHFACE_GATEWAY_MAX_MIB"}

_UNITS = {"B": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30}

_PARTS = {
    "calculator": "embedding",
    "age": "attributes",
    "gender": "attributes",
    "pose": "pose",
    "landmarks2d106": "landmarks_106",
}
"""The part of a face that a plugin tells. `landmarks` come with every face, and for `mask` there is no network."""

_TIMED = ("calculator", "age", "gender", "pose")
"""The plugins of which CompreFace tells time and version, besides the detector."""

_CERTAIN = 1.0
"""What its InsightFace plugin says of age and gender, whose network does not tell how sure it is."""


class _Code(IntEnum):
    """CompreFace's own codes of errors."""

    OTHER = 0
    EMPTY_FIELD = 5
    WRONG_KEY = 10
    NO_HEADER = 20
    BAD_VALUE = 26
    NO_FACE = 28
    MANY_FACES = 31
    NO_PART = 34


class _Refusal(InvalidInput):
    """A refusal in CompreFace's own words, with its own code."""

    def __init__(self, number: _Code, what: str) -> None:
        super().__init__(what)
        self.number = number


class _Options(BaseModel):
    """What a request may say besides its photos."""

    limit: int = Field(default=0, ge=0, description="the most faces, the largest ones; 0: all")
    det_prob_threshold: float = Field(default=DEFAULT_MIN_SCORE, ge=0, le=1)
    face_plugins: str = Field(default="", description=f"comma-separated: landmarks, {', '.join(_PARTS)}")
    status: bool = Field(default=False, description="whether times and versions are told")

    @property
    def plugins(self) -> frozenset[str]:
        """Their names."""
        return frozenset(name.strip() for name in self.face_plugins.split(","))


async def _options(request: Request) -> _Options:
    """Return the options of the query, or else of the form, as Spring reads them: an empty one was not sent.

    Raises:
        RequestValidationError: one is not what it can be.
    """
    sent = [*(await request.form()).multi_items(), *request.query_params.multi_items()]
    with _told_as("query"):
        return _Options.model_validate({name: said for name, said in sent if isinstance(said, str) and said.strip()})


@contextmanager
def _told_as(place: str) -> Iterator[None]:
    """Raise what Pydantic finds as FastAPI does; `place` is where it was said."""
    try:
        yield
    except ValidationError as error:
        told = error.errors(include_url=False, include_context=False)
        raise RequestValidationError([{**one, "loc": (place, *one["loc"])} for one in told]) from error


_Asked = Annotated[_Options, Depends(_options)]


def router(faces: Faces) -> APIRouter:
    """Return its routes; raises `InvalidInput` if a variable says what cannot be."""
    routes = new_router(prefix=PREFIX, tags=["CompreFace"])
    most_bytes = max_file_bytes(faces.context.environment)

    async def find(photo: bytes, request: Request, options: _Options, plugins: frozenset[str]) -> list[Face]:
        parts = dict.fromkeys(part for plugin, part in _PARTS.items() if plugin in plugins)
        found = await faces.find(
            photo, request_id(request), parts, min_score=options.det_prob_threshold, largest=options.limit
        )
        return by_area(found)

    @routes.post("/detection/detect", openapi_extra=_described("file"))
    async def detect(request: Request, options: _Asked) -> JSONResponse:
        """Return the faces of `file`, the biggest first."""
        started = time.perf_counter()
        (photo,) = await _photos(request, most_bytes, "file")
        found = await find(photo, request, options, options.plugins)
        _check_any(found)
        rows = [_face(face, options.plugins) for face in found]
        return Json(_with_status({"result": rows}, rows, options, started))

    @routes.post("/verification/verify", openapi_extra=_described("source_image", "target_image"))
    async def verify(request: Request, options: _Asked) -> JSONResponse:
        """Compare the one face of `source_image` with the faces of `target_image`, the biggest first.

        If `limit` leaves more than one face of `source_image`, it is refused.
        """
        started = time.perf_counter()
        photos = await _photos(request, most_bytes, "source_image", "target_image")
        plugins = options.plugins | {"calculator"}
        sources, targets = await together(*(find(photo, request, options, plugins) for photo in photos))
        _check_any(sources)
        if len(sources) > 1:
            raise _Refusal(_Code.MANY_FACES, "More than one face in the source image")
        _check_any(targets)
        (source,) = sources
        matches = [
            _face(face, options.plugins) | {"similarity": similarity_of(source.similarity(face))} for face in targets
        ]
        row = _face(source, options.plugins)
        verdict = {"source_image_face": row, "face_matches": matches}
        return Json({"result": [_with_status(verdict, [row, *matches], options, started, "calculator")]})

    @routes.post("/verification/embeddings/verify", openapi_extra=_json_of(Embeddings))
    async def verify_embeddings(request: Request) -> JSONResponse:
        """Compare `source` with each of `targets`, the most similar first."""
        body = await request.body()
        check_values(body, MOST_NUMBERS)
        with _told_as("body"):
            embeddings = Embeddings.model_validate_json(body)
        for name in ("source", "targets"):
            if not getattr(embeddings, name):
                raise _Refusal(_Code.EMPTY_FIELD, f"Field {name} cannot be empty")
        return Json({"result": compared(embeddings)})

    return routes


def answer(problem: Problem) -> Response:
    """Return an error as CompreFace does: its text and its code."""
    error, status, code, message = problem.error, problem.status, _Code.OTHER, problem.message
    if isinstance(error, _Refusal):
        code = error.number
    elif isinstance(error, NoKey):
        code, status, message = _Code.NO_HEADER, 400, "Missing header: x-api-key"
    elif status == 401:
        code, status = _Code.WRONG_KEY, 404
    elif isinstance(error, RequestValidationError):
        code, status = _Code.BAD_VALUE, 400
    elif isinstance(error, InvalidInput):
        status = 400
    elif isinstance(error, DepthfaceError) and status in (404, 502):
        status = 503
    return JSONResponse({"message": message, "code": code}, status)


def max_file_bytes(environment: Environment) -> int:
    """Return how large a file of a form may be; raises `InvalidInput` if MAX_FILE_SIZE is not a size."""
    said = text(environment, "MAX_FILE_SIZE", "5MB")
    size = re.fullmatch(r"([0-9]{1,12})(B|KB|MB|GB)?", said.upper())
    if size is None:
        raise InvalidInput(f"MAX_FILE_SIZE is {said!r}, which is not a size.", "Write it as 5MB or 5242880.")
    return int(size[1]) * _UNITS[size[2] or "B"]


async def _photos(request: Request, most_bytes: int, *names: str) -> list[bytes]:
    """Return the photos of these names, from multipart, where each has a limit, or as base64 in JSON."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json":
        return await _photos_in_json(request, *names)
    form = await request.form()
    found = [await part.read() if isinstance(part := form.get(name), UploadFile) else b"" for name in names]
    for name, photo in zip(names, found, strict=True):
        if not photo:
            raise _Refusal(_Code.NO_PART, f"Required part {name} is missing")
        if len(photo) > most_bytes:
            raise InvalidInput(
                f"{name} is larger than {most_bytes} bytes.", "Send a smaller photo, or set MAX_FILE_SIZE."
            )
    return found


async def _photos_in_json(request: Request, *names: str) -> list[bytes]:
    try:
        body = await request.json()
        found = [from_base64(body[name]) if body.get(name) else b"" for name in names]
    except (ValueError, AttributeError, TypeError) as error:
        raise InvalidInput(
            "The body is not a JSON object with photos in base64.", "See CompreFace's documents."
        ) from error
    for name, photo in zip(names, found, strict=True):
        if not photo:
            raise _Refusal(_Code.EMPTY_FIELD, f"Field {name} cannot be empty")
    return found


def _check_any(found: list[Face]) -> None:
    if not found:
        raise _Refusal(_Code.NO_FACE, "No face is found in the given image")


def _face(face: Face, plugins: frozenset[str]) -> dict[str, Any]:
    """Return a face with what the plugins add, as far as the pack has networks for them."""
    x1, y1, x2, y2 = (round(float(side)) for side in face.box)
    row: dict[str, Any] = {"box": {"probability": face.score, "x_max": x2, "y_max": y2, "x_min": x1, "y_min": y1}}
    if "landmarks" in plugins:
        row["landmarks"] = _pixels(face.keypoints)
    if "landmarks2d106" in plugins and face.landmarks_106 is not None:
        row["landmarks"] = _pixels(face.landmarks_106)
    if "calculator" in plugins and face.embedding is not None:
        row["embedding"] = finite(face.embedding)
    if "age" in plugins and face.age is not None:
        row["age"] = {"probability": _CERTAIN, "high": face.age, "low": face.age}
    if "gender" in plugins and face.gender is not None:
        row["gender"] = {"probability": _CERTAIN, "value": face.gender}
    if "pose" in plugins and face.pose is not None:
        row["pose"] = dict(zip(("pitch", "yaw", "roll"), face.pose.astype(float).tolist(), strict=True))
    return row


def _pixels(points: npt.NDArray[np.float32]) -> list[list[int]]:
    pixels: list[list[int]] = points.round().astype(int).tolist()
    return pixels


def _with_status(
    body: dict[str, Any], rows: list[dict[str, Any]], options: _Options, started: float, *used: str
) -> dict[str, Any]:
    """Add times and versions of the plugins that were asked for or used; the whole time counts as the detector's."""
    if not options.status:
        return body
    plugins = [name for name in _TIMED if name in (*options.plugins, *used)]
    ms = round((time.perf_counter() - started) * 1000, 1)
    for row in rows:
        row["execution_time"] = {"detector": ms} | dict.fromkeys(plugins, 0.0)
    return body | {"plugins_versions": dict.fromkeys(("detector", *plugins), "depthface")}


def _described(*names: str) -> dict[str, Any]:
    """Return what OpenAPI says of a request for the photos of these names."""
    options = _Options.model_json_schema()["properties"]

    def schema(kind: dict[str, str], more: dict[str, Any]) -> dict[str, Any]:
        properties = dict.fromkeys(names, kind) | more
        return {"schema": {"type": "object", "required": [*names], "properties": properties}}

    content = {
        "multipart/form-data": schema({"type": "string", "format": "binary"}, options),
        "application/json": schema({"type": "string", "format": "byte"}, {}),
    }
    query = [{"name": name, "in": "query", "required": False, "schema": one} for name, one in options.items()]
    return {"parameters": query, "requestBody": {"required": True, "content": content}}


def _json_of(model: type[BaseModel]) -> dict[str, Any]:
    """Return what OpenAPI says of a body that is read by hand."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": model.model_json_schema()}}}}
