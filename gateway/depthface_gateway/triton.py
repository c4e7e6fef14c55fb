"""The Triton servers behind a gateway: who of them is alive, what they serve, and every request to them.

What is known of them is kept in memory and looked at again every few seconds, so that a question about it costs
nothing and is answered at once under any load. Mostly such a look is one request, which says whether the server lives
and still has what it had; what each model is, is asked when that has changed, and every half minute in any case.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import TypeVar

from depthface.errors import (
    DepthfaceError,
    InvalidInput,
    RequestTimeout,
    ServerOverloaded,
    ServerUnavailable,
)
from depthface.weights import is_meaningful
from depthface_client import AsyncClient, ModelInfo
from depthface_gateway.settings import Settings

__all__ = ["StillBusy", "Triton"]

T = TypeVar("T")

_log = logging.getLogger(__name__)

_LOOK_EVERY_S = 5.0
_LOOK_AT_THE_DEAD_EVERY_S = 1.0
_LOOK_TIMEOUT_S = 5.0
_BELIEVED_S = 25.0
"""How long is believed what each model is while nothing has visibly changed. A model that was exported and loaded anew
is visible if it had answered something before; otherwise it is known after this time and one look."""

_TIMEOUTS_OF_THE_DEAD = 3  # one that is only busy may miss a look

_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _MOST_DOUBLINGS = 0.05, 2.0, 10


class StillBusy(RequestTimeout):
    """The patience has ended, and the request waits for a place, or for a server that had been full before."""


@dataclass
class _Asked:
    """How far a request is.

    Attributes:
        is_taken: a server has it that has never refused it.
    """

    is_taken: bool = False


@dataclass(eq=False)
class _Server:
    """One server, as it was last seen."""

    url: str
    asking: AsyncClient
    looking: AsyncClient
    in_flight: int = 0
    is_alive: bool = False
    timeouts: int = 0
    looks: int = 0
    latest_look: int = 0
    loaded: Mapping[str, int] = field(default_factory=dict)
    models: Mapping[str, ModelInfo] = field(default_factory=dict)
    believed_until: float = 0.0

    def seen(self, is_alive: bool, why: object = "") -> None:
        if is_alive != self.is_alive:
            _log.warning("Triton at %s %s", self.asking.server, "answers" if is_alive else f"does not answer: {why}")
            self.believed_until = 0.0
        self.is_alive, self.timeouts = is_alive, 0

    def is_as_before(self, loaded: Mapping[str, int]) -> bool:
        """Whether the same models are loaded as at the last look, and none of them anew (`AsyncClient.loaded`)."""
        return loaded.keys() == self.loaded.keys() and all(loaded[name] >= self.loaded[name] for name in loaded)

    def found(self, models: Mapping[str, ModelInfo]) -> None:
        where = self.asking.server
        for name, model in models.items():
            before = self.models.get(name)
            if model.ready and not is_meaningful(model.weights) and (before is None or before.weights != model.weights):
                _log.warning("%s at %s has %s weights: its answers mean nothing", name, where, model.weights)
        self.models = models


@dataclass(eq=False)
class _Waiter:
    """A request that waits for a place.

    Attributes:
        lost: the servers that it has found gone.
        place: the server whose place it has, in the end.
    """

    lost: Sequence[_Server]
    place: asyncio.Future[_Server]


class Triton:
    """All servers as one. It belongs to one event loop, and may be opened several times; the last to leave closes it.

    Args:
        urls: `host:port` of each server; all serve the same models.
        settings: how much is in flight and waits, and for how long.
        admin_key: for `load` and `unload`; see `depthface_client.Client`.
    """

    def __init__(self, urls: Sequence[str], settings: Settings, admin_key: str | None = None) -> None:
        if not urls:
            raise InvalidInput("No address of a Triton server is given.", "Give its address: --url HOST:PORT.")
        self._settings = settings
        self._servers = [
            _Server(
                url,
                AsyncClient(
                    url, timeout_s=settings.deadline_s, connections=settings.in_flight + 4, admin_key=admin_key
                ),
                AsyncClient(url, timeout_s=_LOOK_TIMEOUT_S, connections=2),
            )
            for url in urls
        ]
        self._opened = 0
        self._waiting: deque[_Waiter] = deque()
        self._stack = AsyncExitStack()
        self._look_now = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None

    @property
    def is_alive(self) -> bool:
        """Whether a server answered when it was last asked."""
        return any(server.is_alive for server in self._servers)

    def check_alive(self) -> None:
        """Raise `ServerUnavailable` unless a server answered when it was last asked."""
        if not self.is_alive:
            raise self._nobody()

    @property
    def models(self) -> Mapping[str, ModelInfo]:
        """What the live servers have, by name, ready before not ready."""
        found: dict[str, ModelInfo] = {}
        for server in self._servers:
            for name, model in server.models.items() if server.is_alive else ():
                if name not in found or model.ready:
                    found[name] = model
        return found

    async def ask(self, call: Callable[[AsyncClient], Awaitable[T]], patience_s: float | None = None) -> T:
        """Have the least busy live server do `call`, and return what it returns.

        A server whose queue is full is asked again after a pause, one that is gone is left for the next. Nothing that
        `call` does may change anything on a server.

        Args:
            call: `lambda client: client.faces(photo)`.
            patience_s: the longest wait for a place, and for the answer; None for the settings' deadline.

        Raises:
            ServerOverloaded: too many wait here already.
            ServerUnavailable: none of the servers answers.
            StillBusy: the patience has ended, and all were too busy.
            RequestTimeout: the patience has ended, and the one that has it does not answer.
        """
        patience_s = self._settings.deadline_s if patience_s is None else patience_s
        asked = _Asked()
        try:
            async with asyncio.timeout(patience_s):
                return await self._answer(call, asked)
        except TimeoutError as error:
            raise (RequestTimeout if asked.is_taken else StillBusy)(
                f"No server answered within {patience_s:g} s.", "It may be busy: try again in a while."
            ) from error

    def has_ready(self, model: str) -> bool:
        """Whether every live server has a model ready, as they were last seen."""
        live = [server for server in self._servers if server.is_alive]
        return bool(live) and all(model in server.models and server.models[model].ready for server in live)

    async def on_every_server(self, call: Callable[[AsyncClient], Awaitable[object]]) -> None:
        """Have every live server do `call`, such as to load or unload a model, and look at what they serve anew.

        Where one fails the others go on to their end; then the first error is raised.

        Raises:
            ServerUnavailable: none of the servers answers.
        """
        self.check_alive()
        live = [server for server in self._servers if server.is_alive]
        done = await asyncio.gather(*(call(server.asking) for server in live), return_exceptions=True)
        await asyncio.gather(*(self._look_at(server) for server in live))
        for failed in done:
            if isinstance(failed, BaseException):
                raise failed

    async def look(self, *, is_whole: bool = True) -> None:
        """Look at every server now; ask what each model is only where `is_whole`, or where it is not known."""
        await asyncio.gather(*(self._look_at(server, is_whole) for server in self._servers))
        self._hand_over()  # one may be back

    async def __aenter__(self) -> Triton:
        self._opened += 1
        if self._opened == 1:
            for server in self._servers:
                await self._stack.enter_async_context(server.asking)
                await self._stack.enter_async_context(server.looking)
            await self.look()
            self._watch = asyncio.create_task(self._watching(), name="watch over Triton")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._opened -= 1
        if self._opened == 0 and self._watch is not None:
            self._watch.cancel()
            with suppress(asyncio.CancelledError):
                await self._watch
            await self._stack.aclose()

    async def _answer(self, call: Callable[[AsyncClient], Awaitable[T]], asked: _Asked) -> T:
        lost: list[_Server] = []
        refused: list[_Server] = []
        while True:
            asked.is_taken = False
            server = await self._place(lost)
            asked.is_taken = server not in refused
            try:
                answer = await call(server.asking)
            except ServerOverloaded:
                refused.append(server)
            except ServerUnavailable as error:
                # A connection that was kept breaks when a server starts anew: each is tried twice before it is lost.
                lost.append(server)
                if lost.count(server) > 1:
                    server.seen(False, error)
                self._look_now.set()
                if all(lost.count(other) > 1 for other in self._servers):
                    raise
            else:
                server.seen(True)
                return answer
            finally:
                self._leave(server)
            longest_s = min(_FIRST_PAUSE_S * 2 ** min(len(refused), _MOST_DOUBLINGS), _LONGEST_PAUSE_S)
            await asyncio.sleep(random.uniform(longest_s / 2, longest_s))

    async def _place(self, lost: Sequence[_Server]) -> _Server:
        """Take a place at a live server, or at a dead one if all are: it may be back. Wait for it behind who waits.

        Raises:
            ServerUnavailable: all are dead, and somebody is finding out already whether they are back.
        """
        self._hand_over()
        server = self._free(lost)
        if server is not None:
            server.in_flight += 1
            return server
        if len(self._waiting) >= self._settings.waiting:
            raise ServerOverloaded(
                f"{len(self._waiting)} requests wait here already.", "Send this one again in a moment."
            )
        waiter = _Waiter(lost, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        try:
            return await waiter.place
        except asyncio.CancelledError:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            elif waiter.place.exception() is None:  # it had its place just now
                self._leave(waiter.place.result())
            raise

    def _free(self, lost: Sequence[_Server]) -> _Server | None:
        """Return the server to ask for who has lost these; None if it has no place.

        A dead one is asked by one at a time: a host that is switched off has each wait for a connection.
        """
        hopeful = [server for server in self._servers if lost.count(server) < 2]
        candidates = [server for server in hopeful if server.is_alive or not server.in_flight]
        candidates = [server for server in candidates if server.is_alive] or candidates
        if not candidates:
            raise self._nobody()
        server = min(candidates, key=lambda server: (lost.count(server), server.in_flight))
        return server if server.in_flight < self._settings.in_flight else None

    def _leave(self, server: _Server) -> None:
        server.in_flight -= 1
        self._hand_over()

    def _hand_over(self) -> None:
        """Give the places that are free to those who wait, in the order in which they came.

        What is free then is free for who comes now: nobody who waits would take it.
        """
        in_vain: list[Sequence[_Server]] = []  # what those had lost for whom there is none
        for waiter in tuple(self._waiting):
            if self.is_alive and all(server.in_flight >= self._settings.in_flight for server in self._servers):
                return
            if waiter.place.done() or waiter.lost in in_vain:  # one has just given up
                continue
            try:
                server = self._free(waiter.lost)
            except ServerUnavailable as error:
                self._waiting.remove(waiter)
                waiter.place.set_exception(error)
                continue
            if server is None:
                in_vain.append(waiter.lost)
            else:
                server.in_flight += 1
                self._waiting.remove(waiter)
                waiter.place.set_result(server)

    async def _watching(self) -> None:
        while True:
            alive = all(server.is_alive for server in self._servers)
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY_S if alive else _LOOK_AT_THE_DEAD_EVERY_S):
                    await self._look_now.wait()
                    await asyncio.sleep(_FIRST_PAUSE_S)
            is_whole = self._look_now.is_set()
            self._look_now.clear()
            await self.look(is_whole=is_whole)

    async def _look_at(self, server: _Server, is_whole: bool = True) -> None:
        server.looks += 1
        number, begun = server.looks, time.monotonic()
        found: Mapping[str, ModelInfo] | Exception
        try:
            loaded = await server.looking.loaded()
            is_known = not is_whole and begun < server.believed_until and server.is_as_before(loaded)
            found = server.models if is_known else {model.name: model for model in await server.looking.models()}
        except Exception as error:  # whatever it is, the watch goes on
            found = error
        if number < server.latest_look:  # one that was begun later has its answer already, and knows better
            return
        server.latest_look = number
        if isinstance(found, RequestTimeout):
            server.timeouts += 1
            if server.timeouts >= _TIMEOUTS_OF_THE_DEAD:
                server.seen(False, found)
        elif isinstance(found, DepthfaceError):
            server.seen(False, found)
        elif isinstance(found, Exception):
            _log.error("%s could not be looked at", server.asking.server, exc_info=found)
            server.seen(False, "see the log")
        else:
            if not is_known:  # who changes something may go on with it: then the next look is a whole one too
                server.believed_until = 0.0 if is_whole or found != server.models else begun + _BELIEVED_S
            server.loaded = loaded
            server.found(found)
            server.seen(True)

    def _nobody(self) -> ServerUnavailable:
        urls = ", ".join(server.asking.server for server in self._servers)
        return ServerUnavailable(f"No Triton answers at {urls}.", "Start one with `depthface serve`.")
