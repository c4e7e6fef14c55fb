"""InsightFace Server's stateless routes (deepinsight/insightface, `server/docs/api.md`, 0.2), under `/v1`."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.responses import Response

from depthface import __version__
from depthface.errors import (
    DepthfaceError,
    ImageTooLarge,
    InvalidImage,
    InvalidInput,
    NoFaceFound,
    RequestTimeout,
    ServerOverloaded,
)
from depthface.tasks.faces import EMBEDDING_SIZE
from depthface_client import Face
from depthface_gateway.answers import Json, finite
from depthface_gateway.context import Context
from depthface_gateway.faces.asking import Faces, by_area
from depthface_gateway.faces.quality import qualities
from depthface_gateway.forms import new_router
from depthface_gateway.frame import Problem, request_id
from depthface_gateway.photos import upright_size
from depthface_gateway.settings import flag, number, text, words

__all__ = ["HEEDED", "PREFIX", "WITHOUT_EFFECT", "answer", "key", "origins", "router"]

PREFIX = "/v1"

_THRESHOLD, _ORIGINS = "INSIGHTFACE_DEFAULT_THRESHOLD", "INSIGHTFACE_CORS_ORIGINS"
_KEY, _IS_KEYED = "INSIGHTFACE_API_KEY", "INSIGHTFACE_AUTH_ENABLED"

WITHOUT_EFFECT = {"INSIGHTFACE_*": "limits are fixed, models and devices are Triton's, and nobody is registered"}
"""The variables of that server that count for nothing here, and why."""

HEEDED = frozenset({_THRESHOLD, _ORIGINS, _KEY, _IS_KEYED})
"""Those that do count."""

_MOST_BYTES = 10 * 2**20
_MOST_PIXELS = 40_000_000
_MOST_FACES = 100

_CODES = {
    400: "invalid_request",
    401: "unauthorized",
    404: "route_not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "request_too_large",
}


class _Refused(InvalidInput):
    """A refusal with a code of that server's own."""

    def __init__(self, status: int, code: str, what: str) -> None:
        super().__init__(what)
        self.answer = status, code


def key(context: Context) -> str:
    """Return the key that callers show: that server's, or else the gateway's; empty where nobody has asked for one.

    As there, a key is asked for unless `INSIGHTFACE_AUTH_ENABLED` says no; but where neither of its two variables is
    set, another service's place is taken.

    Raises:
        InvalidInput: a key is asked for, and there is none: the app would stand open.
    """
    environment, own = context.environment, text(context.environment, _KEY)
    if not (_KEY in environment or text(environment, _IS_KEYED)):
        return context.settings.api_key
    is_keyed = flag(environment, _IS_KEYED, True)
    found = (own if is_keyed else "") or context.settings.api_key
    if is_keyed and not found:
        raise InvalidInput(
            f"Callers are to show a key, and {_KEY} is empty.", f"Set {_KEY} to what they show, or {_IS_KEYED} to 0."
        )
    return found


def origins(context: Context) -> tuple[str, ...]:
    """Return the web origins that its users allow."""
    return words(context.environment, _ORIGINS)


