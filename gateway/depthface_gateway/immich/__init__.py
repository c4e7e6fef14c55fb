"""immich's machine learning service: `/ping` and `/predict`, for faces and CLIP; the rest goes to an upstream.

immich takes one failed answer for a sign that the whole service is down. So a full queue waits here, `/ping` answers
from memory, and it says no once Triton is known to be gone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, File, Form, HTTPException, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.responses import Response

from depthface.errors import DepthfaceError, ModelUnavailable, ServeError
from depthface.tasks.faces import EMBEDDING_SIZE
from depthface.together import together
from depthface_client import Face
from depthface_gateway.context import Context
from depthface_gateway.forms import new_router
from depthface_gateway.frame import Frame, Problem, new_app, request_id, told
from depthface_gateway.immich.embedding import literal
from depthface_gateway.immich.entries import CLIP, FACES, OCR, Entry, UnknownEntries, parsed
from depthface_gateway.immich.models import HEEDED, Models, preloaded
from depthface_gateway.immich.upstream import Upstream
from depthface_gateway.meanings import analyses, det_size_of
from depthface_gateway.photos import upright_size

__all__ = ["DEFAULT_PORT", "HOST_VARIABLE", "NAME", "PORT_VARIABLE", "app"]

NAME = "immich"
DEFAULT_PORT = 3003
HOST_VARIABLE, PORT_VARIABLE = "IMMICH_HOST", "IMMICH_PORT"

_log = logging.getLogger(__name__)

_MIN_SCORE = 0.7
_LEAST_SCORE = 1e-6  # what stands for 0: Triton's models want one above it
_COLUMNS = 512
"""The width of immich's column for face vectors."""

_NOTES = "immich.json"


def app(context: Context) -> FastAPI:
    """Make the app; raises `InvalidInput` if a variable says what cannot be."""
    models = Models.of(context.triton, context.settings.aliases, context.environment, context.data / _NOTES)
    upstream = Upstream(context.upstream, context.settings.deadline_s) if context.upstream else None

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(context.triton)
            if upstream:
                await stack.enter_async_context(upstream)
            _check_width(context)
            tasks = [
                asyncio.create_task(models.preload(preloaded(context.environment))),
                asyncio.create_task(models.watch()),
            ]
            yield
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    frame = Frame(
        NAME, "Immich ML", _answer, open_paths=frozenset({"/", "/ping"}), is_keyed=False,
        without_effect={"MACHINE_LEARNING_*": "threads, devices and batches are Triton's, and OCR is not done"},
        heeded=HEEDED,
    )  # fmt: skip
    made = new_app(context, frame, lifespan)
    made.include_router(_router(context, models, upstream))
    return made


def _router(context: Context, models: Models, upstream: Upstream | None) -> APIRouter:
    routes = new_router()
    refused: set[tuple[str, str]] = set()

    @routes.get("/")
    async def root() -> dict[str, str]:
        """Say what this is."""
        return {"message": "Immich ML"}

    @routes.get("/ping", response_class=PlainTextResponse, responses={503: {"content": {"text/plain": {}}}})
    async def ping() -> PlainTextResponse:
        """Say whether a Triton is there, from memory."""
        if context.triton.is_alive:
            return PlainTextResponse("pong")
        return PlainTextResponse("no Triton answers", 503)

    @routes.post("/predict", responses={400: {}, 413: {}, 500: {}, 503: {}, 504: {}})
    async def predict(
        request: Request,
        entries: Annotated[str, Form()],
        image: Annotated[UploadFile | None, File()] = None,
        text: Annotated[str | None, Form()] = None,
    ) -> Response:
        """Return what each task of `entries` finds in `image`, or in `text`."""
        id = request_id(request)
        try:
            asked = parsed(entries)
        except UnknownEntries:
            if upstream is None:
                raise
            return await upstream.predict(await request.form(), id)
        photo = await image.read() if image is not None else None
        if photo is None and text is None:
            raise HTTPException(400, "Either image or text must be provided")
        missing = [entry for entry in asked if models.name(entry) is None]
        if any(entry.task in (CLIP, FACES) for entry in asked):
            context.triton.check_alive()
        if missing and upstream:
            return await upstream.predict(await request.form(), id)
        if missing:
            error = _not_served(missing[0], context)
            if (kind := (missing[0].task, missing[0].type)) not in refused:  # each upload asks again
                refused.add(kind)
                _log.warning("%s immich takes this answer for a service that is down.", error)
            raise error
        try:
            return await _predicted(models, asked, photo, text, id)
        except ModelUnavailable as error:  # it was served once, and can no longer be loaded
            if upstream is None:
                raise
            _log.info("%s The upstream is asked.", error.what, extra={"request_id": id})
        return await upstream.predict(await request.form(), id)

    return routes


