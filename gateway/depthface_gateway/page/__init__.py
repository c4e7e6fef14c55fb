"""A web page that shows what is served: depth, faces, a search by words, a photo that moves; and the routes it asks.

Each route takes a form with a photo, so that a line of curl does the same. Errors are `{"detail": …}`.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, File, Form, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response

from depthface.errors import ClientError, DepthfaceError, InvalidInput, ModelUnavailable, ServerOverloaded
from depthface.weights import warning_of
from depthface_client import Depth
from depthface_gateway.answers import Json, finite
from depthface_gateway.context import Context
from depthface_gateway.faces.asking import Faces
from depthface_gateway.forms import new_router
from depthface_gateway.frame import Frame, Problem, new_app, request_id
from depthface_gateway.meanings import analyses, embedding_pair
from depthface_render import PRESETS, Clip, Map, Timing, usual_path
from depthface_render.frames import fitting_size

__all__ = ["DEFAULT_PORT", "NAME", "app"]

NAME = "page"
DEFAULT_PORT = 8090

_LONGEST_PX = 640
_TIMING = Timing(seconds=3, fps=24, loop=True)
_MOST_CLIPS = 4
"""That are made or wait to be; each uses all cores."""

_Photo = Annotated[UploadFile, File()]
_Model = Annotated[str | None, Form()]


class _NothingServed(ClientError):
    """The caller named no model, and there is none to take."""

    status = 503


def app(context: Context) -> FastAPI:
    """Make the app."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with context.triton:
            yield

    # The browser keeps the user's key: no script but the page's own runs beside it.
    frame = Frame(NAME, "depthface", _answer, open_paths=frozenset({"/", "/health"}), has_docs=False)
    made = new_app(context, frame, lifespan)
    made.include_router(_router(context))
    return made


