"""Triton's `openvino` backend as a Python-based backend, on the `openvino` wheel.

It serves the same `config.pbtxt` and `model.onnx` as NVIDIA's C++ backend (github.com/triton-inference-server/
openvino_backend). Parameters honoured, with its names and meanings: `HINT_BF16`, `PERFORMANCE_HINT`, `NUM_STREAMS`,
`INFERENCE_NUM_THREADS`, `COMPILATION_NUM_THREADS`. Without `HINT_BF16` it computes in fp32.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from depthface.cores import Cores
from depthface.openvino import openvino as ov
from depthface_server.backend import NetworkBackend, Tensor

_DATA_TYPES = {
    "boolean": "TYPE_BOOL",
    "u8": "TYPE_UINT8",
    "i8": "TYPE_INT8",
    "i32": "TYPE_INT32",
    "i64": "TYPE_INT64",
    "f16": "TYPE_FP16",
    "f32": "TYPE_FP32",
    "f64": "TYPE_FP64",
}

_PASSED_ON = ("PERFORMANCE_HINT", "NUM_STREAMS", "INFERENCE_NUM_THREADS", "COMPILATION_NUM_THREADS")


class TritonPythonModel(NetworkBackend):
    """One instance of a model: an OpenVINO inference request on the CPU, made anew after one that failed."""

    _request: Any = None

    def open(
        self, path: Path, config: dict[str, Any], parameters: Mapping[str, str], args: Mapping[str, str]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Load the file; return its inputs and outputs."""
        self._compile = functools.partial(ov.Core().compile_model, path, "CPU", _options(parameters))
        model = self._compile()
        self._request = model.create_infer_request()
        return [*map(_tensor, model.inputs)], [*map(_tensor, model.outputs)]

    def run(self, wanted: Sequence[str], feed: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Compute the outputs named."""
        if self._request is None:
            self._request = self._compile().create_infer_request()
        try:
            results = self._request.infer(feed, share_inputs=True, share_outputs=True)
        except Exception:
            # What has failed stays in the graph, and fails every further request of the shapes before it.
            self._request = None
            raise
        return [results[name] for name in wanted]

    def close(self) -> None:
        """Let go of what `open` has loaded."""
        self._request = None


def _tensor(found: Any) -> Tensor:
    shape = tuple(dim.get_length() if dim.is_static else -1 for dim in found.get_partial_shape())
    data_type = found.get_element_type().get_type_name()
    return Tensor(found.get_any_name(), _DATA_TYPES.get(data_type, data_type), shape)


def _options(parameters: Mapping[str, str]) -> dict[str, str]:
    is_bf16 = parameters.get("HINT_BF16", "").lower() == "yes"
    return {
        # Said either way: OpenVINO's own default is bf16 wherever the processor has it.
        "INFERENCE_PRECISION_HINT": "bf16" if is_bf16 else "f32",
        "INFERENCE_NUM_THREADS": str(Cores.found().count),
        # Of what it prepares for a shape, which is 4 MB of depth's; its own default, 5000, keeps a hundred shapes.
        "CPU_RUNTIME_CACHE_CAPACITY": "1000",
        # Triton's other processes need the cores too.
        "ENABLE_CPU_PINNING": "NO",
        **{key: parameters[key].upper() for key in _PASSED_ON if key in parameters},
    }
