"""The client for asyncio, on `tritonclient.http.aio`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from types import TracebackType
from typing import Any

from tritonclient.http import InferInput
from tritonclient.http.aio import InferenceServerClient

from depthface import admin
from depthface.errors import ModelUnavailable
from depthface.families.depth_anything_v2.card import CARDS as DEPTH_CARDS
from depthface.families.depth_anything_v2.result import Depth
from depthface.families.insightface.result import SAME_PERSON_SIMILARITY, Comparison, Face
from depthface_client import _calls, _faces, _protocol
from depthface_client._protocol import DEFAULT_MODEL, Photo
from depthface_client.client import LOAD_TIMEOUT_S, ModelInfo
from depthface_client.errors import translated

__all__ = ["AsyncClient"]


class AsyncClient:
    """As `Client`, for one event loop; use it with `async with`.

    Args:
        url: `host:port`, `http://host:port` or `https://host:port`.
        timeout_s: the longest wait for an answer.
        connections: the most requests in flight at once; more wait their turn here.
        retries: see `Client`.
        admin_key: see `Client`.
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
        self._host, self._tls = _protocol.host_of(url)
        self._timeout_s = timeout_s
        self._retries = _calls.checked_retries(retries)
        self._connections = connections
        self._admin_key = admin_key
        self._weights: dict[str, str] = {}
        self._outputs: dict[str, frozenset[str]] = {}

    async def depth(
        self,
        photo: Photo,
        *,
        model: str = DEFAULT_MODEL,
        fast_decode: bool = False,
        request_id: str | None = None,
    ) -> Depth:
        """The depth map of a photo, at the network's grid."""
        response = await self._infer(
            model, [_protocol.image_input(photo)], ("depth", "size"), request_id, fast_decode=fast_decode
        )
        return _protocol.depth_from(response, await self.weights(model))

    async def depth_png(
        self,
        photo: Photo,
        *,
        bits: int = 16,
        model: str = DEFAULT_MODEL,
        fast_decode: bool = False,
        request_id: str | None = None,
    ) -> bytes:
        """A grey PNG of the depth at the photo's size, made by the server; the nearest is white."""
        name = _protocol.png_output(bits)
        response = await self._infer(
            model, [_protocol.image_input(photo)], (name,), request_id, fast_decode=fast_decode
        )
        png: bytes = response.as_numpy(name)[0, 0]
        return png

    async def faces(
        self,
        photo: Photo,
        *,
        model: str | None = None,
        parts: Iterable[str] | None = None,
        min_score: float | None = None,
        max_faces: int | None = None,
        det_size: int | None = None,
        request_id: str | None = None,
    ) -> list[Face]:
        """The faces in a photo, the surest first; see `Client.faces`."""
        model = model or await self.face_model()
        asked = _faces.outputs_of(model, parts, await self._offered(model))
        tensors = _faces.request(photo, min_score, max_faces, det_size)
        response = await self._infer(model, tensors, tuple(asked), request_id)
        return _faces.faces_from(response, asked)

    async def compare(
        self, a: Photo, b: Photo, *, model: str | None = None, threshold: float = SAME_PERSON_SIMILARITY
    ) -> Comparison:
        """Whether the largest faces of two photos are the same person's; see `Client.compare`."""
        model = model or await self.face_model()
        found = await asyncio.gather(*(self.faces(photo, model=model, parts=(_faces.EMBEDDING,)) for photo in (a, b)))
        one, other = _faces.largest(found[0], a, "first"), _faces.largest(found[1], b, "second")
        return Comparison.of(one, other, threshold)

    async def swap(
        self,
        source: Photo,
        target: Photo,
        *,
        model: str = _faces.SWAPPER,
        analysis: str | None = None,
        request_id: str | None = None,
    ) -> bytes:
        """A PNG of the target photo in which every face has the looks of the source's largest; see `Client.swap`."""
        pack = (analysis or await self.face_model()).removeprefix(_faces.ANALYSIS)
        tensors = [
            _protocol.image_input(source, "source"),
            _protocol.image_input(target, "target"),
            _protocol.bytes_input("pack", pack.encode()),
        ]
        png: bytes = (await self._infer(model, tensors, ("image",), request_id)).as_numpy("image")[0, 0]
        return png

    async def load(self, model: str) -> None:
        """Have the server load a model, and wait until it is ready; see `Client.load`."""
        headers = admin.headers(self._host, self._admin_key)
        with translated(self._host, model, LOAD_TIMEOUT_S):
            async with asyncio.timeout(LOAD_TIMEOUT_S):
                await self._client.load_model(model, headers=headers)
                for network in _protocol.networks_of(await self._client.get_model_config(model)):
                    await self._client.load_model(network, headers=headers)
        self._forget(model)

    async def unload(self, model: str) -> None:
        """Have the server give back the memory of a model; see `Client.unload`."""
        headers = admin.headers(self._host, self._admin_key)
        with translated(self._host, model, self._timeout_s):
            async with asyncio.timeout(self._timeout_s):
                index = await self._client.get_model_repository_index(headers=headers)
                if all(entry["name"] != model for entry in index):  # Triton itself would say that all went well
                    raise ModelUnavailable(
                        f"{self._host} has no model {model!r}. See `depthface models` for what it has."
                    )
                loaded = [entry["name"] for entry in index if entry.get("state") == "READY"]
                configs = {name: await self._client.get_model_config(name) for name in loaded}
                for name in _protocol.leaving_with(model, configs):
                    await self._client.unload_model(name, headers=headers)
        self._forget(model)

    async def models(self) -> list[ModelInfo]:
        """What there is, and whether it is loaded; see `Client.models`."""
        with translated(self._host, None, self._timeout_s):
            async with asyncio.timeout(self._timeout_s):
                ready = {card.name: await self._client.is_model_ready(card.name) for card in DEPTH_CARDS}
                for name in _faces.served(await self._client.get_inference_statistics()):
                    networks = _protocol.networks_of(await self._client.get_model_config(name))
                    ready[name] = all([await self._client.is_model_ready(network) for network in networks])
        return [
            ModelInfo(name, is_ready, await self.weights(name) if is_ready else "") for name, is_ready in ready.items()
        ]

    async def face_model(self) -> str:
        """The one face model that the server serves; see `Client.face_model`."""
        with translated(self._host, None, self._timeout_s):
            statistics = await asyncio.wait_for(self._client.get_inference_statistics(), self._timeout_s)
        return _faces.only_served(self._host, statistics)

    async def weights(self, model: str = DEFAULT_MODEL) -> str:
        """Which weights the server serves; see `Client.weights`."""
        if model not in self._weights:
            with translated(self._host, model, self._timeout_s):
                self._weights[model] = _protocol.weights_from(await self._client.get_model_config(model))
        return self._weights[model]

    async def __aenter__(self) -> AsyncClient:
        self._client = InferenceServerClient(
            self._host,
            ssl=self._tls,
            conn_limit=self._connections,
            conn_timeout=self._timeout_s,  # of a whole request: tritonclient's own 60 s would cut a longer one short
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    def _forget(self, model: str) -> None:
        self._weights.pop(model, None)
        self._outputs.pop(model, None)

    async def _infer(
        self,
        model: str,
        tensors: list[InferInput],
        outputs: tuple[str, ...],
        request_id: str | None,
        **parameters: bool,
    ) -> Any:
        """The one way of every inference."""
        request_id = request_id or _calls.new_id()
        options = _calls.options(outputs, request_id, self._timeout_s, parameters)
        for pause_s in _calls.pauses_s(self._retries):
            try:
                with translated(self._host, model, self._timeout_s, request_id):
                    return await asyncio.wait_for(self._client.infer(model, tensors, **options), self._timeout_s)
            except _calls.SAFE_TO_RETRY:
                if pause_s is None:
                    raise
                await asyncio.sleep(pause_s)
        raise AssertionError("the last attempt returns or raises")

    async def _offered(self, model: str) -> frozenset[str]:
        if model not in self._outputs:
            with translated(self._host, model, self._timeout_s):
                metadata = await asyncio.wait_for(self._client.get_model_metadata(model), self._timeout_s)
            self._outputs[model] = frozenset(output["name"] for output in metadata["outputs"])
        return self._outputs[model]
