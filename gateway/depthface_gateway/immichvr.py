"""ImmichVR's depth service (Papyszoo/ImmichVR, `services/ai`): a photo in, its depth as a grey PNG out.

Its fields, words and statuses are those of its README and of its routes of 2026-01. Videos and splats are not done
here, and are refused in its own form.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import struct
import unicodedata
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, FastAPI, File, Query, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from PIL import Image
from starlette.datastructures import UploadFile as Part

from depthface.errors import (
    DepthfaceError,
    InvalidInput,
    ModelUnavailable,
    RequestTimeout,
    ServerOverloaded,
    ServerUnavailable,
)
from depthface.tasks import depth as tasks
from depthface_gateway.context import Context
from depthface_gateway.forms import new_router
from depthface_gateway.frame import Frame, Problem, new_app, request_id
from depthface_gateway.meanings import exportable
from depthface_gateway.notes import note, noted
from depthface_gateway.settings import text

__all__ = ["DEFAULT_PORT", "NAME", "PORT_VARIABLE", "app"]

NAME = "immichvr"
DEFAULT_PORT = 5000
PORT_VARIABLE = "AI_SERVICE_PORT"

_log = logging.getLogger(__name__)

# What its list says of each, word for word.
_MODELS: Mapping[str, Mapping[str, str]] = {
    "small": {
        "name": "Small", "type": "depth", "params": "25M", "memory": "~100MB",
        "description": "Fast, good for previews", "huggingface_id": "depth-anything/Depth-Anything-V2-Small-hf",
    },
    "base": {
        "name": "Base", "type": "depth", "params": "97M", "memory": "~400MB",
        "description": "Balanced quality/speed", "huggingface_id": "depth-anything/Depth-Anything-V2-Base-hf",
    },
    "large": {
        "name": "Large", "type": "depth", "params": "335M", "memory": "~1.3GB",
        "description": "Best detail (hair, fences)", "huggingface_id": "depth-anything/Depth-Anything-V2-Large-hf",
    },
}  # fmt: skip

_OURS = {
    key: model.name
    for model in exportable().values()
    for key, facts in _MODELS.items()
    if model.task == tasks.NAME and model.weights == facts["huggingface_id"]
}
"""Our name of each: that of the model of the same weights."""

_ROOT = {
    "message": "ImmichVR AI Service",
    "version": "1.0.0",
    "model": "Depth Anything V2",
    "endpoints": {
        "health": "/health",
        "process_depth": "/api/depth (POST)",
        "extract_video_frames": "/api/video/frames (POST) [EXPERIMENTAL]",
        "process_video_depth": "/api/video/depth (POST) [EXPERIMENTAL]",
        "process_video_sbs": "/api/video/sbs (POST) [EXPERIMENTAL]",
    },
}

_NOT_DONE = {
    **dict.fromkeys(("/api/video/frames", "/api/video/depth", "/api/video/sbs"), "Videos are not processed here."),
    **dict.fromkeys(("/api/splat", "/api/splat/download"), "Splats (ml-sharp) are not made here."),
}

_NOTES = "immichvr.json"

_CONSTANT_LEVEL = 128
_CONSTANT_MOST_BYTES_A_PIXEL = 1 / 50  # a PNG of one level has far fewer, one of a photo's depth far more


class _Refusal(Exception):
    """An answer that is an error, with its two texts."""

    def __init__(self, status: int, error: str, message: str, **more: object) -> None:
        super().__init__(message)
        self.response = JSONResponse({**more, "error": error, "message": message}, status)


@dataclass
class _Depth:
    """The service, and what it remembers.

    Attributes:
        default: the key of the model for who asks for none.
        device: what computes, `cpu` or `gpu`, as its operator says: Triton does not tell its clients.
        notes: the file that keeps `seen` for the next start.
        seen: the keys that were ready once: what they name is exported.
        current: the key of the model that was loaded or asked for last; None once that is unloaded.
        turn: the number of the request that `current` is of. The later one began, the higher.
    """

    context: Context
    default: str
    device: str
    notes: Path
    seen: set[str]
    current: str | None = None
    turn: int = 0
    _noting: asyncio.Lock = field(default_factory=asyncio.Lock)
    _turns: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def begin(self) -> int:
        """Return the number of a request that names a model, as it begins."""
        return next(self._turns)

    def settle(self, key: str | None, turn: int) -> None:
        """Have a request that went well say which model is current, unless one that began later has said so."""
        if turn >= self.turn:
            self.current, self.turn = key, turn

    async def ready(self) -> list[str]:
        """Return the keys of the models that Triton has loaded: the current one first, then the default."""
        models = self.context.triton.models
        ready = [key for key in _MODELS if (name := _OURS[key]) in models and models[name].ready]
        await self.remember(*ready)
        return sorted(ready, key=lambda key: (key != self.current, key != self.default))

    async def remember(self, *keys: str, gone: Sequence[str] = ()) -> None:
        """Note that these were ready, and those are not there any more, now and for the next start."""
        if not self.seen.issuperset(keys) or not self.seen.isdisjoint(gone):
            async with self._noting:  # the last to write knows all
                self.seen.update(keys)
                self.seen.difference_update(gone)
                await asyncio.to_thread(note, self.notes, sorted(self.seen))

    async def png(self, photo: bytes, key: str, turn: int, id: str) -> bytes:
        """Return the depth of a photo; a model that is not loaded is loaded, as there."""
        name = _OURS[key]
        try:
            png = await self.context.triton.ask(
                lambda client: client.depth_png(photo, bits=8, model=name, request_id=id)
            )
        except ModelUnavailable:
            await self.load(key)
            png = await self.context.triton.ask(
                lambda client: client.depth_png(photo, bits=8, model=name, request_id=id)
            )
        self.settle(key, turn)
        await self.remember(key)
        return as_there(png)

    async def load(self, key: str) -> None:
        """Have every Triton load a model that has not."""
        name = _OURS[key]
        await self.context.triton.look()  # others load and unload too
        if not self.context.triton.has_ready(name):
            was_ready = key in await self.ready()  # at another server
            try:
                await self.context.triton.on_every_server(lambda client: client.load(name))
            except DepthfaceError as error:
                await self.remember(gone=[key] if isinstance(error, ModelUnavailable) else ())
                with suppress(DepthfaceError):  # a pipeline whose network was never exported would count as ready
                    if not was_ready:
                        await self.context.triton.on_every_server(lambda client: client.unload(name))
                raise
        await self.remember(key)

    async def unload(self, key: str) -> bool:
        """Have Triton unload a model; return whether it was loaded."""
        name, turn = _OURS[key], self.begin()
        await self.context.triton.look()
        self.context.triton.check_alive()
        was_ready = key in await self.ready()
        if was_ready:
            await self.context.triton.on_every_server(lambda client: client.unload(name))
        if self.current == key:
            self.settle(None, turn)
        return was_ready


def app(context: Context) -> FastAPI:
    """Make the app; raises `InvalidInput` if a variable says what cannot be."""
    default = text(context.environment, "DEPTH_MODEL", "small")
    if default not in _MODELS:
        raise InvalidInput(f"DEPTH_MODEL is {default!r}, which is no model.", f"Set it to one of {', '.join(_MODELS)}.")
    device = "gpu" if text(context.environment, "CUDA_VISIBLE_DEVICES") else "cpu"  # as there
    notes = context.data / _NOTES
    seen: set[str] = noted(notes, lambda keys: {*keys} & _MODELS.keys(), set())
    depth = _Depth(context, default, device, notes, seen)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with context.triton:
            yield

    idle = dict.fromkeys(("MODEL_CACHE_DIR", "TEMP_DIR", "MOCK_DOWNLOADS"), "weights come with an export")
    made = new_app(context, Frame(NAME, "ImmichVR AI Service", _answer, "1.0.0", without_effect=idle), lifespan)
    made.add_exception_handler(_Refusal, _refused)
    made.add_exception_handler(RequestValidationError, _refused)
    made.include_router(_router(depth))
    return made


def _router(depth: _Depth) -> APIRouter:
    routes = new_router()

    @routes.get("/")
    async def index() -> dict[str, Any]:
        """Say what this is."""
        return _ROOT

    @routes.get("/health")
    async def health() -> dict[str, str]:
        """Say whether a model is loaded; always 200."""
        status = "loaded" if await depth.ready() else "not_loaded"
        return {"status": "healthy", "service": "ai", "model": "Depth-Anything-V2", "model_status": status}

    @routes.post("/api/depth", response_class=Response, responses={200: {"content": {"image/png": {}}}})
    async def process_depth(
        request: Request,
        image: Annotated[UploadFile | None, File()] = None,  # None too where no file was chosen
        model: Annotated[str | None, Query()] = None,
    ) -> Response:
        """Return the depth of `image` as an 8-bit grey PNG of its size."""
        part = (await request.form()).get("image")
        if isinstance(part, Part) and not part.filename:
            raise _Refusal(400, "Empty filename", "No file selected")
        if image is None:
            raise _Refusal(400, "No image provided", "Please upload an image file with key 'image'")
        key = model or next(iter(await depth.ready()), depth.default)
        if key not in _MODELS:
            raise _Refusal(400, "Invalid model", f"Unknown model '{key}'. Available: {[*_MODELS]}")
        turn = depth.begin() if model else depth.turn  # who names none gives way to who does
        try:
            png = await depth.png(await image.read(), key, turn, request_id(request))
        except (ModelUnavailable, ServerUnavailable) as error:
            _log.warning("%s", error, extra={"request_id": request_id(request)})
            raise _Refusal(503, "Model not initialized", "Depth estimation model is not available") from error
        headers = {"Content-Disposition": disposition(image.filename or ""), "X-Model-Used": key}
        return Response(png, media_type="image/png", headers=headers)

    @routes.get("/api/models")
    async def models() -> dict[str, Any]:
        """List the models: `is_loaded` is ready in Triton, `is_downloaded` exported; 503 while no Triton answers."""
        depth.context.triton.check_alive()  # what is not downloaded when ImmichVR's backend starts, it never loads
        ready = await depth.ready()
        found = [
            {"key": key, **facts, "is_loaded": key in ready, "is_downloaded": key in depth.seen}
            for key, facts in _MODELS.items()
        ]
        return {
            "models": found,
            "current_model": ready[0] if ready else None,
            "current_device": depth.device if ready else None,
            "default_model": depth.default,
        }

    @routes.get("/api/models/current")
    async def current() -> dict[str, Any]:
        """Say which model is loaded; 503 while no Triton answers."""
        depth.context.triton.check_alive()
        ready = await depth.ready()
        return {
            "loaded": bool(ready),
            "current_model": ready[0] if ready else None,
            "device": "CUDA GPU" if depth.device == "gpu" else "CPU",
            "available_models": [*_MODELS],
            "downloaded_models": sorted(depth.seen),
        }

    @routes.post("/api/models/{key}/load")
    async def load(key: str) -> dict[str, Any]:
        """Load a model; which device computes it is Triton's affair, whatever the body asks for."""
        _known(key)
        turn = depth.begin()
        try:
            await depth.load(key)
        except DepthfaceError as error:
            raise _failed("load", key, error) from error
        depth.settle(key, turn)
        return {"success": True, "message": f"Model '{key}' loaded successfully", "current_model": key}

    @routes.post("/api/models/{key}/unload")
    async def unload(key: str) -> dict[str, Any]:
        """Give a model's memory back; one that there is not is not loaded, as there."""
        return {"success": True, "message": await _unloaded(key)}

    @routes.post("/api/models/{key}/download")
    async def download(key: str) -> dict[str, Any]:
        """See that a model is there; weights come with an export, not through the web."""
        _known(key)
        try:
            await depth.load(key)
        except DepthfaceError as error:
            raise _failed("download", key, error) from error
        return {"success": True, "message": f"Model '{key}' is already downloaded"}

    @routes.delete("/api/models/{key}")
    async def delete(key: str) -> dict[str, Any]:
        """Give a model's memory back; an export is not deleted through the web."""
        _known(key)
        return {"success": True, "message": f"{await _unloaded(key)}; its export stays in the model repository"}

    async def _unloaded(key: str) -> str:
        try:
            was = key in _MODELS and await depth.unload(key)
        except DepthfaceError as error:
            raise _failed("unload", key, error) from error
        return f"Model '{key}' unloaded successfully" if was else f"Model '{key}' is not currently loaded"

    async def not_done(request: Request) -> Response:
        """Refuse."""
        raise _Refusal(501, "Not implemented", _NOT_DONE.get(request.url.path, _NOT_DONE["/api/splat"]))

    for path in _NOT_DONE:
        routes.add_api_route(path, not_done, methods=["POST"], status_code=501)
    routes.add_api_route("/api/splat/status", not_done, methods=["GET"], status_code=501)
    return routes


