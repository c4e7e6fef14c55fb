"""InsightFace-REST's routes (SthPhoenix/InsightFace-REST, `if_rest/api/routes/v1`).

Many photos come in one request, in JSON or msgpack.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Annotated, Any

import msgpack
import numpy as np
import numpy.typing as npt
from aiohttp import ClientSession
from fastapi import APIRouter, File, Form, HTTPException, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, ValidationError

from depthface import __version__
from depthface.errors import DepthfaceError, ModelUnavailable, ServerUnavailable
from depthface.together import together
from depthface_client import Face
from depthface_gateway.answers import Json, finite
from depthface_gateway.faces.asking import Faces
from depthface_gateway.faces.drawing import Look, drawn
from depthface_gateway.forms import MOST_VALUES, check_values, new_router
from depthface_gateway.frame import request_id
from depthface_gateway.outward import fetch
from depthface_gateway.photos import from_base64
from depthface_gateway.settings import Environment, flag, number

__all__ = ["WITHOUT_EFFECT", "Outside", "router"]

_AT_ONCE = 8  # photos of one request
_MOST_PHOTOS = 1000
_MOST_FACES = 2**31
WITHOUT_EFFECT = {
    "DEF_DETECT_MASKS": "there is no network for masks",
    **dict.fromkeys(
        ("DEF_IMG_REQ_HEADERS", "DEF_SSLV3_HACK"), "photos are fetched with the headers of a request alone"
    ),
    **dict.fromkeys(
        ("INFERENCE_BACKEND", "DET_NAME", "REC_NAME", "GA_NAME", "MASK_DETECTOR", "TRITON_URI"),
        "FACES_PACK names the pack, --url the Triton",
    ),
    **dict.fromkeys(
        ("MAX_SIZE", "DET_BATCH_SIZE", "REC_BATCH_SIZE", "FORCE_FP16"), "sizes and precisions are Triton's"
    ),
    "ROOT_IMAGES_DIR": "no files are read from this machine",
}
"""The variables of that service that count for nothing here, and why."""

_JSON, _MSGPACK, _MSGPACK_ANSWER = "application/json", "application/msgpack", "application/x-msgpack"


@dataclass
class Outside:
    """How photos are fetched whose addresses callers give; off while there is no session."""

    session: ClientSession | None = None


class Images(BaseModel):
    """Photos as base64 (in msgpack as they are), or their addresses."""

    data: Annotated[list[bytes], Field(fail_fast=True)] | None = None
    urls: Annotated[list[str], Field(fail_fast=True)] | None = None


class Extract(BaseModel):
    """What a request says; the defaults are of the variables DEF_…."""

    images: Images
    threshold: float | None = Field(default=None, allow_inf_nan=False)
    embed_only: bool | None = False
    return_face_data: bool | None = None
    return_landmarks: bool | None = None
    extract_embedding: bool | None = None
    extract_ga: bool | None = None
    detect_masks: bool | None = False
    limit_faces: int | None = Field(default=0, lt=_MOST_FACES)
    min_face_size: int | None = 0
    verbose_timings: bool | None = False
    msgpack: bool | None = False
    img_req_headers: dict[str, str | int | float] | None = None


class Draw(BaseModel):
    """What a request for a picture says."""

    images: Images
    threshold: float | None = Field(default=None, allow_inf_nan=False)
    draw_landmarks: bool | None = True
    draw_scores: bool | None = True
    draw_sizes: bool | None = True
    limit_faces: int | None = Field(default=0, lt=_MOST_FACES)
    min_face_size: int | None = 0


@dataclass(frozen=True)
class _Defaults:
    threshold: float
    face_data: bool
    landmarks: bool
    embedding: bool
    gender_age: bool

    @classmethod
    def of(cls, environment: Environment) -> _Defaults:
        return cls(
            threshold=number(environment, "DEF_DET_THRESH", 0.6, 0.0, 1.0),
            face_data=flag(environment, "DEF_RETURN_FACE_DATA"),
            landmarks=flag(environment, "DEF_RETURN_LANDMARKS"),
            embedding=flag(environment, "DEF_EXTRACT_EMBEDDING", True),
            gender_age=flag(environment, "DEF_EXTRACT_GA"),
        )


@dataclass(frozen=True)
class _Wish:
    """What of a face is wanted."""

    threshold: float
    limit: int
    least_px: int
    face_data: bool
    landmarks: bool
    embedding: bool
    gender_age: bool

    @classmethod
    def of(cls, body: Extract, defaults: _Defaults) -> _Wish:
        def or_default(said: bool | None, default: bool) -> bool:
            return default if said is None else said

        return cls(
            threshold=defaults.threshold if body.threshold is None else body.threshold,
            limit=_most(body.limit_faces),
            least_px=body.min_face_size or 0,
            face_data=or_default(body.return_face_data, defaults.face_data),
            landmarks=or_default(body.return_landmarks, defaults.landmarks),
            embedding=or_default(body.extract_embedding, defaults.embedding),
            gender_age=or_default(body.extract_ga, defaults.gender_age),
        )

    @property
    def parts(self) -> tuple[str, ...]:
        wanted = {"embedding": self.embedding, "attributes": self.gender_age, "crop": self.face_data}
        return tuple(part for part, is_wanted in wanted.items() if is_wanted)


def router(faces: Faces, outside: Outside) -> APIRouter:
    """Return its routes."""
    routes = new_router(tags=["InsightFace-REST"])
    defaults = _Defaults.of(faces.context.environment)
    schema = {
        "required": True,
        "content": {kind: {"schema": Extract.model_json_schema()} for kind in (_JSON, _MSGPACK)},
    }

    def sources_of(images: Images) -> list[bytes] | list[str]:
        """Return the photos of a request, or their addresses if those are fetched here."""
        if images.urls is None:
            return images.data or []
        if outside.session is None:
            raise HTTPException(
                400,
                "Photos are not fetched from addresses here. Send them in images.data, or have the operator set "
                "DEPTHFACE_GATEWAY_FETCH_URLS=1.",
            )
        return images.urls

    async def loaded(source: bytes | str, is_raw: bool, headers: Mapping[str, Any] | None = None) -> bytes:
        if isinstance(source, bytes):
            return source if is_raw else from_base64(source)
        assert outside.session is not None
        sent = {name: str(value) for name, value in (headers or {}).items()}
        return await fetch(outside.session, source, faces.context.settings.max_body_bytes, sent)

    async def picture(photo: bytes, body: Draw, id: str, kind: str) -> bytes:
        threshold = defaults.threshold if body.threshold is None else body.threshold
        found = await faces.find(photo, id, min_score=threshold, largest=_most(body.limit_faces))
        shown = [face for face in found if float(face.box[2] - face.box[0]) >= (body.min_face_size or 0)]
        look = Look(bool(body.draw_landmarks), bool(body.draw_scores), bool(body.draw_sizes))
        return await asyncio.to_thread(drawn, photo, shown, look, kind)

    @routes.post("/extract", openapi_extra={"requestBody": schema})
    async def extract(request: Request) -> Response:
        """Return the faces of every photo; one that fails does so alone."""
        started = time.perf_counter()
        kind = request.headers.get("content-type", _JSON).partition(";")[0].strip()
        body = _parsed(await request.body(), kind)
        if body.embed_only:
            raise HTTPException(501, "embed_only is not done here: faces are cut out and turned by the server alone.")
        sources = sources_of(body.images)
        if len(sources) > _MOST_PHOTOS:
            raise HTTPException(413, f"These are {len(sources)} photos. Send up to {_MOST_PHOTOS} at once.")
        wish, read_ms = _Wish.of(body, defaults), [0.0]
        places = asyncio.Semaphore(_AT_ONCE)

        async def done(source: bytes | str) -> dict[str, Any]:
            async with places:
                begun = time.perf_counter()
                try:
                    photo = await loaded(source, kind == _MSGPACK, body.img_req_headers)
                    read_ms[0] += _ms(begun)
                    return await _extracted(faces, photo, wish, request_id(request))
                except (ServerUnavailable, ModelUnavailable):  # no other photo fares better
                    raise
                except DepthfaceError as error:  # in place of a traceback: what is wrong, and how to mend it
                    return {"status": "failed", "took_ms": 0.0, "faces": [], "traceback": str(error)}

        rows = await together(*(done(source) for source in sources))
        took = {"total_ms": _ms(started)}
        if body.verbose_timings:
            took |= {"read_imgs_ms": read_ms[0], "embed_all_ms": took["total_ms"] - read_ms[0]}
        output = {"took": took, "data": rows}
        if body.msgpack or _MSGPACK_ANSWER in request.headers.get("accept", ""):
            return Response(msgpack.packb(output, default=_plain, use_single_float=True), media_type=_MSGPACK_ANSWER)
        return Json(output)

    @routes.post("/draw_detections", response_class=Response, responses={200: {"content": {"image/png": {}}}})
    async def draw(request: Request, body: Draw) -> Response:
        """Return the first photo with its faces drawn."""
        sources = sources_of(body.images)
        if not sources:
            raise HTTPException(422, "There is no photo. Send one in images.data.")
        photo = await loaded(sources[0], is_raw=False)
        return Response(await picture(photo, body, request_id(request), "PNG"), media_type="image/png")

    @routes.post("/multipart/draw_detections", response_class=Response, responses={200: {"content": {"image/jpg": {}}}})
    async def draw_upload(  # noqa: PLR0913  the fields of a form
        request: Request,
        file: Annotated[UploadFile, File()],
        threshold: Annotated[float | None, Form(allow_inf_nan=False)] = None,
        draw_landmarks: Annotated[bool, Form()] = True,
        draw_scores: Annotated[bool, Form()] = True,
        draw_sizes: Annotated[bool, Form()] = True,
        limit_faces: Annotated[int, Form(lt=_MOST_FACES)] = 0,
    ) -> Response:
        """Return the photo with its faces drawn."""
        body = Draw(
            images=Images(),
            threshold=threshold,
            draw_landmarks=draw_landmarks,
            draw_scores=draw_scores,
            draw_sizes=draw_sizes,
            limit_faces=limit_faces,
        )
        jpeg = await picture(await file.read(), body, request_id(request), "JPEG")
        return Response(jpeg, media_type="image/jpg")

    @routes.get("/info")
    async def info() -> dict[str, Any]:
        """Say how this service is set up."""
        return {
            "version": __version__,
            "tensorrt_version": None,
            "log_level": "INFO",
            "models": {
                "inference_backend": "triton",
                "det_name": faces.model,
                "rec_name": faces.model,
                "ga_name": faces.model,
                "mask_detector": None,
                "max_size": [640, 640],
                "rec_batch_size": 1,
                "det_batch_size": 1,
                "force_fp16": False,
                "triton_uri": None,
            },
            "defaults": {
                "return_face_data": defaults.face_data,
                "return_landmarks": defaults.landmarks,
                "extract_embedding": defaults.embedding,
                "extract_ga": defaults.gender_age,
                "detect_masks": False,
                "det_thresh": defaults.threshold,
                "img_req_headers": {},
                "sslv3_hack": False,
            },
        }

    return routes


def _most(limit: int | None) -> int:
    """Return how many faces are wanted, 0 for all: without a number above 0 there is no limit."""
    return max(limit or 0, 0)


async def _extracted(faces: Faces, photo: bytes, wish: _Wish, id: str) -> dict[str, Any]:
    started = time.perf_counter()
    found = await faces.find(photo, id, wish.parts, min_score=wish.threshold, largest=wish.limit)
    rows = [
        _face(face, index, wish)
        for index, face in enumerate(found)
        if not wish.least_px or float(face.box[2] - face.box[0]) >= wish.least_px
    ]
    return {"status": "ok", "took_ms": _ms(started), "faces": rows}


def _face(face: Face, index: int, wish: _Wish) -> dict[str, Any]:
    """Return a face as it is there. `norm` is that of the vector, which is of unit length: no network tells another."""
    box = face.box.astype(int).tolist()
    has_vector = face.embedding is not None and wish.embedding
    row: dict[str, Any] = {
        "num_det": index,
        "prob": face.score,
        "size": int(face.box[2] - face.box[0]),
        "bbox": box,
        "norm": 1.0 if has_vector else None,
        "vec": finite(face.embedding) if face.embedding is not None and has_vector else None,
        "gender": ("female", "male").index(face.gender) if face.gender and wish.gender_age else None,
        "age": face.age if wish.gender_age else None,
        "mask": None,
        "mask_probs": None,
    }
    if wish.landmarks:
        row["landmarks"] = face.keypoints.astype(int).tolist()
    if wish.face_data and face.aligned is not None:
        jpeg = BytesIO()
        face.crop().save(jpeg, "JPEG", quality=95)
        row["facedata"] = base64.b64encode(jpeg.getvalue()).decode()
    return row


def _plain(array: npt.NDArray[np.float32]) -> list[float]:
    """Return what msgpack knows."""
    plain: list[float] = array.tolist()
    return plain


def _parsed(body: bytes, kind: str) -> Extract:
    """Return what the body says; raises 413 or 422 naming what is wrong with it, and where."""
    try:
        if kind == _MSGPACK:
            return Extract.model_validate(_unpacked(body))
        check_values(body)
        return Extract.model_validate_json(body)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_context=False, include_input=False)
        raise RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in wrong]) from error
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise HTTPException(422, f"The body is no msgpack ({error}).") from error


def _unpacked(body: bytes) -> Any:
    """Return what msgpack holds; raises `ValueError` for more values than `MOST_VALUES`."""
    left = MOST_VALUES

    def counted(values: Any) -> Any:
        nonlocal left
        left -= 1 + len(values)
        if left < 0:
            raise ValueError(f"it holds more than {MOST_VALUES} values")
        return values

    return msgpack.unpackb(
        body, list_hook=counted, object_hook=counted, max_array_len=MOST_VALUES, max_map_len=MOST_VALUES
    )


def _ms(started: float) -> float:
    return (time.perf_counter() - started) * 1000
