"""Triton's `onnxruntime` backend as a Python-based backend, on the `onnxruntime` wheel.

It serves the same `config.pbtxt` and `model.onnx` as NVIDIA's C++ backend (github.com/triton-inference-server/
onnxruntime_backend) and refuses at load what that one refuses. Parameters honoured, with its names and meanings:
`intra_op_thread_count`, `inter_op_thread_count`, `execution_mode`, `enable_mem_arena`, `enable_mem_pattern`,
`memory.enable_memory_arena_shrinkage`, and `optimization { graph { level } }`.

Triton imports this file by its path, so it stands alone.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import triton_python_backend_utils as pb_utils

Array = npt.NDArray[Any]

PROBE = "depthface_probe"
"""A request with this parameter only asks whether the process lives, and is refused at once without the network."""

_ONNX_TO_TRITON = {
    "tensor(bool)": "TYPE_BOOL",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(int8)": "TYPE_INT8",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(float16)": "TYPE_FP16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
}

# `optimization { graph { level } }` of the native backend: −1 basic, 1 extended, 2 none; unset is all.
_GRAPH_LEVELS = {
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    0: ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}


class TritonPythonModel:
    """One instance of a model: an ONNX Runtime session."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load `model.onnx` and hold it against the config; raises `TritonModelException` where they differ."""
        config = json.loads(args["model_config"])
        name = config["name"]
        parameters = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
        file_name = config.get("default_model_filename") or "model.onnx"
        path = Path(args["model_repository"], args["model_version"], file_name)
        try:
            self._session = ort.InferenceSession(path, _session_options(config, parameters), providers=_providers(args))
        except Exception as error:  # ONNX Runtime raises a dozen classes without a common base
            raise pb_utils.TritonModelException(f"{name}: {file_name} cannot be loaded: {error}") from error
        _check(name, config, self._session)
        self._inputs = [tensor["name"] for tensor in config["input"]]
        self._run_options = ort.RunOptions()
        shrinkage = parameters.get("memory.enable_memory_arena_shrinkage")
        if shrinkage:
            self._run_options.add_run_config_entry("memory.enable_memory_arena_shrinkage", shrinkage)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Run the requests of a batch together, but for probes, which are refused; see PROBE."""
        answers = iter(self._answers([request for request in requests if not _is_probe(request)]))
        return [_refusal() if _is_probe(request) else next(answers) for request in requests]

    def _answers(self, requests: list[Any]) -> list[Any]:
        """All at once; if that fails, one by one, so that each answers for itself alone."""
        if not requests:
            return []
        wanted = sorted({name for request in requests for name in request.requested_output_names()})
        feeds = [
            {name: np.from_dlpack(pb_utils.get_input_tensor_by_name(request, name)) for name in self._inputs}
            for request in requests
        ]
        answers: list[dict[str, Array] | Exception]
        try:
            answers = [*self._run_together(wanted, feeds)]
        except Exception:
            answers = [self._run_alone(wanted, feed) for feed in feeds]
        return [_response(request, answer) for request, answer in zip(requests, answers, strict=True)]

    def _run_together(self, wanted: list[str], feeds: list[dict[str, Array]]) -> list[dict[str, Array]]:
        if len(feeds) == 1:
            return [dict(zip(wanted, self._session.run(wanted, feeds[0], self._run_options), strict=True))]
        # Triton batches requests of equal shapes alone.
        feed = {name: np.concatenate([one[name] for one in feeds]) for name in self._inputs}
        results = self._session.run(wanted, feed, self._run_options)
        ends = np.cumsum([len(one[self._inputs[0]]) for one in feeds])[:-1]
        parts = [np.split(result, ends) for result in results]
        return [dict(zip(wanted, part, strict=True)) for part in zip(*parts, strict=True)]

    def _run_alone(self, wanted: list[str], feed: dict[str, Array]) -> dict[str, Array] | Exception:
        try:
            return dict(zip(wanted, self._session.run(wanted, feed, self._run_options), strict=True))
        except Exception as error:
            return error


def _is_probe(request: Any) -> bool:
    return f'"{PROBE}"' in request.parameters()


def _refusal() -> Any:
    return pb_utils.InferenceResponse([], pb_utils.TritonError("alive", pb_utils.TritonError.INVALID_ARG))


def _response(request: Any, answer: dict[str, Array] | Exception) -> Any:
    if isinstance(answer, Exception):
        # ONNX Runtime refuses only what the shapes and dtypes of the request made it refuse.
        return pb_utils.InferenceResponse([], pb_utils.TritonError(str(answer), pb_utils.TritonError.INVALID_ARG))
    return pb_utils.InferenceResponse(
        [pb_utils.Tensor(name, answer[name]) for name in request.requested_output_names()]
    )


def _session_options(config: dict[str, Any], parameters: dict[str, str]) -> ort.SessionOptions:
    options = ort.SessionOptions()
    # Where nothing is said, as many threads as this process may use, and no spinning: ONNX Runtime's own default
    # (0) pins threads to cores and keeps them busy waiting while the other steps need them.
    options.intra_op_num_threads = int(parameters.get("intra_op_thread_count", 0)) or len(os.sched_getaffinity(0))
    options.inter_op_num_threads = int(parameters.get("inter_op_thread_count", 0))
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if parameters.get("execution_mode") == "1":
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    options.enable_cpu_mem_arena = parameters.get("enable_mem_arena", "1") != "0"
    options.enable_mem_pattern = parameters.get("enable_mem_pattern", "1") != "0"
    level = int(config.get("optimization", {}).get("graph", {}).get("level", 0))
    options.graph_optimization_level = _GRAPH_LEVELS.get(level, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
    options.log_severity_level = 3
    return options


def _providers(args: dict[str, str]) -> list[Any]:
    if args["model_instance_kind"] != "GPU":
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        raise pb_utils.TritonModelException("a GPU instance needs the onnxruntime-gpu wheel instead of onnxruntime")
    return [("CUDAExecutionProvider", {"device_id": args["model_instance_device_id"]})]


def _check(name: str, config: dict[str, Any], session: ort.InferenceSession) -> None:
    """Refuse what NVIDIA's backend refuses: other names, datatypes or shapes than the file has."""
    is_batched = int(config.get("max_batch_size", 0)) > 0
    inputs = {tensor.name: tensor for tensor in session.get_inputs()}
    outputs = {tensor.name: tensor for tensor in session.get_outputs()}
    configured = [tensor["name"] for tensor in config["input"]]
    if len(configured) != len(inputs):
        raise pb_utils.TritonModelException(
            f"{name}: the config has {len(configured)} inputs ({', '.join(configured)}), model.onnx has {len(inputs)} "
            f"({', '.join(inputs)})"
        )
    for kind, found in (("input", inputs), ("output", outputs)):
        for tensor in config[kind]:
            if tensor["name"] not in found:
                raise pb_utils.TritonModelException(
                    f"{name}: model.onnx has no {kind} {tensor['name']!r}; it has {', '.join(found)}"
                )
            _check_tensor(f"{name}: {kind} {tensor['name']!r}", tensor, found[tensor["name"]], is_batched)


def _check_tensor(label: str, tensor: dict[str, Any], found: Any, is_batched: bool) -> None:
    data_type = _ONNX_TO_TRITON.get(found.type)
    if tensor["data_type"] != data_type:
        raise pb_utils.TritonModelException(
            f"{label} is {tensor['data_type']} in the config and {data_type or found.type} in model.onnx"
        )
    dims = [int(dim) for dim in tensor["dims"]]
    shape = [dim if isinstance(dim, int) else -1 for dim in found.shape]  # varying dimensions have a name, or None
    if is_batched:
        if not shape or shape[0] != -1:
            raise pb_utils.TritonModelException(
                f"{label} has a fixed first dimension in model.onnx ({shape}), so max_batch_size must be 0"
            )
        shape = shape[1:]
    if len(dims) != len(shape) or any(fixed not in (-1, dim) for dim, fixed in zip(dims, shape, strict=True)):
        raise pb_utils.TritonModelException(f"{label} has dims {dims} in the config and {shape} in model.onnx")
