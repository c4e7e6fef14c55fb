"""Calls as requests of Triton's HTTP API, and its responses as answers; no I/O.

The bodies of inferences are NVIDIA's library's (KServe's protocol with Triton's extension for binary tensors,
github.com/triton-inference-server/server, protocol/extension_binary_data.md).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

from depthface import admin
from depthface.asking import Call, Describe, Index, Infer, Load, Ready, Served, Unload
from depthface.errors import (
    DepthfaceError,
    ImageTooLarge,
    NotAllowed,
    RequestTimeout,
    ServerOverloaded,
    ServerUnavailable,
    decode,
)
from depthface_client._transports.address import Address
from depthface_client._transports.base import answered, datatype_of, no_triton
from depthface_client._transports.refusals import error_from_text

__all__ = ["HttpCodec", "HttpRequest"]

_PLAIN = {"Accept-Encoding": "identity"}  # photos and maps would only cost time

_HEADER_LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True)
class HttpRequest:
    """What is sent."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


class HttpCodec:
    """Writes requests for one server and reads its responses.

    Args:
        address: the server's.
        admin_key: for the calls of operators; None for what the environment or the server's own file says.
    """

    def __init__(self, address: Address, admin_key: str | None) -> None:
        self._address = address
        self._server = str(address)
        self._admin_key = admin_key
        self._always = _PLAIN | ({"Authorization": address.login} if address.login else {})

    def request(self, call: Call) -> HttpRequest:
        """Return the request that is this call."""
        match call:
            case Infer(model=model):
                body, length = _inference(call)
                headers = {"Content-Type": "application/octet-stream"}
                if length is not None:
                    headers[_HEADER_LENGTH] = str(length)
                return self._post(f"models/{quote(model, safe='')}/infer", body, headers)
            case Describe(model=model):
                return self._get(f"models/{quote(model, safe='')}/config")
            case Ready(model=model):
                return self._get(f"models/{quote(model, safe='')}/ready")
            case Served():
                return self._get("models/stats")
            case Index():
                return self._post("repository/index", b"{}", self._key())
            case Load(model=model):
                return self._post(f"repository/models/{quote(model, safe='')}/load", b"{}", self._key())
            case Unload(model=model):
                return self._post(f"repository/models/{quote(model, safe='')}/unload", b"{}", self._key())

    def answer(self, call: Call, status: int, headers: Mapping[str, str], body: bytes) -> object:
        """Return what a response says; raise an error of `depthface.errors` for a refusal, and for no Triton."""
        if isinstance(call, Ready) and status in (200, 400, 404) and (not body or _said(body) is not None):
            return status == 200
        if status != 200:
            raise self._error(call, status, body)
        try:
            return self._read(call, headers, body)
        except DepthfaceError:
            raise
        except Exception as error:  # whatever JSON, numpy and NVIDIA's reader raise for what no Triton has written
            raise no_triton(self._server, "its answer cannot be read") from error

    def _read(self, call: Call, headers: Mapping[str, str], body: bytes) -> object:
        match call:
            case Infer():
                length = headers.get(_HEADER_LENGTH)
                found = InferenceServerClient.parse_response_body(
                    body, header_length=None if length is None else int(length)
                )
                return {name: _array(found, name) for name in call.outputs}
            case Describe():
                config: dict[str, Any] = json.loads(body)
                if config["name"] != call.model:
                    raise ValueError(config["name"])
                return config
            case Served():
                entries = json.loads(body)["model_stats"]
                return answered((str(entry["name"]), int(entry.get("inference_count", 0))) for entry in entries)
            case Index():
                return {str(entry["name"]): str(entry.get("state", "")) for entry in json.loads(body)}
        return None

    def _error(self, call: Call, status: int, body: bytes) -> DepthfaceError:
        """Return the error of a response that is not 200: Triton's own, or that of whatever stands before it."""
        text = _said(body)
        ours = decode(text) if text is not None else None
        if ours is not None:
            return ours
        server = self._server
        if status == 401 and self._address.login:
            return NotAllowed(
                f"Something before {server} does not take this login (HTTP 401).", "Ask its operator for another one."
            )
        if status in (401, 407) or (status == 403 and text is None):
            return NotAllowed(
                f"Something before {server} asks for a login (HTTP {status}).",
                "Give a name and a password in the address, https://NAME:PASSWORD@host:port, or ask its operator for "
                "one without a login.",
            )
        if status == 413:
            return ImageTooLarge(
                f"Something before {server} accepts no request as large as this one (HTTP 413).",
                "Send a smaller photo.",
            )
        if status == 429:
            return ServerOverloaded(
                f"Something before {server} takes no more requests at this rate (HTTP 429).", "Send it again later."
            )
        if status in (408, 504):
            return RequestTimeout(
                f"Something before {server} got no answer from it in time (HTTP {status}).", "Send it again later."
            )
        if status == 502:
            return ServerUnavailable(
                f"Something before {server} cannot reach it (HTTP 502).", "Start the server, or wait until it is up."
            )
        if status == 503 and text is None:
            return ServerOverloaded(
                f"Something before {server} says that it is not available now (HTTP 503).", "Send it again later."
            )
        model = getattr(call, "model", None)
        error = error_from_text(server, model, status, text) if text is not None else None
        if error is None or not (status in (400, 403, 500, 503) or (status == 404 and error.status == 404)):
            return no_triton(server, f"it answers with HTTP {status}")
        return error

    def _get(self, path: str) -> HttpRequest:
        return HttpRequest("GET", f"{self._address.path}/v2/{path}", self._always)

    def _post(self, path: str, body: bytes, headers: Mapping[str, str]) -> HttpRequest:
        return HttpRequest("POST", f"{self._address.path}/v2/{path}", {**self._always, **headers}, body)

    def _key(self) -> dict[str, str]:
        return {"Content-Type": "application/json"} | admin.headers(self._address.netloc, self._admin_key)


def _inference(call: Infer) -> tuple[bytes, int | None]:
    body, length = InferenceServerClient.generate_request_body(
        [_input(name, array) for name, array in call.inputs.items()],
        outputs=[InferRequestedOutput(name) for name in call.outputs],
        request_id=call.request_id,
        timeout=round(call.timeout_s * 1e6),
        parameters=dict(call.parameters),
    )
    return body, length


def _input(name: str, array: npt.NDArray[Any]) -> InferInput:
    tensor = InferInput(name, list(array.shape), datatype_of(array))
    tensor.set_data_from_numpy(array)
    return tensor


def _array(found: Any, name: str) -> npt.NDArray[Any]:
    array = found.as_numpy(name)
    if array is None:
        raise ValueError(f"{name} is missing")
    return np.asarray(array)


def _said(body: bytes) -> str | None:
    """Return the sentence of an error as Triton writes it; None for a body that is none."""
    try:
        text = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return text if isinstance(text, str) else None