async def _predicted(
    models: Models, entries: list[Entry], photo: bytes | None, text: str | None, id: str
) -> JSONResponse:
    if photo is None:
        return JSONResponse(await _found(models, entries, None, text, id))
    answer, (width, height) = await together(_found(models, entries, photo, text, id), upright_size(photo))
    return JSONResponse(answer | {"imageWidth": width, "imageHeight": height})


async def _found(
    models: Models, entries: list[Entry], photo: bytes | None, text: str | None, id: str
) -> dict[str, Any]:
    """Return what each task finds, by the task's name."""
    answer: dict[str, Any] = {}
    for task in dict.fromkeys(entry.task for entry in entries):
        some = [entry for entry in entries if entry.task == task]
        if task == FACES:
            answer[FACES] = await _faces(models, some, photo, id)
        else:
            answer[CLIP] = await _clip(models, some, photo, text, id)
    return answer


async def _faces(models: Models, entries: list[Entry], photo: bytes | None, id: str) -> object:
    """Return the faces as immich stores them: whole pixels, vectors as text."""
    if photo is None:
        raise HTTPException(400, "Faces are looked for in an image. Send one.")
    names = {name for entry in entries if (name := models.name(entry))}
    if len(names) > 1:
        raise HTTPException(400, "Detection and recognition are of two packs. Choose one pack for both.")
    (name,) = names
    detection = next((entry for entry in entries if entry.type == "detection"), entries[0])
    min_score = min(max(detection.number("minScore", _MIN_SCORE), _LEAST_SCORE), 1.0)
    is_whole = any(entry.type == "recognition" for entry in entries)
    found = await models.ask(
        name,
        lambda client: client.faces(
            photo,
            model=name,
            parts=("embedding",) if is_whole else (),
            min_score=min_score,
            det_size=det_size_of(models.known.get(name)),
            request_id=id,
        ),
    )
    if not is_whole:
        return {
            "boxes": [_box(face) for face in found],
            "scores": [face.score for face in found],
            "landmarks": [face.keypoints.tolist() for face in found],
        }
    return [_row(face, name) for face in found]


def _row(face: Face, name: str) -> dict[str, Any]:
    if face.embedding is None or face.embedding.shape != (_COLUMNS,):
        raise _too_narrow(name, 0 if face.embedding is None else len(face.embedding))
    box = dict(zip(("x1", "y1", "x2", "y2"), _box(face), strict=True))
    return {"boundingBox": box, "embedding": literal(face.embedding), "score": face.score}


def _box(face: Face) -> list[int]:
    return [round(float(side)) for side in face.box]


async def _clip(models: Models, entries: list[Entry], photo: bytes | None, text: str | None, id: str) -> str:
    """Return the vector of the photo, or else of the text, as text."""
    entry = next((entry for entry in entries if (entry.type == "visual") == (photo is not None)), entries[0])
    name = models.name(entry)
    assert name is not None
    if entry.type == "visual":
        if photo is None:
            raise HTTPException(400, "clip visual takes an image. Send one.")
        seen = await models.ask(name, lambda client: client.embed(photo, model=name, request_id=id))
        return literal(seen.vector)
    if text is None:
        raise HTTPException(400, "clip textual takes a text. Send one.")
    read = await models.ask(name, lambda client: client.embed_text(text, model=name, request_id=id))
    return literal(read.vector)


def _not_served(entry: Entry, context: Context) -> DepthfaceError:
    served = ", ".join(sorted(context.triton.models)) or "nothing"
    mended = "Export it, name its like in DEPTHFACE_GATEWAY_ALIASES"
    if entry.task == OCR:
        mended = "Switch off OCR in immich's machine learning settings"
    return ModelUnavailable(
        f"The model {entry.model!r} for {entry.task} {entry.type} is not served here; what is: {served}.",
        f"{mended}, or give an --upstream that has it.",
    )


def _check_width(context: Context) -> None:
    """Refuse to start where the only face pack does not fit immich's column; warn where it is one of several."""
    packs = list(analyses(context.triton.models).values())
    for name in packs:
        width = int(context.triton.models[name].facts.get(EMBEDDING_SIZE, _COLUMNS))
        if width != _COLUMNS:
            error = _too_narrow(name, width)
            if len(packs) == 1 and not context.settings.aliases:  # an alias may name one that is loaded later
                raise error
            _log.warning("%s", error)


def _too_narrow(name: str, width: int) -> ServeError:
    return ServeError(
        f"{name} gives face vectors of {width} numbers, and immich stores {_COLUMNS}.",
        "Serve a pack whose recogniser gives as many, such as the one that immich asks for by default.",
    )


def _answer(problem: Problem) -> Response:
    error, status = problem.error, problem.status
    detail: object = problem.message
    if isinstance(error, RequestValidationError):
        detail = told(error)
    elif isinstance(error, ModelUnavailable):
        status = 400
    elif isinstance(error, DepthfaceError) and status == 502:
        status = 503
    return JSONResponse({"detail": detail}, status)
