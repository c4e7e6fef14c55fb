"""CompreFace's detection and verification (exadel-inc/CompreFace, `docs/Rest-API-description.md`), under `/api/v1`."""

from __future__ import annotations

import math
import time
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import UploadFile
from starlette.responses import Response

from depthface.errors import DepthfaceError, ImageTooLarge, InvalidInput, NoFaceFound
from depthface.together import together
from depthface_client import Face
from depthface_gateway.answers import Json, finite
from depthface_gateway.faces.asking import Faces, by_area
from depthface_gateway.forms import new_router
from depthface_gateway.frame import Problem, request_id
from depthface_gateway.photos import from_base64

__all__ = ["PREFIX", "answer", "router", "similarity_of"]

PREFIX = "/api/v1"

_MOST_BYTES = 5 * 2**20

_NO_FACE, _MISSING_PART, _BAD_VALUE, _OTHER = 28, 34, 26, 0  # CompreFace's own codes

_MIDDLE_DISTANCE, _STEEPNESS = 1.23132175, 6.602259425
"""CompreFace's `similarity_coefficients` of `arcface_r100_v1`."""

_PARTS = {"calculator": "embedding", "age": "attributes", "gender": "attributes", "pose": "pose"}

_Plugins = Annotated[str, Query(description="comma-separated: landmarks, calculator, gender, age, pose")]


class _MissingPart(InvalidInput):
    """A photo that must be there is not."""


def router(faces: Faces) -> APIRouter:
    """Return its routes."""
    routes = new_router(prefix=PREFIX, tags=["CompreFace"])

    async def find(photo: bytes, request: Request, plugins: str, threshold: float | None, limit: int) -> list[Face]:
        asked = [_PARTS[plugin] for plugin in _names(plugins) if plugin in _PARTS]
        parts = dict.fromkeys(asked)
        found = await faces.find(photo, request_id(request), parts, min_score=threshold, largest=limit)
        if not found:
            raise NoFaceFound("No face is found in the given image")
        return by_area(found)

    @routes.post("/detection/detect", openapi_extra=_body("file"))
    async def detect(
        request: Request,
        limit: Annotated[int, Query(ge=0)] = 0,
        det_prob_threshold: Annotated[float | None, Query(ge=0, le=1)] = None,
        face_plugins: _Plugins = "",
        status: bool = False,
    ) -> JSONResponse:
        """Return the faces of `file`, the biggest first."""
        started = time.perf_counter()
        (photo,) = await _photos(request, "file")
        found = await find(photo, request, face_plugins, det_prob_threshold, limit)
        rows = [_face(face, face_plugins) for face in found]
        return Json(_with_status({"result": rows}, rows, status, started))

    @routes.post("/verification/verify", openapi_extra=_body("source_image", "target_image"))
    async def verify(
        request: Request,
        limit: Annotated[int, Query(ge=0)] = 0,
        det_prob_threshold: Annotated[float | None, Query(ge=0, le=1)] = None,
        face_plugins: _Plugins = "",
        status: bool = False,
    ) -> JSONResponse:
        """Compare the biggest face of `source_image` with every face of `target_image`, the most similar first."""
        started = time.perf_counter()
        photos = await _photos(request, "source_image", "target_image")
        plugins = f"{face_plugins},calculator"
        sources, targets = await together(
            find(photos[0], request, plugins, det_prob_threshold, 1),
            find(photos[1], request, plugins, det_prob_threshold, limit),
        )
        source = sources[0]
        targets.sort(key=source.similarity, reverse=True)
        matches = [
            _face(face, face_plugins) | {"similarity": similarity_of(source.similarity(face))} for face in targets
        ]
        row = _face(source, face_plugins)
        verdict = {"source_image_face": row, "face_matches": matches}
        return Json({"result": [_with_status(verdict, [row, *matches], status, started)]})

    return routes


