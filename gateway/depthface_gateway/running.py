"""Several apps in one process and one event loop, or one worker, until they are told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.util
import socket
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import uvicorn
from fastapi import FastAPI
from prometheus_client import start_http_server
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from depthface import heap
from depthface.cli import ending_signals
from depthface.errors import ServeError
from depthface_gateway.context import Context
from depthface_gateway.contracts import Contract

__all__ = ["Listener", "listen", "run", "serve", "work"]

_GRACE_S = 25  # for requests in flight
_AHEAD_BYTES = 2**20
"""As much of a request is taken in before the app is told of it, unless it is whole before."""

_MOST_HEAD_BYTES = 64 * 1024  # as much as h11 and nginx take of lines and headers
_HEAD_S = 75.0
"""So long a connection may stay without a request: silent, or with half a head. uvicorn would wait for ever."""

_KEEP_ALIVE_S = 75  # longer than callers keep a connection, so that none sends into one that is closing


@dataclass(frozen=True)
class Listener:
    """An app's name and the socket that it will answer at."""

    name: str
    socket: socket.socket

    @property
    def url(self) -> str:
        """`http://HOST:PORT`."""
        host, port = self.socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def listen(name: str, host: str, port: int) -> Listener:
    """Take an address; raises `ServeError` if it cannot be had. Port 0 takes a free one."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        both = family == socket.AF_INET6 and host == "::" and socket.has_dualstack_ipv6()
        taken = socket.create_server(address[:2], family=family, backlog=2048, dualstack_ipv6=both)
    except (OSError, UnicodeError) as error:
        raise ServeError(
            f"{name} cannot listen at {host}:{port} ({error}).", "Give another address: --host, --port."
        ) from error
    return Listener(name, taken)


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run `serve` or `work` to its end; by uvloop where it can be had: an eighth less work for a request."""
    loop = None
    if importlib.util.find_spec("uvloop"):
        import uvloop

        loop = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main)


class _Protocol(HttpToolsProtocol):
    """uvicorn's, with limits to a request's head, in bytes and in time.

    It wakes the app once for a photo; uvicorn does for each piece that comes, and takes in no more than 64 KB ahead.
    """

    _steps = 0
    """Heads and messages that are whole, and pieces of bodies: all that bytes have been for so far."""
    _head_bytes = 0
    """What has come since, of a head that is not whole, or of a trailer."""
    _idle: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a request."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        if self._idle is not None:
            self._idle.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take in a piece of a request, or of several; refuse a head that is too long."""
        steps = self._steps
        super().data_received(data)
        if self._steps == steps and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > _MOST_HEAD_BYTES:
                self.send_400_response("The head of the request is too long.")

    def on_headers_complete(self) -> None:
        """Have the app begin."""
        self._step()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Keep a piece of the body."""
        self._step()
        cycle = self.cycle
        if cycle.response_complete:
            return
        cycle.body += body
        if len(cycle.body) > _AHEAD_BYTES:
            self.flow.pause_reading()
            cycle.message_event.set()

    def on_message_complete(self) -> None:
        """Tell the app that the body is whole."""
        self._step()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._wait()

    def _step(self) -> None:
        self._steps += 1
        self._head_bytes = 0

    def _wait(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        self._idle = self.loop.call_later(_HEAD_S, self._end_if_idle)

    def _end_if_idle(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: who asks for a web socket is answered as if he had not."""


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave the signals to `serve`, who stops all servers."""
        yield


async def serve(apps: Sequence[tuple[Listener, FastAPI]], say: Callable[[str], None]) -> None:
    """Start every app, say `ready: NAME URL` for each, serve until a signal ends it, end what is in flight, stop.

    Raises whatever an app's start raises.
    """
    heap.keep()  # each app's edge gives it back
    stop = _stop_on_signals()
    async with AsyncExitStack() as started:
        servers = []
        for _, app in apps:
            await started.enter_async_context(app.router.lifespan_context(app))
            config = uvicorn.Config(
                app, http=_Protocol, ws="none", lifespan="off", log_config=None, access_log=False, server_header=False,
                timeout_keep_alive=_KEEP_ALIVE_S, timeout_graceful_shutdown=_GRACE_S,
            )  # fmt: skip
            servers.append(_Server(config))
        tasks = [
            asyncio.create_task(server.serve(sockets=[listener.socket]))
            for server, (listener, _) in zip(servers, apps, strict=True)
        ]
        while not stop.is_set() and not all(server.started for server in servers):
            await asyncio.sleep(0.01)
        gc.freeze()  # what there is now stays: it is not gone through again and again
        if not stop.is_set():
            for listener, _ in apps:
                say(f"ready: {listener.name} {listener.url}")
        await stop.wait()
        for _, app in apps:  # streams that last, and work in the background
            getattr(app.state, "on_stop", lambda: None)()
        for server in servers:
            server.should_exit = True
        await asyncio.gather(*tasks)


async def work(contract: Contract, context: Context, metrics_port: int | None, say: Callable[[str], None]) -> None:
    """Do a contract's jobs, say `ready: WORKER`, until a signal ends it; then end what is in hand, within its grace.

    Args:
        metrics_port: of 127.0.0.1, where Prometheus is answered; None for nowhere.
    """
    stop = _stop_on_signals()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(context.triton)
        core = await stack.enter_async_context(contract.work(context))
        if metrics_port is not None:
            server, thread = start_http_server(metrics_port, "127.0.0.1", core.registry)
            stack.callback(thread.join, 5)
            stack.callback(server.shutdown)
        say(f"ready: {core.worker.worker_id}")
        await stop.wait()


def _stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    for number in ending_signals():
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop
