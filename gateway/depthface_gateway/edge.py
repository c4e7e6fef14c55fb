"""The edge of an app, before anything is read: its size, its time, its id, its key, a log line a request."""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from depthface import heap
from depthface.errors import ClientError, RequestTimeout, ServerOverloaded
from depthface_gateway.context import Held

__all__ = ["Edge", "NoKey", "Problem", "Rules", "TooMuch"]

_log = logging.getLogger("depthface_gateway.requests")

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_CLOSED_BY_CALLER = 499  # nobody reads it; nginx logs the same

_RETRY_AFTER_S = "5"

_DRAINED_BYTES, _DRAINED_S = 128 * 2**20, 2.0
"""As much of a refused body is read, and so long, before the connection is closed."""


@dataclass(frozen=True)
class Problem:
    """What went wrong with a request.

    Attributes:
        status: of HTTP.
        message: what is wrong and how to mend it.
        request_id: as in the log.
        path: what was asked for.
        error: what was raised, if anything was.
    """

    status: int
    message: str
    request_id: str
    error: Exception | None = None
    path: str = ""


class NoKey(Exception):
    """A key is asked for, and none is shown."""


class TooMuch(HTTPException):
    """The body is larger than is taken; raised inside the app by its own reading, and answered by the edge.

    FastAPI passes it on because it is one of HTTP's: of whatever else a form's reading raises, it makes 400.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.status, problem.message)
        self.problem = problem


class NotInTime(ClientError):
    """The body did not come whole within the deadline."""

    status = 408


@dataclass(frozen=True)
class Rules:
    """What the edge of one app holds requests to; see `depthface_gateway.frame.Frame` and the settings.

    Attributes:
        name: of the contract.
        answer: an error in the contract's own form.
        max_body_bytes: the largest request.
        held: what the requests of all apps hold, which this edge counts too.
        max_held_bytes: the most of that.
        deadline_s: the longest that one may take; a stream of events that has begun may last.
        api_key: what callers must show; empty: nobody is asked.
        open_paths: where nobody is asked.
        origins: the web origins whose pages may read what is answered, errors too (CORS).
    """

    name: str
    answer: Callable[[Problem], Response]
    max_body_bytes: int
    held: Held
    max_held_bytes: int
    deadline_s: float
    api_key: str
    open_paths: frozenset[str]
    origins: tuple[str, ...] = ()


class Edge:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, rules: Rules) -> None:
        self._rules = rules
        self._app = self._shared(app)
        self._trimmer = heap.Trimmer()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self._trimmer.touch()
        exchange = _Exchange(scope, receive, send, self._rules)
        started = time.monotonic()
        try:
            problem = self._refusal(scope, exchange) or await self._served(scope, exchange)
            if problem is not None and not exchange.is_answered:
                response = self._rules.answer(problem)
                await exchange.drain()
                if exchange.is_unread:
                    response.headers["connection"] = "close"  # nobody reads the rest of the body
                await self._shared(response)(scope, receive, exchange.send)
        finally:
            self._trimmer.touch()
            fields = {
                "contract": self._rules.name,
                "method": scope["method"],
                "path": _sent_path(scope),
                "status": exchange.status,
                "ms": round((time.monotonic() - started) * 1000, 1),
                "request_id": exchange.request_id,
            }
            _log.info("%(method)s %(path)s %(status)d %(ms).1f ms", fields, extra=fields)

    def _shared(self, app: ASGIApp) -> ASGIApp:
        """Have the pages of the rules' origins read what an app answers."""
        if not self._rules.origins:
            return app
        return CORSMiddleware(
            app, allow_origins=self._rules.origins, allow_methods=["*"], allow_headers=["*"], expose_headers=["*"]
        )

    def _refusal(self, scope: Scope, exchange: _Exchange) -> Problem | None:
        headers = Headers(scope=scope)
        if self._rules.api_key and scope["method"] != "OPTIONS" and scope["path"] not in self._rules.open_paths:
            scheme, _, token = headers.get("authorization", "").partition(" ")
            shown = headers.get("x-api-key") or (token.strip() if scheme.lower() == "bearer" else "")
            if not hmac.compare_digest(shown.encode(), self._rules.api_key.encode()):
                what = "Show the gateway's key in the header x-api-key, or as a bearer token."
                return exchange.problem(401, what, None if shown else NoKey())
        length = headers.get("content-length", "")
        return exchange.excess(int(length), self._rules.held.bytes + int(length)) if length.isdecimal() else None

    async def _served(self, scope: Scope, exchange: _Exchange) -> Problem | None:
        try:
            async with asyncio.timeout(self._rules.deadline_s) as exchange.deadline:
                # Whoever answers GET answers HEAD; the server leaves the body out.
                asked = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
                await self._app(asked, exchange.receive, exchange.send)
        except TooMuch as refused:
            return refused.problem
        except ClientDisconnect:
            exchange.status = exchange.status or _CLOSED_BY_CALLER
        except TimeoutError:
            late = "The request did not come" if exchange.is_unread else "There was no answer"
            error = (NotInTime if exchange.is_unread else RequestTimeout)(
                f"{late} within {self._rules.deadline_s:g} s.", "Send it again, or send less."
            )
            return exchange.problem(error.status, str(error), error)
        except Exception as error:
            extra = {"request_id": exchange.request_id}
            _log.exception("%s %s failed", scope["method"], _sent_path(scope), extra=extra)
            if exchange.is_answered:
                raise
            return exchange.problem(500, "The gateway failed; its log says why.", error)
        finally:
            exchange.let_go()
        return None