def similarity_of(cosine: float) -> float:
    """Return how similar CompreFace calls two faces, 0…1, of the cosine of their embeddings, −1…1.

    It is (tanh((c₀ − d) c₁) + 1) / 2 of the distance d = √(2 − 2 cos) of vectors of unit length, as in its
    `EuclideanDistanceClassifier`; c₀ and c₁ are those of its InsightFace plugin for `arcface_r100_v1`. So a threshold
    that its users have set stays right: 0.5 is where the distance is c₀, at a cosine of 0.24.
    """
    distance = math.sqrt(max(2 - 2 * cosine, 0.0))
    return round((math.tanh((_MIDDLE_DISTANCE - distance) * _STEEPNESS) + 1) / 2, 5)


def answer(problem: Problem) -> Response:
    """Return an error as CompreFace does: its text and its code."""
    error, status, code = problem.error, problem.status, _OTHER
    message = problem.message
    if isinstance(error, NoFaceFound):
        code, message = _NO_FACE, error.what
    elif isinstance(error, _MissingPart):
        code = _MISSING_PART
    elif isinstance(error, RequestValidationError):
        code, status = _BAD_VALUE, 400
    elif isinstance(error, ImageTooLarge):
        status = 413
    elif isinstance(error, InvalidInput):
        status = 400
    elif isinstance(error, DepthfaceError) and status in (404, 502):
        status = 503
    return JSONResponse({"message": message, "code": code}, status)


async def _photos(request: Request, *names: str) -> list[bytes]:
    """Return the photos of these names, from multipart or as base64 in JSON."""
    if request.headers.get("content-type", "").partition(";")[0].strip() == "application/json":
        try:
            body = await request.json()
            found = {name: from_base64(body[name]) for name in names if name in body}
        except (ValueError, AttributeError, TypeError) as error:
            raise InvalidInput(
                "The body is no JSON object with photos in base64.", "See CompreFace's documents."
            ) from error
    else:
        form = await request.form()
        found = {name: await part.read() for name in names if isinstance(part := form.get(name), UploadFile)}
    for name in names:
        if not found.get(name):
            raise _MissingPart(f"Required part '{name}' is not present.")
        if len(found[name]) > _MOST_BYTES:
            raise ImageTooLarge(f"{name} is larger than {_MOST_BYTES // 2**20} MB.", "Send a smaller photo.")
    return [found[name] for name in names]


def _names(plugins: str) -> list[str]:
    return [name.strip() for name in plugins.split(",") if name.strip()]


def _face(face: Face, plugins: str) -> dict[str, Any]:
    """Return a face with what the plugins add. No network tells how sure it is of age and gender: null."""
    x1, y1, x2, y2 = (round(float(side)) for side in face.box)
    row: dict[str, Any] = {"box": {"probability": face.score, "x_max": x2, "y_max": y2, "x_min": x1, "y_min": y1}}
    asked = _names(plugins)
    if "landmarks" in asked:
        row["landmarks"] = face.keypoints.round().astype(int).tolist()
    if "calculator" in asked and face.embedding is not None:
        row["embedding"] = finite(face.embedding)
    if "age" in asked and face.age is not None:
        row["age"] = {"probability": None, "high": face.age, "low": face.age}
    if "gender" in asked and face.gender is not None:
        row["gender"] = {"probability": None, "value": face.gender}
    if "pose" in asked and face.pose is not None:
        row["pose"] = dict(zip(("pitch", "yaw", "roll"), face.pose.astype(float).tolist(), strict=True))
    return row


def _with_status(body: dict[str, Any], rows: list[dict[str, Any]], is_asked: bool, started: float) -> dict[str, Any]:
    """Add times and versions if they are asked for; the whole time counts as the detector's."""
    if not is_asked:
        return body
    ms = round((time.perf_counter() - started) * 1000, 1)
    for row in rows:
        row["execution_time"] = {"detector": ms}
    return body | {"plugins_versions": {"detector": "depthface", "calculator": "depthface"}}


def _body(*names: str) -> dict[str, Any]:
    """Return what OpenAPI says of a request's body."""

    def schema(kind: dict[str, str]) -> dict[str, Any]:
        return {"schema": {"type": "object", "required": [*names], "properties": dict.fromkeys(names, kind)}}

    content = {
        "multipart/form-data": schema({"type": "string", "format": "binary"}),
        "application/json": schema({"type": "string", "format": "byte"}),
    }
    return {"requestBody": {"required": True, "content": content}}
