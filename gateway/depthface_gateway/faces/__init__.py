"""Faces over REST: InsightFace-RestAPI, InsightFace Server, InsightFace-REST and CompreFace, at one port.

Their paths do not meet, but for `/health` and `/`, which are the first's. Each answers errors in its own form.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response

from depthface.errors import DepthfaceError
from depthface_gateway import outward
from depthface_gateway.context import Context
from depthface_gateway.faces import compreface, insightface_rest, insightface_server, restapi
from depthface_gateway.faces.asking import Faces
from depthface_gateway.faces.insightface_rest import Outside
from depthface_gateway.frame import Frame, Problem, new_app, told
from depthface_gateway.settings import flag

__all__ = ["DEFAULT_PORT", "NAME", "app"]

NAME = "faces"
DEFAULT_PORT = 8000

_OPEN_PATHS = frozenset({"/", "/health", f"{insightface_server.PREFIX}/health"})

_ANSWERS: Mapping[str, Callable[[Problem], Response]] = {
    insightface_server.PREFIX: insightface_server.answer,
    compreface.PREFIX: compreface.answer,
}


def app(context: Context) -> FastAPI:
    """Make the app; raises `InvalidInput` if a variable says what cannot be."""
    context = replace(context, settings=replace(context.settings, api_key=insightface_server.key(context)))
    faces = Faces.of(context)
    outside = Outside()
    is_fetching = flag(context.environment, "DEPTHFACE_GATEWAY_FETCH_URLS")
    networks = outward.allowed_networks(context.environment)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(context.triton)
            if is_fetching:
                outside.session = await stack.enter_async_context(outward.session(networks, outward.PHOTO_TIMEOUT_S))
            yield

    frame = Frame(
        NAME, "Faces over REST", _answer, open_paths=_OPEN_PATHS, origins=insightface_server.origins(context),
        is_for_any_page=not is_fetching,  # or else any page that its user opens could look into the network
        without_effect=insightface_server.WITHOUT_EFFECT | insightface_rest.WITHOUT_EFFECT | compreface.WITHOUT_EFFECT,
        heeded=insightface_server.HEEDED,
    )  # fmt: skip
    made = new_app(context, frame, lifespan)
    made.include_router(restapi.router(faces))
    made.include_router(insightface_server.router(faces))
    made.include_router(insightface_rest.router(faces, outside))
    made.include_router(compreface.router(faces))
    return made


def _answer(problem: Problem) -> Response:
    """Return an error in the form of whose path it is."""
    for prefix, answer in _ANSWERS.items():
        if problem.path.startswith(f"{prefix}/"):
            return answer(problem)
    status, error = problem.status, problem.error
    detail: object = problem.message
    if isinstance(error, RequestValidationError):
        detail = told(error)
    elif isinstance(error, HTTPException):
        detail = error.detail
    elif isinstance(error, DepthfaceError) and status in (404, 502):  # what is behind is our affair, not the caller's
        status = 503
    return JSONResponse({"detail": detail}, status)