def as_there(png: bytes) -> bytes:
    """Return the PNG as that service makes it: a depth that is the same everywhere is a middle grey, not black."""
    width, height = struct.unpack(">II", png[16:24])  # PNG specification, 11.2.2 IHDR
    if len(png) > 1024 + width * height * _CONSTANT_MOST_BYTES_A_PIXEL:
        return png
    with Image.open(BytesIO(png)) as picture:
        if picture.getextrema() != (0, 0):
            return png
    buffer = BytesIO()
    Image.new("L", (width, height), _CONSTANT_LEVEL).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def disposition(filename: str) -> str:
    """Return the header that names the answer `depth_<name without its last suffix>.png` (RFC 6266)."""
    name = re.split(r"[/\\]", "".join(letter for letter in filename if letter.isprintable()))[-1]
    name = f"depth_{name.rpartition('.')[0] or name}.png"
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    quoted = (
        ascii_name if re.fullmatch(r"[\w.+-]+", ascii_name) else '"' + re.sub(r'(["\\])', r"\\\1", ascii_name) + '"'
    )
    extended = "" if ascii_name == name else f"; filename*=UTF-8''{quote(name, safe='')}"
    return f"attachment; filename={quoted}{extended}"


async def _refused(request: Request, error: Exception) -> Response:
    if isinstance(error, _Refusal):
        return error.response
    return _Refusal(400, "No image provided", "Please upload an image file with key 'image'").response


def _answer(problem: Problem) -> Response:
    error = problem.error
    what = {404: "Not found", 405: "Method not allowed", 413: "File too large"}.get(problem.status, "Processing failed")
    status = problem.status
    if isinstance(error, InvalidInput):
        status = 400
    elif isinstance(error, ServerOverloaded):
        what = "Service busy"
    elif isinstance(error, RequestTimeout):
        what = "Processing timeout"
    elif isinstance(error, ServerUnavailable):
        status, what = 503, "Service unavailable"
    elif isinstance(error, DepthfaceError) and status != 408:
        status = 500
    return _Refusal(status, what, problem.message).response


def _failed(doing: str, key: str, error: DepthfaceError) -> _Refusal:
    if isinstance(error, ModelUnavailable) and doing != "unload":
        message = f"Could not {doing} model '{key}'. Export it first: depthface export {_OURS[key]}"
        return _Refusal(500, f"Failed to {doing} model", message, success=False)
    status = 503 if isinstance(error, ServerUnavailable) else 500
    return _Refusal(status, f"Model {doing} error", str(error), success=False)


def _known(key: str) -> None:
    if key not in _MODELS:
        raise _Refusal(400, "Unknown model", f"Model '{key}' not found. Available: {[*_MODELS]}")