def _sent_path(scope: Scope) -> str:
    """Return the path as it was sent: with its line breaks decoded it could forge lines of the log."""
    return quote(scope.get("raw_path") or scope["path"], safe="/%:@!$&'()*+,;=")


class _Exchange:
    """One request and its answer, on their way through the edge."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, rules: Rules) -> None:
        headers = Headers(scope=scope)
        shown = headers.get("x-request-id", "")
        self.request_id = shown if _ID.fullmatch(shown) else str(uuid.uuid4())
        scope["depthface_request_id"] = self.request_id
        self.status = 0
        self.is_answered = False
        self.is_unread = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
        self.deadline: asyncio.Timeout | None = None
        self._path = scope["path"]
        self._receive = receive
        self._send = send
        self._rules = rules
        self._body_bytes = 0

    def problem(self, status: int, message: str, error: Exception | None = None) -> Problem:
        return Problem(status, message, self.request_id, error, self._path)

    def excess(self, body_bytes: int, held_bytes: int) -> Problem | None:
        """Return why a body of so many bytes is not taken, with which all together hold so many; None if it is."""
        rules = self._rules
        if body_bytes > rules.max_body_bytes:
            mib = rules.max_body_bytes / 2**20
            return self.problem(413, f"The request is larger than {mib:g} MiB. Send a smaller file.")
        if held_bytes > rules.max_held_bytes:
            mib = rules.max_held_bytes / 2**20
            busy = ServerOverloaded(
                f"The requests that are being answered would hold more than {mib:g} MiB.",
                "Send this one again in a moment.",
            )
            return self.problem(busy.status, str(busy), busy)
        return None

    def let_go(self) -> None:
        """Hold nothing of the body any more."""
        self._rules.held.bytes -= self._body_bytes
        self._body_bytes = 0

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self.is_unread = message.get("more_body", False)
            size = len(message.get("body", b""))
            problem = self.excess(self._body_bytes + size, self._rules.held.bytes + size)
            if problem is not None:
                raise TooMuch(problem)
            self._body_bytes += size
            self._rules.held.bytes += size
        return message

    async def drain(self) -> None:
        """Read what is left of the body, within bounds.

        A caller that still sends while the connection is closed may lose the answer.
        """
        left_bytes = _DRAINED_BYTES
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAINED_S):
                while self.is_unread and left_bytes > 0:
                    message = await self._receive()
                    if message["type"] != "http.request":
                        return
                    left_bytes -= len(message.get("body", b""))
                    self.is_unread = message.get("more_body", False)

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.is_answered = True
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self.request_id
            if self.status == 503:
                headers.setdefault("retry-after", _RETRY_AFTER_S)
            if headers.get("content-type", "").startswith("text/event-stream"):
                self._outlast_the_deadline()
        await self._send(message)

    def _outlast_the_deadline(self) -> None:
        if self.deadline is not None and not self.deadline.expired():
            self.deadline.reschedule(None)
