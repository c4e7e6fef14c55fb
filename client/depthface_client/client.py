"""The blocking client: one object, for any number of threads and processes."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, TypeVar

from depthface.asking import Asker, Blocking, Load, Pause, Steps, Together, Work
from depthface.errors import DepthfaceError
from depthface_client._methods import Methods
from depthface_client._settings import Settings
from depthface_client._transports.base import Transport

__all__ = ["Client"]

T = TypeVar("T")


class Client(Methods, Blocking, Asker):
    """Talks to a depthface server over HTTP or gRPC.

        with Client("127.0.0.1:8000") as client:
            depth = client.depth("photo.jpg")
            faces = client.faces("photo.jpg")

    Every method raises errors of the one tree under `DepthfaceError`: `InvalidInput` if the request is wrong,
    `ClientError` for the rest. A request has an id, `request_id` or one made up, which its error and the server's log
    name.

    One client may be used by any number of threads at once, before and after a fork, and after `close`, which closes
    the connections that are open; the next request opens one anew.

    Args:
        url: `host:port`, or a URL of http, https, grpc or grpcs; gRPC needs the extra `depthface[grpc]`. For a proxy
            that asks for a login: `https://NAME:PASSWORD@host:port`.
        timeout_s: the longest that a call to the server takes, connecting included, in seconds; a method may make
            several calls.
        retries: how often a request that changes nothing is sent again that was turned away (`ServerOverloaded`) or
            found nobody (`ServerUnavailable`), each time after a longer pause.
        admin_key: for `load` and `unload`; without it that in DEPTHFACE_ADMIN_KEY or, on the server's own machine, the
            one that the server keeps for its user.

    Raises:
        InvalidInput: one of these is wrong.
        ClientError: gRPC is asked for, and is not installed.
    """

    def __init__(
        self,
        url: str = "127.0.0.1:8000",
        *,
        timeout_s: float = 60.0,
        retries: int = 0,
        admin_key: str | None = None,
    ) -> None:
        self._settings = Settings.checked(url, timeout_s, retries, admin_key)
        Asker.__init__(self, str(self._settings.address), timeout_s, retries)
        self._transport: Transport = self._settings.transport()

    def close(self) -> None:
        """Close every connection that is open."""
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, (self._settings,)

    def _go(self, way: Steps[T]) -> T:
        go_on, come = way.send, None
        try:
            while True:
                step = go_on(come)
                try:
                    go_on, come = way.send, self._do(step)
                except DepthfaceError as error:
                    go_on, come = way.throw, error
        except StopIteration as end:
            result: T = end.value
            return result

    def _do(self, step: Any) -> Any:
        match step:
            case Pause(seconds=seconds):
                time.sleep(seconds)
                return None
            case Work(function=function):
                return function()
            case Together(ways=ways):
                return [self._go(way) for way in ways]
        return self._transport.send(step, self._settings.timeout_of(isinstance(step, Load)))


def _made(settings: Settings) -> Client:
    return Client(settings.url, timeout_s=settings.timeout_s, retries=settings.retries, admin_key=settings.admin_key)