def router(faces: Faces) -> APIRouter:
    """Return its routes."""
    routes = new_router(prefix=PREFIX, tags=["InsightFace Server"])
    environment = faces.context.environment
    default_threshold = number(environment, _THRESHOLD, 0.4, 0.0, 1.0)

    def said(request: Request, status_code: int = 200, /, **body: Any) -> JSONResponse:
        return Json(body | {"request_id": request_id(request)}, status_code)

    async def read(upload: UploadFile) -> tuple[bytes, tuple[int, int]]:
        """Return the photo, width and height; what it refuses is refused before the server is asked."""
        photo = await upload.read()
        if len(photo) > _MOST_BYTES:
            raise ImageTooLarge(f"The image is larger than {_MOST_BYTES // 2**20} MiB.")
        width, height = await upright_size(photo)
        if width * height > _MOST_PIXELS:
            raise ImageTooLarge(f"The image has more than {_MOST_PIXELS // 10**6} million pixels.")
        return photo, (width, height)

    async def largest(upload: UploadFile, id: str) -> tuple[Face, tuple[int, int]]:
        photo, size = await read(upload)
        found = by_area(await faces.find(photo, id, ("embedding", "crop"), largest=1, at_usual_size=False))
        if not found:
            raise NoFaceFound("No usable face was detected.")
        if found[0].embedding is None:
            raise _Refused(503, "runtime_unavailable", "The served face pack has no recogniser.")
        return found[0], size

    def summary() -> dict[str, Any]:
        name = faces.model
        served = faces.context.triton.models.get(name)
        weights, facts = (served.weights, served.facts) if served is not None else ("", {})
        part = {"model_id": name, "model_version": weights, "sha256": "", "task": "face_analysis"}
        return {
            "model_id": name,
            "model_version": weights,
            "model_digest": "",
            "embedding_dimension": int(facts.get(EMBEDDING_SIZE, 0)),  # 0: the pack has no recogniser
            "preprocessing_version": "insightface",
            "provider": "Triton",
            "models": [part],
            "license": None,
        }

    @routes.get("/health", responses={503: {}})
    async def health(request: Request) -> JSONResponse:
        """Say whether a server is there, from memory."""
        facts = {"version": __version__, "auth_enabled": bool(faces.context.settings.api_key)}
        if not faces.context.triton.is_alive:
            return said(request, 503, status="not_ready", **facts)
        return said(request, status="ready", **facts)

    @routes.get("/models")
    async def models(request: Request) -> JSONResponse:
        """Name what is served."""
        return said(request, models=summary()["models"], execution_provider="Triton", license=None)

    @routes.get("/system")
    async def system(request: Request) -> JSONResponse:
        """Say what an operator may want to know; nothing secret."""
        auth = bool(faces.context.settings.api_key)
        return said(
            request,
            server_version=__version__,
            os=platform.system(),
            architecture=platform.machine(),
            cpu={},
            runtime={},
            execution_provider="Triton",
            model=summary(),
            database={},
            data={},
            models={},
            stats={},
            search={},
            api_key={"authentication_enabled": auth, "configured": auth},
            safe_config={
                "default_similarity_threshold": default_threshold,
                "max_image_bytes": _MOST_BYTES,
                "max_image_pixels": _MOST_PIXELS,
                "max_request_bytes": faces.context.settings.max_body_bytes,
                "request_timeout_seconds": faces.context.settings.deadline_s,
                "max_detected_faces": _MOST_FACES,
            },
            recent_errors=[],
        )

    @routes.post("/detect")
    async def detect(
        request: Request,
        image: Annotated[UploadFile, File()],
        max_faces: Annotated[int | None, Form(ge=1, le=_MOST_FACES)] = None,
        collection_id: Annotated[str | None, Form()] = None,
        min_score: Annotated[str | None, Form(deprecated=True)] = None,
    ) -> JSONResponse:
        """Return the faces, the largest first; no face is a success."""
        _no_collection(collection_id)
        _no_override("min_score", min_score)
        started = time.perf_counter()
        photo, size = await read(image)
        found = await faces.find(photo, request_id(request), ("crop",), largest=max_faces, at_usual_size=False)
        return said(request, faces=_faces(by_area(found), size), processing_ms=_ms(started))

    @routes.post("/compare")
    async def compare(
        request: Request,
        source: Annotated[UploadFile, File()],
        target: Annotated[UploadFile, File()],
        threshold: Annotated[float | None, Form(ge=0.0, le=1.0)] = None,
        collection_id: Annotated[str | None, Form()] = None,
    ) -> JSONResponse:
        """Say whether the largest face of each photo is the same person's."""
        _no_collection(collection_id)
        started = time.perf_counter()
        id = request_id(request)
        (one, one_size), (other, other_size) = await largest(source, id), await largest(target, id)
        limit = default_threshold if threshold is None else threshold
        similarity = one.similarity(other)
        return said(
            request,
            matched=similarity >= limit,
            similarity=similarity,
            threshold=limit,
            source_face=_faces([one], one_size)[0],
            target_face=_faces([other], other_size)[0],
            processing_ms=_ms(started),
        )

    @routes.post("/embeddings")
    async def embeddings(
        request: Request,
        image: Annotated[UploadFile, File()],
        collection_id: Annotated[str | None, Form()] = None,
        face_selection: Annotated[str | None, Form(deprecated=True)] = None,
    ) -> JSONResponse:
        """Return the largest face with its embedding, of unit length."""
        _no_collection(collection_id)
        _no_override("face_selection", face_selection)
        started = time.perf_counter()
        face, size = await largest(image, request_id(request))
        assert face.embedding is not None
        return said(
            request,
            faces=[_faces([face], size)[0] | {"embedding": finite(face.embedding)}],
            model=summary(),
            processing_ms=_ms(started),
        )

    return routes


def answer(problem: Problem) -> Response:
    """Return an error in that server's envelope."""
    error, status = problem.error, problem.status
    code = _CODES.get(status, "internal_error")
    if isinstance(error, _Refused):
        status, code = error.answer
    elif isinstance(error, NoFaceFound):
        status, code = 422, "face_not_found"
    elif isinstance(error, InvalidImage):
        status, code = 422, "invalid_image"
    elif isinstance(error, ImageTooLarge):
        status, code = 413, "image_too_large"
    elif isinstance(error, RequestTimeout | ServerOverloaded):
        status, code = 503, "request_timeout"
    elif isinstance(error, RequestValidationError | InvalidInput):
        status, code = 400, "invalid_request"
    elif isinstance(error, DepthfaceError) and status in (404, 502):
        status, code = 503, "runtime_unavailable"
    message = "A valid Bearer API key is required." if status == 401 else problem.message
    headers = {"www-authenticate": "Bearer"} if status == 401 else None
    return JSONResponse({"error": _error(code, message), "request_id": problem.request_id}, status, headers)


def _error(code: str, message: str) -> dict[str, Any]:
    return {"code": code, "message": message, "details": {}}


def _no_collection(id: str | None) -> None:
    if id:
        raise _Refused(404, "collection_not_found", f"Collection '{id}' was not found: no collections are kept here.")


def _no_override(name: str, value: str | None) -> None:
    if value is not None:
        what = f"{name} is not taken from a request. Leave it out."
        raise _Refused(400, "request_detection_override_not_supported", what)


def _ms(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 3)


def _faces(faces: Sequence[Face], size: tuple[int, int]) -> list[dict[str, Any]]:
    return [_face(face, values, size) for face, values in zip(faces, qualities(faces), strict=True)]


def _face(face: Face, quality: Mapping[str, float], size: tuple[int, int]) -> dict[str, Any]:
    """Return a face as its documents have it: the box within the photo, in pixels and in shares of its sides."""
    width, height = size
    left, top, right, bottom = face.box.tolist()
    x1, x2 = (min(max(round(x), 0), width) for x in (left, right))
    y1, y2 = (min(max(round(y), 0), height) for y in (top, bottom))
    return {
        "bbox": {
            "pixels": {"x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1},
            "normalized": {
                "left": round(x1 / width, 8),
                "top": round(y1 / height, 8),
                "width": round((x2 - x1) / width, 8),
                "height": round((y2 - y1) / height, 8),
            },
        },
        "landmarks": [[round(x, 3), round(y, 3)] for x, y in face.keypoints.tolist()],
        "detection_score": round(face.score, 6),
        "quality": quality,
    }
