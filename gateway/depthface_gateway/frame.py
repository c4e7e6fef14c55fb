"""What all apps share: limits, time, ids, keys, a log line a request, and errors in the contract's own form."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from depthface import __version__
from depthface.errors import DepthfaceError, OutputError
from depthface_gateway.context import Context
from depthface_gateway.edge import Edge, Problem, Rules, TooMuch

__all__ = ["MOST_TOLD", "Frame", "Problem", "new_app", "request_id", "told"]

_log = logging.getLogger(__name__)

MOST_TOLD = 20
"""Of what is wrong with one request."""

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


@dataclass(frozen=True)
class Frame:
    """How one contract fills the frame.

    Attributes:
        name: of the contract, for the log.
        title: of its OpenAPI.
        version: of its OpenAPI.
        answer: an error in the contract's own form.
        open_paths: what anybody may ask where a key is set: health checks.
        is_keyed: whether callers are asked for a key: not where they cannot show one.
        api_key: its own key, where its users have set one; empty for the settings'.
        origins: the web origins whose pages may ask (CORS), where its users have set them; empty for the settings'.
        is_for_any_page: whether pages of every origin may ask where none is set at all, as the original has it.
        without_effect: variables of the original that have no effect here, and why; a name that ends in `*` stands for
            all that begin so.
        heeded: those of them that have.
        max_body_bytes: its own limit, where it is lower than the settings'.
        has_docs: whether `/docs` and `/redoc` show its OpenAPI to people. Their scripts come from a CDN.
    """

    name: str
    title: str
    answer: Callable[[Problem], Response]
    version: str = __version__
    open_paths: frozenset[str] = frozenset({"/", "/health"})
    is_keyed: bool = True
    api_key: str = ""
    origins: tuple[str, ...] = ()
    is_for_any_page: bool = False
    without_effect: Mapping[str, str] = field(default_factory=dict)
    heeded: frozenset[str] = frozenset()
    max_body_bytes: int | None = None
    has_docs: bool = True


def new_app(context: Context, frame: Frame, lifespan: Lifespan | None = None) -> FastAPI:
    """Make an app without routes."""
    settings = context.settings
    app = FastAPI(
        title=frame.title,
        version=frame.version,
        lifespan=lifespan,
        docs_url="/docs" if frame.has_docs else None,
        redoc_url="/redoc" if frame.has_docs else None,
        swagger_ui_oauth2_redirect_url=None,
    )

    async def depthface_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, DepthfaceError)
        if error.status >= 500:
            _log.warning("%s", error, extra={"request_id": request_id(request)})
        message = str(error)
        if isinstance(error, OutputError):  # its own words name a path of this machine
            message = "The gateway cannot write a file of its own; its log says why."
        return frame.answer(Problem(error.status, message, request_id(request), error, request.url.path))

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        response = frame.answer(
            Problem(error.status_code, str(error.detail), request_id(request), error, request.url.path)
        )
        response.headers.update(error.headers or {})
        return response

    async def too_much(request: Request, error: Exception) -> Response:
        raise error  # the edge answers

    async def validation_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        parts = [f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in told(error)]
        return frame.answer(Problem(422, "; ".join(parts), request_id(request), error, request.url.path))

    app.add_exception_handler(DepthfaceError, depthface_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(TooMuch, too_much)
    app.add_exception_handler(RequestValidationError, validation_error)
    rules = Rules(
        name=frame.name,
        answer=frame.answer,
        max_body_bytes=min(settings.max_body_bytes, frame.max_body_bytes or settings.max_body_bytes),
        held=context.held,
        max_held_bytes=settings.max_held_bytes,
        deadline_s=settings.deadline_s,
        api_key=(frame.api_key or settings.api_key) if frame.is_keyed else "",
        open_paths=frame.open_paths,
        origins=frame.origins or settings.origins or (("*",) if frame.is_for_any_page else ()),
    )
    app.add_middleware(Edge, rules=rules)
    _tell_what_has_no_effect(context, frame)
    return app


def _tell_what_has_no_effect(context: Context, frame: Frame) -> None:
    """Log each variable of the original that is set in vain: whoever exchanges the service keeps them."""
    for name in sorted(context.environment.keys() - frame.heeded):
        for pattern, why in frame.without_effect.items():
            if name == pattern or (pattern.endswith("*") and name.startswith(pattern[:-1])):
                _log.info("%s has no effect here: %s", name, why)
                break


def told(error: RequestValidationError) -> list[dict[str, Any]]:
    """Return the first things that are wrong with a request, as FastAPI tells them, without what was sent."""
    return [{name: one[name] for name in ("type", "loc", "msg")} for one in error.errors()[:MOST_TOLD]]


def request_id(request: Request) -> str:
    """Return the id of a request: the caller's `x-request-id`, or one made up."""
    return str(request.scope["depthface_request_id"])
