"""Triton's `openvino` backend as a Python-based backend, on the `openvino` wheel.

It serves the same `config.pbtxt` and `model.onnx` as NVIDIA's C++ backend (github.com/triton-inference-server/
openvino_backend). Parameters honoured, with its names and meanings: `HINT_BF16`, `PERFORMANCE_HINT`, `NUM_STREAMS`,
`INFERENCE_NUM_THREADS`. Without `HINT_BF16` it computes in fp32; so it does with it where the processor is no quicker
in bf16.

In bf16, shapes that are asked for often are computed by graphs of their own (`depthface_server.static_graphs`); one
parameter more, `STATIC_GRAPHS_MB`, says how much memory those may take, and 0 that there are none.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from depthface.openvino import MOST_OFF, fixed, off, options
from depthface.openvino import openvino as ov
from depthface_server import static_graphs
from depthface_server.backend import NetworkBackend, Tensor
from depthface_server.static_graphs import Case, Shapes, StaticGraphs

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

_PASSED_ON = ("PERFORMANCE_HINT", "NUM_STREAMS", "INFERENCE_NUM_THREADS")


class TritonPythonModel(NetworkBackend):
    """One instance of a model: an OpenVINO inference request on the CPU, made anew after one that failed.

    Some shapes have one more, which is theirs alone.
    """

    _request: Any = None
    _graphs: StaticGraphs[Any] | None = None

    def open(
        self, path: Path, config: dict[str, Any], parameters: Mapping[str, str], args: Mapping[str, str]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Load the file; return its inputs and outputs."""
        self._core, self._options = ov.Core(), _options(parameters)
        self._model = self._core.read_model(path)
        compiled = self._compile(self._model)
        self._request = compiled.create_infer_request()
        room = static_graphs.room_of(path, parameters) if self._model.is_dynamic() else 0
        self._graphs = StaticGraphs(self._make_fixed, room, self._tell)
        return [*map(_tensor, compiled.inputs)], [*map(_tensor, compiled.outputs)]

    def run(self, wanted: Sequence[str], feed: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Compute the outputs named."""
        assert self._graphs is not None, "it is open"
        shapes = static_graphs.shapes_of(feed)
        began = time.perf_counter()
        own = self._graphs.graph_of(shapes)
        if own is not None:
            try:
                results = own.infer(feed, share_inputs=True, share_outputs=True)
            except Exception as error:  # a lack of memory, most likely: the other graph may do with less
                self._graphs.refuse(shapes, f"failed: {error}")
                own = None
        if own is None:
            results = self._run_common(feed)
        seconds = time.perf_counter() - began
        self._graphs.note(shapes, seconds, lambda: _case(feed, results), own=own is not None)
        return [results[name] for name in wanted]

    def rest(self) -> None:
        """Let go of what is between the layers, of all graphs."""
        requests = [self._request, *(self._graphs.graphs() if self._graphs is not None else ())]
        for request in requests:
            if request is not None:
                request.get_compiled_model().release_memory()

    def close(self) -> None:
        """Let go of what `open` has loaded."""
        if self._graphs is not None:
            self._graphs.close()
        self._request = self._model = None

    def finalize(self) -> None:
        """End with no thread at work: what OpenVINO compiles while the process ends may end it by a signal."""
        self.close()
        super().finalize()

    def _run_common(self, feed: Mapping[str, npt.NDArray[Any]]) -> Any:
        if self._request is None:
            self._request = self._compile(self._model).create_infer_request()
        try:
            return self._request.infer(feed, share_inputs=True, share_outputs=True)
        except Exception:
            # What has failed stays in the graph, and fails every further request of the shapes before it.
            self._request = None
            raise

    def _compile(self, model: Any) -> Any:
        return self._core.compile_model(model, "CPU", self._options)

    def _make_fixed(self, case: Case) -> Any:
        """Return an inference request for the shapes of a case alone, which gives what that had for an answer.

        Raises:
            ValueError: it does not.
        """
        feed, expected = case
        network = self._compile(fixed(self._model, dict(static_graphs.shapes_of(feed))))
        request = network.create_infer_request()
        # Its first run also prepares what compiling leaves.
        far = off(expected, [*request.infer(feed, share_outputs=True).values()])
        if not far <= MOST_OFF:
            raise ValueError(f"its outputs are off by {far:.3f} of their norm, more than {MOST_OFF}")
        return request

    def _tell(self, what: str, shapes: Shapes) -> None:
        self._report.log_event("static_graph", shapes=dict(shapes), message=what)


def _case(feed: Mapping[str, npt.NDArray[Any]], results: Any) -> Case:
    return {name: tensor.copy() for name, tensor in feed.items()}, [result.copy() for result in results.values()]


def _tensor(found: Any) -> Tensor:
    shape = tuple(dim.get_length() if dim.is_static else -1 for dim in found.get_partial_shape())
    data_type = found.get_element_type().get_type_name()
    return Tensor(found.get_any_name(), _DATA_TYPES.get(data_type, data_type), shape)


def _options(parameters: Mapping[str, str]) -> dict[str, str]:
    named = {key: parameters[key].upper() for key in _PASSED_ON if key in parameters}
    return options(is_bf16=static_graphs.computes_in_bf16(parameters)) | named
