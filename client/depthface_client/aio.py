"""The client for asyncio."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, TypeVar

from depthface.asking import Asker, Asynchronous, Load, Pause, Steps, Together, Work
from depthface.errors import DepthfaceError, InvalidInput
from depthface.together import together
from depthface_client._methods import Methods
from depthface_client._settings import Settings
from depthface_client._transports.base import AsyncTransport

__all__ = ["AsyncClient"]

T = TypeVar("T")


class AsyncClient(Methods, Asynchronous, Asker):
    """As `Client`, with the same methods, each to be awaited.

        async with AsyncClient("127.0.0.1:8000") as client:
            depth, faces = await asyncio.gather(client.depth("photo.jpg"), client.faces("photo.jpg"))

    Files are read and pictures encoded in a thread, so that the loop goes on meanwhile.

    Args:
        url: as of `Client`.
        timeout_s: as of `Client`; it begins when a request is sent, not while it waits for its turn here.
        connections: the most requests in flight at once; more wait their turn here.
        retries: as of `Client`.
        admin_key: as of `Client`.

    Raises:
        InvalidInput: one of these is wrong.
        ClientError: gRPC is asked for, and is not installed.
    """

    def __init__(
        self,
        url: str = "127.0.0.1:8000",
        *,
        timeout_s: float = 60.0,
        connections: int = 100,
        retries: int = 0,
        admin_key: str | None = None,
    ) -> None:
        if not (isinstance(connections, int) and connections >= 1):
            raise InvalidInput(f"connections is {connections!r}.", "Give a whole number from 1.")
        self._settings = Settings.checked(url, timeout_s, retries, admin_key)
        Asker.__init__(self, str(self._settings.address), timeout_s, retries)
        self._transport: AsyncTransport = self._settings.async_transport(connections)

    async def close(self) -> None:
        """Close every connection that is open."""
        await self._transport.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _go(self, way: Steps[T]) -> T:
        go_on, come = way.send, None
        try:
            while True:
                step = go_on(come)
                try:
                    go_on, come = way.send, await self._do(step)
                except DepthfaceError as error:
                    go_on, come = way.throw, error
        except StopIteration as end:
            result: T = end.value
            return result

    async def _do(self, step: Any) -> Any:
        match step:
            case Pause(seconds=seconds):
                return await asyncio.sleep(seconds)
            case Work(function=function):
                return await asyncio.to_thread(function)
            case Together(ways=ways):
                return await together(*map(self._go, ways))
        return await self._transport.send(step, self._settings.timeout_of(isinstance(step, Load)))
