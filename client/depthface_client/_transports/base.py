"""What the transports share: the errors that they raise for their libraries' own, and the care for forks."""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable
from typing import Any, Protocol
from weakref import WeakSet

import numpy.typing as npt

from depthface.asking import Call
from depthface.errors import RequestTimeout, ServerUnavailable

__all__ = [
    "CONNECT_S",
    "AsyncTransport",
    "Transport",
    "answered",
    "closed",
    "datatype_of",
    "forget_in_children",
    "no_answer",
    "no_triton",
    "not_connected",
    "too_late",
]

CONNECT_S = 8.0
"""The longest wait for a connection. A host that is switched off refuses none: it is silent. One that was too busy at
first is asked again by TCP after 1, 3 and 7 seconds."""

_DATATYPES = {"u1": "UINT8", "i4": "INT32", "f4": "FP32"}


class Transport(Protocol):
    """Takes a call to the server and brings its answer back; used by any number of threads at once."""

    def send(self, call: Call, timeout_s: float) -> object:
        """Return the answer; raise an error of `depthface.errors`."""

    def close(self) -> None:
        """Close every connection; the next call opens one anew."""

    def reset(self) -> None:
        """Forget every connection without touching it: in a forked child they are the parent's."""


_open: WeakSet[Transport | AsyncTransport] = WeakSet()


def forget_in_children(transport: Transport | AsyncTransport) -> None:
    """Have a transport reset in every process that this one forks."""
    _open.add(transport)


def _reset_all() -> None:
    for transport in list(_open):
        transport.reset()


os.register_at_fork(after_in_child=_reset_all)


class AsyncTransport(ABC):
    """The same for asyncio, on a session or a channel that is of the loop that runs, and of this process.

    Args:
        connections: the most requests in flight at once; more wait for their `turn`, and their time limit with them.
    """

    turn: asyncio.Semaphore
    _held: Any = None
    _loop: asyncio.AbstractEventLoop | None = None

    def __init__(self, connections: int) -> None:
        self._connections = connections
        forget_in_children(self)

    @abstractmethod
    async def send(self, call: Call, timeout_s: float) -> object:
        """Return the answer; raise an error of `depthface.errors`."""

    async def close(self) -> None:
        """Close every connection; the next call opens one anew. Who still waits gets `ServerUnavailable`."""
        held, is_ours = self._held, self._loop is asyncio.get_running_loop()
        self._held = None
        if held is not None and is_ours:
            await held.close()

    def reset(self) -> None:
        """Forget every connection without touching it: in a forked child they are the parent's."""
        # Kept, and so never closed: the child shares the parent's epoll, and would take connections out of it.
        self._inherited = self._held
        self._held = None

    def opened(self) -> Any:
        """Return what is held: one of before is of a loop that is gone."""
        loop = asyncio.get_running_loop()
        if self._held is None or self._loop is not loop:
            self._loop = loop
            self.turn = asyncio.Semaphore(self._connections)
            self._held = self._open()
        return self._held

    @abstractmethod
    def _open(self) -> Any:
        """Open one in the loop that runs."""


def answered(counts: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Return the answer to `Served`, of a name and a count for each version of each model."""
    total: Counter[str] = Counter()
    for name, count in counts:
        total[name] += count
    return dict(total)


def datatype_of(array: npt.NDArray[Any]) -> str:
    """Return Triton's name for the type of an array that is sent, one of those of `Infer`."""
    return _DATATYPES.get(array.dtype.str[1:], "BYTES")


def no_answer(server: str, error: BaseException) -> ServerUnavailable:
    """Return the error for a server that is not there, or that went away in the middle."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return ServerUnavailable(
        f"No answer from {server} ({reason}).",
        "Start one with `depthface serve`, or give the address of one that runs.",
    )


def not_connected(server: str) -> ServerUnavailable:
    """Return the error for a server with which there is no connection within `CONNECT_S`."""
    return no_answer(server, TimeoutError(f"no connection within {CONNECT_S:g} s"))


def closed(server: str) -> ServerUnavailable:
    """Return the error for a request of a client that was closed before the answer came."""
    return ServerUnavailable(
        f"The client was closed before {server} had answered.", "Close it when its requests have ended."
    )


def no_triton(server: str, what: str) -> ServerUnavailable:
    """Return the error for something that answers and is no Triton, or not by this protocol."""
    return ServerUnavailable(
        f"{server} does not answer as a Triton server does: {what}.",
        "Give the address of its HTTP port, such as 127.0.0.1:8000, or of its gRPC port, such as grpc://127.0.0.1:8001.",
    )


def too_late(server: str, timeout_s: float) -> RequestTimeout:
    """Return the error for an answer that did not come in time."""
    return RequestTimeout(
        f"{server} did not answer within {timeout_s:g} s.",
        "It may be busy: try again, or give the client a longer timeout_s.",
    )