def _router(context: Context) -> APIRouter:
    routes = new_router()
    page, policy = _page()
    usual = Faces.of(context)
    rendering, waiting = asyncio.Semaphore(1), 0

    @routes.get("/", response_class=HTMLResponse)
    async def root() -> HTMLResponse:
        """Return the page."""
        return HTMLResponse(page, headers={"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff"})

    @routes.get("/health", responses={503: {}})
    async def health() -> JSONResponse:
        """Say whether a Triton is there, from memory."""
        is_alive = context.triton.is_alive
        return JSONResponse({"status": "healthy" if is_alive else "unhealthy"}, 200 if is_alive else 503)

    @routes.get("/api/models")
    async def models() -> dict[str, Any]:
        """Name what is served, the model of each face pack, and the motions of a clip."""
        served = sorted(context.triton.models.values(), key=lambda model: (model.task, model.rank, model.name))
        rows = [
            {
                "name": one.name,
                "task": one.task,
                "ready": one.ready,
                "weights": one.weights,
                "warning": warning_of(one.weights),
                "takes": one.inputs,
            }
            for one in served
        ]
        packs = dict(sorted(analyses(context.triton.models).items()))
        return {"models": rows, "packs": packs, "motions": list(PRESETS)}

    @routes.post("/api/depth", response_class=Response, responses={200: {"content": {"image/png": {}}}})
    async def depth(request: Request, image: _Photo, model: _Model = None) -> Response:
        """Return the depth of a photo as an 8-bit grey PNG of its size, the nearest white."""
        photo, id = await image.read(), request_id(request)
        with _unless_named(model):
            png = await context.triton.ask(lambda client: client.depth_png(photo, bits=8, model=model, request_id=id))
        return Response(png, media_type="image/png")

    @routes.post("/api/faces")
    async def faces(request: Request, image: _Photo, model: _Model = None) -> JSONResponse:
        """Return the faces of a photo, the surest first; coordinates are pixels of the upright photo."""
        photo, id = await image.read(), request_id(request)
        with _unless_named(model):
            asked = model or (usual.model if analyses(context.triton.models) else None)
            found = await context.triton.ask(lambda client: client.faces(photo, model=asked, request_id=id))
        return JSONResponse({"faces": [face.as_dict() for face in found]})

    @routes.post("/api/embed")
    async def embed(
        request: Request,
        image: Annotated[UploadFile | None, File()] = None,
        text: Annotated[str | None, Form()] = None,
        model: _Model = None,
    ) -> JSONResponse:
        """Return the vector of a photo, or of a text; the cosine of two says how well they belong together.

        Only vectors of one `space` and of the same `weights` can be compared. Where no model is named, photos and texts
        go to two models of one space.
        """
        id = request_id(request)
        photo = await image.read() if image is not None else None
        eyes, words = embedding_pair(context.triton.models) or (None, None)
        with _unless_named(model):
            if photo is not None:
                found = await context.triton.ask(lambda client: client.embed(photo, model=model or eyes, request_id=id))
            elif text is not None:
                found = await context.triton.ask(
                    lambda client: client.embed_text(text, model=model or words, request_id=id)
                )
            else:
                raise InvalidInput("There is neither a photo nor a text.", "Send `image` or `text`.")
        told = {"model": found.model, "space": found.space, "weights": found.weights}
        return Json(told | {"vector": finite(found.vector)})

    @routes.post("/api/clip", response_class=Response, responses={200: {"content": {"video/mp4": {}}}, 503: {}})
    async def clip(
        request: Request, image: _Photo, motion: Annotated[str, Form()] = "circle", model: _Model = None
    ) -> Response:
        """Return a short clip in which the camera moves through the photo, as MP4 of up to 640 pixels."""
        nonlocal waiting
        if motion not in PRESETS:
            raise InvalidInput(f"There is no motion {motion!r}.", f"Choose one of {', '.join(PRESETS)}.")
        if waiting >= _MOST_CLIPS:
            raise ServerOverloaded(f"{waiting} clips are being made already.", "Ask again in a minute.")
        photo, id = await image.read(), request_id(request)
        waiting += 1
        try:
            async with rendering:
                with _unless_named(model):
                    found = await context.triton.ask(lambda client: client.depth(photo, model=model, request_id=id))
                data = await asyncio.to_thread(_clip, photo, found, motion)
        finally:
            waiting -= 1
        return Response(data, media_type="video/mp4")

    return routes


@contextmanager
def _unless_named(model: str | None) -> Iterator[None]:
    """Answer 503 where a model is missing, unless the caller named it: then it stays 404."""
    try:
        yield
    except ModelUnavailable as error:
        if model is not None:
            raise
        raise _NothingServed(error.what, error.remedy) from error


def _clip(photo: bytes, depth: Depth, motion: str) -> bytes:
    path, size = usual_path(motion, loop=_TIMING.loop), fitting_size(depth.size, _LONGEST_PX)
    with TemporaryDirectory(prefix="depthface-") as folder:
        out = Path(folder, "clip.mp4")
        Clip.of(photo, Map(depth.array, depth.weights), path, timing=_TIMING, size=size).write(out)
        return out.read_bytes()


def _page() -> tuple[str, str]:
    """Return the page, and what a browser is to let it do: its own script and style, and nobody else's."""
    page = (files(__package__) / "index.html").read_text(encoding="utf-8")

    def digest(tag: str) -> str:
        (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        return f"'sha256-{base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()}'"

    own = "img-src 'self' blob: data:; media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'"
    return page, f"default-src 'none'; script-src {digest('script')}; style-src {digest('style')}; {own}"


def _answer(problem: Problem) -> Response:
    status, error = problem.status, problem.error
    if isinstance(error, RequestValidationError):
        status = 422
    elif (
        isinstance(error, DepthfaceError) and status == 502
    ):  # what is behind is our affair; a model is named by the caller
        status = 503
    return JSONResponse({"detail": problem.message}, status)
