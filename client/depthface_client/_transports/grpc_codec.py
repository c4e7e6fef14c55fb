"""Calls as messages of Triton's gRPC API, and its messages as answers; no I/O."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from google.protobuf.json_format import MessageToDict
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor, triton_to_np_dtype

from depthface import admin
from depthface.asking import Call, Describe, Index, Infer, Load, Ready, Served, Unload
from depthface.contract import NOT_SERVED, QUEUE_FULL, RESTRICTED, WAITED_TOO_LONG
from depthface.errors import DepthfaceError, ImageTooLarge
from depthface_client._transports.address import Address
from depthface_client._transports.base import CONNECT_S, answered, datatype_of, no_answer, no_triton, too_late
from depthface_client._transports.refusals import error_from_text

__all__ = ["CHANNEL_OPTIONS", "GrpcCodec"]

CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", -1),  # gRPC's own 4 MiB is less than a photo
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.min_reconnect_backoff_ms", round(1000 * CONNECT_S)),  # by this it ends a try to connect, too
)

_KEY_PREFIX = "triton-grpc-protocol-"

# gRPC's codes as HTTP has them.
_STATUSES = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.ALREADY_EXISTS: 400,
}

# What Triton itself says as UNAVAILABLE; anything else there is the connection's.
_OF_TRITON = (QUEUE_FULL, WAITED_TOO_LONG, RESTRICTED, *NOT_SERVED)


class GrpcCodec:
    """Writes messages for one server and reads its answers."""

    def __init__(self, address: Address, admin_key: str | None) -> None:
        self._address = address
        self._server = str(address)
        self._admin_key = admin_key

    def request(self, call: Call) -> tuple[str, Any, list[tuple[str, str]]]:
        """Return the name of the method, its message, and its metadata."""
        match call:
            case Infer():
                return "ModelInfer", _inference(call), []
            case Describe(model=model):
                return "ModelConfig", pb.ModelConfigRequest(name=model), []
            case Ready(model=model):
                return "ModelReady", pb.ModelReadyRequest(name=model), []
            case Served():
                return "ModelStatistics", pb.ModelStatisticsRequest(), []
            case Index():
                return "RepositoryIndex", pb.RepositoryIndexRequest(), self._key()
            case Load(model=model):
                return "RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name=model), self._key()
            case Unload(model=model):
                return "RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name=model), self._key()

    def answer(self, call: Call, response: Any) -> object:
        """Return what a message says."""
        match call:
            case Infer():
                arrays = _arrays(response)
                if not set(call.outputs) <= set(arrays):
                    raise no_triton(self._server, "it answers without what was asked for")
                return {name: arrays[name] for name in call.outputs}
            case Describe():
                return MessageToDict(response.config, preserving_proto_field_name=True)
            case Ready():
                return bool(response.ready)
            case Served():
                return answered((entry.name, entry.inference_count) for entry in response.model_stats)
            case Index():
                return {entry.name: entry.state for entry in response.models}
        return None

    def error(self, call: Call, error: grpc.RpcError, timeout_s: float) -> DepthfaceError:
        """Return the error that a status of gRPC means."""
        code, text = error.code(), error.details() or ""
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return too_late(self._server, timeout_s)
        if code is grpc.StatusCode.UNIMPLEMENTED or (code is grpc.StatusCode.UNKNOWN and "HTTP" in text):
            return no_triton(self._server, "it speaks gRPC, but not Triton's")
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return ImageTooLarge(f"{self._server} accepts no request as large as this one.", "Send a smaller photo.")
        is_lost = code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        if is_lost and not any(sign in text for sign in _OF_TRITON):
            return no_answer(self._server, RuntimeError(text))
        return error_from_text(self._server, getattr(call, "model", None), _STATUSES.get(code, 500), text)

    def _key(self) -> list[tuple[str, str]]:
        found = admin.headers(self._address.netloc, self._admin_key)
        return [(f"{_KEY_PREFIX}{name}", value) for name, value in found.items()]


def _inference(call: Infer) -> Any:
    request = pb.ModelInferRequest(model_name=call.model, id=call.request_id)
    for name, array in call.inputs.items():
        datatype = datatype_of(array)
        request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        raw = serialize_byte_tensor(array).item() if datatype == "BYTES" else array.tobytes()
        request.raw_input_contents.append(raw)
    for name in call.outputs:
        request.outputs.add(name=name)
    request.parameters["timeout"].int64_param = round(call.timeout_s * 1e6)
    for name, value in call.parameters.items():
        kind = {bool: "bool_param", int: "int64_param", str: "string_param"}[type(value)]
        setattr(request.parameters[name], kind, value)
    return request


def _arrays(response: Any) -> dict[str, npt.NDArray[Any]]:
    arrays = {}
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        if output.datatype == "BYTES":
            array = np.asarray(deserialize_bytes_tensor(raw))
        else:
            array = np.frombuffer(raw, triton_to_np_dtype(output.datatype))
        arrays[output.name] = array.reshape(tuple(output.shape))
    return arrays
