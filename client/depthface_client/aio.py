"""The client for asyncio, on `tritonclient.http.aio`."""

from __future__ import annotations

import asyncio
from types import TracebackType

from tritonclient.http.aio import InferenceServerClient

from depthface.families import card_named
from depthface.families.depth_anything_v2.result import Depth
from depthface_client import _protocol
from depthface_client._protocol import DEFAULT_MODEL, Photo
from depthface_client.errors import translated

__all__ = ["AsyncClient"]


class AsyncClient:
    """As `Client`, for one event loop; use it with `async with`.

    Args:
        url: `host:port`, `http://host:port` or `https://host:port`.
        timeout_s: the longest wait for an answer.
        connections: the most requests in flight at once; more wait their turn here.
    """

    def __init__(self, url: str = "127.0.0.1:8000", *, timeout_s: float = 60.0, connections: int = 100) -> None:
        self._host, self._tls = _protocol.host_of(url)
        self._timeout_s = timeout_s
        self._connections = connections
        self._weights: dict[str, str] = {}

    async def depth(self, photo: Photo, *, model: str = DEFAULT_MODEL) -> Depth:
        """The depth map of a photo, at the network's grid."""
        with translated(self._host, model, self._timeout_s):
            request = self._client.infer(
                model, [_protocol.image_input(photo)], outputs=_protocol.outputs("depth", "size")
            )
            response = await asyncio.wait_for(request, self._timeout_s)
        return _protocol.depth_from(response, await self.weights(model))

    async def depth_png(self, photo: Photo, *, bits: int = 16, model: str = DEFAULT_MODEL) -> bytes:
        """A grey PNG of the depth at the photo's size, made by the server; the nearest is white."""
        name = _protocol.png_output(bits)
        with translated(self._host, model, self._timeout_s):
            request = self._client.infer(model, [_protocol.image_input(photo)], outputs=_protocol.outputs(name))
            response = await asyncio.wait_for(request, self._timeout_s)
        png: bytes = response.as_numpy(name)[0, 0]
        return png

    async def weights(self, model: str = DEFAULT_MODEL) -> str:
        """Which weights the server serves; see `Client.weights`."""
        if model not in self._weights:
            with translated(self._host, model, self._timeout_s):
                config = await self._client.get_model_config(card_named(model).networks[0].name)
            self._weights[model] = _protocol.weights_from(config)
        return self._weights[model]

    async def __aenter__(self) -> AsyncClient:
        self._client = InferenceServerClient(self._host, ssl=self._tls, conn_limit=self._connections)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()
