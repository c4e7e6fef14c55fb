"""Triton's `onnxruntime` backend as a Python-based backend, on the `onnxruntime` wheel.

It serves the same `config.pbtxt` and `model.onnx` as NVIDIA's C++ backend (github.com/triton-inference-server/
onnxruntime_backend) and refuses at load what that one refuses. Parameters honoured, with its names and meanings:
`intra_op_thread_count`, `inter_op_thread_count`, `execution_mode`, `enable_mem_arena`, `enable_mem_pattern`,
`memory.enable_memory_arena_shrinkage`, `optimization { graph { level } }`, and the accelerators `cuda` and `tensorrt`
of `optimization { execution_accelerators { gpu_execution_accelerator } }`. On a GPU it never falls back to the CPU in
silence.

On CUDA, shapes that are asked for again are computed by sessions of their own (`depthface_server.static_graphs`), and
batches are made up to powers of two, so that there are few shapes. `STATIC_GRAPHS_MB` says how much memory the sessions
may take, and 0 that there are none.

`cpu_runtime` is a parameter of its own, which NVIDIA's passes over: `openvino` computes the file in fp32 by OpenVINO.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import triton_python_backend_utils as pb_utils

from depthface.contract import Parameters
from depthface.cores import Cores
from depthface.machine import CUDA_OPTIONS, CUDA_PROVIDER
from depthface_server import static_graphs
from depthface_server.backend import NetworkBackend, Tensor
from depthface_server.failures import is_of_memory
from depthface_server.static_graphs import Case, Shapes, StaticGraphs

Provider = tuple[str, dict[str, str]]

_DATA_TYPES = {
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

# Of the accelerator `tensorrt`: the value of `precision_mode` to ONNX Runtime's option; TensorRT 11 has them no more.
_PRECISION_MODES = {"FP32": "", "FP16": "trt_fp16_enable", "BF16": "trt_bf16_enable", "INT8": "trt_int8_enable"}

_TENSORRT_OPTIONS = {
    "max_workspace_size_bytes": "trt_max_workspace_size",
    "int8_calibration_table_name": "trt_int8_calibration_table_name",
    "int8_use_native_calibration_table": "trt_int8_use_native_calibration_table",
}


class TritonPythonModel(NetworkBackend):
    """One instance of a model: an ONNX Runtime session, or what OpenVINO has made of the same file.

    On CUDA some shapes have one more, which is theirs alone.
    """

    _openvino: NetworkBackend | None = None
    _graphs: StaticGraphs[ort.InferenceSession] | None = None

    def open(
        self, path: Path, config: dict[str, Any], parameters: Mapping[str, str], args: Mapping[str, str]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Load the file; return its inputs and outputs."""
        if Parameters.of_texts(parameters).cpu_runtime == "openvino" and args["model_instance_kind"] != "GPU":
            from depthface_server.backends.openvino.model import TritonPythonModel as OpenVino  # or memory is lost

            self._openvino = OpenVino()
            threads = parameters.get("intra_op_thread_count")
            named = {"INFERENCE_NUM_THREADS": threads} if threads else {}
            return self._openvino.open(path, config, named, args)
        providers = _providers(config["name"], config, args)
        if len(providers) > 1:
            ort.preload_dlls()  # CUDA and cuDNN out of NVIDIA's wheels, where the loader does not look
        self._load = partial(_loaded, config["name"], path, _session_options(config, parameters), providers)
        self._session = self._load()
        self._most = int(config.get("max_batch_size", 0))
        if providers[0][0] == CUDA_PROVIDER:
            self._graphs = StaticGraphs(
                self._load_for, static_graphs.room_on_gpu(path, parameters), self._tell, static_graphs.ON_GPU
            )
        self._run_options = ort.RunOptions()
        shrinkage = parameters.get("memory.enable_memory_arena_shrinkage")
        if shrinkage:
            self._run_options.add_run_config_entry("memory.enable_memory_arena_shrinkage", shrinkage)
        return [*map(_tensor, self._session.get_inputs())], [*map(_tensor, self._session.get_outputs())]

    def run(self, wanted: Sequence[str], feed: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Compute the outputs named."""
        if self._openvino is not None:
            return self._openvino.run(wanted, feed)
        if self._graphs is not None:
            return self._run_by_shape(self._graphs, wanted, feed)
        results: list[npt.NDArray[Any]] = self._session.run(wanted, feed, self._run_options)
        return results

    def rest(self) -> None:
        """Let go of memory that the next call of `run` sets aside again; ONNX Runtime's own goes by its config."""
        if self._openvino is not None:
            self._openvino.rest()

    def close(self) -> None:
        """Let go of what `open` has loaded."""
        if self._graphs is not None:
            self._graphs.close()
        if self._openvino is not None:
            self._openvino.close()
        else:
            del self._session

    def finalize(self) -> None:
        """End with no thread at work, which may be loading a session."""
        if self._graphs is not None:
            self._graphs.close()
        super().finalize()

    def _run_by_shape(
        self, held: StaticGraphs[ort.InferenceSession], wanted: Sequence[str], feed: Mapping[str, npt.NDArray[Any]]
    ) -> list[npt.NDArray[Any]]:
        count = len(next(iter(feed.values())))
        full = {name: _made_up(value, self._most) for name, value in feed.items()} if self._most else feed
        shapes = static_graphs.shapes_of(full)
        began = time.perf_counter()
        own, failed = held.graph_of(shapes), ""
        try:
            results = (own or self._session).run(wanted, full, self._run_options)
        except Exception as error:
            if own is None and not (is_of_memory(error) and held.graphs()):
                raise
            failed = f"failed: {error}"
        if failed:  # no more in the block above, where what was raised holds a session, and its memory
            if own is not None:
                held.refuse(shapes, failed)
            else:
                held.let_go(failed)
            own = None
            results = self._session.run(wanted, full, self._run_options)
        seconds = time.perf_counter() - began
        held.note(shapes, seconds, lambda: (_copied(full), []), own=own is not None)
        return [result[:count] for result in results] if self._most else results

    def _load_for(self, case: Case) -> ort.InferenceSession:
        """Return another session of the same file, which has computed a case: its convolutions are planned then."""
        session = self._load()
        feed, _ = case
        session.run(None, feed, self._run_options)
        return session

    def _tell(self, what: str, shapes: Shapes) -> None:
        self._report.log_event("static_graph", shapes=dict(shapes), message=what)


def _loaded(name: str, path: Path, options: ort.SessionOptions, providers: list[Provider]) -> ort.InferenceSession:
    """Return a session that runs on these providers, and falls back on no other, now or later."""
    session = ort.InferenceSession(path, options, providers=providers, enable_fallback=0)
    _check_providers(name, [provider for provider, _ in providers], session.get_providers())
    return session


def _copied(feed: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    return {name: value.copy() for name, value in feed.items()}


def _made_up(batch: npt.NDArray[Any], most: int) -> npt.NDArray[Any]:
    """Return a batch made up to a power of two, or to the largest, by its last item."""
    count = len(batch)
    lacking = min(1 << (count - 1).bit_length(), max(most, count)) - count
    return np.concatenate([batch, np.repeat(batch[-1:], lacking, axis=0)]) if lacking else batch


def _tensor(found: Any) -> Tensor:
    shape = tuple(dim if isinstance(dim, int) else -1 for dim in found.shape)  # those that vary have a name, or None
    return Tensor(found.name, _DATA_TYPES.get(found.type, found.type), shape)


def _session_options(config: dict[str, Any], parameters: Mapping[str, str]) -> ort.SessionOptions:
    options = ort.SessionOptions()
    # Where nothing is said, as many threads as this process has cores, and no spinning: ONNX Runtime's own default
    # (0) pins threads to cores and keeps them busy waiting while the pipelines need them.
    options.intra_op_num_threads = int(parameters.get("intra_op_thread_count", 0)) or Cores.found().count
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


def _providers(name: str, config: dict[str, Any], args: Mapping[str, str]) -> list[Provider]:
    """Return the execution providers, the first that can run a node runs it: accelerators, CUDA, the CPU."""
    cpu: Provider = ("CPUExecutionProvider", {})
    if args["model_instance_kind"] != "GPU":
        return [cpu]
    device = {"device_id": args["model_instance_device_id"]}
    accelerators = config.get("optimization", {}).get("execution_accelerators", {}).get("gpu_execution_accelerator", [])
    before: list[Provider] = []
    cuda = device | CUDA_OPTIONS
    for accelerator in accelerators:
        options = accelerator.get("parameters", {})
        if accelerator["name"] == "tensorrt":
            before.append(("TensorrtExecutionProvider", device | _tensorrt_options(name, options)))
        elif accelerator["name"] == "cuda":
            cuda |= options
        else:
            raise pb_utils.TritonModelException(
                f"{name}: there is no execution accelerator {accelerator['name']!r}; use 'tensorrt' or 'cuda'"
            )
    return [*before, (CUDA_PROVIDER, cuda), cpu]


def _tensorrt_options(name: str, parameters: Mapping[str, str]) -> dict[str, str]:
    """NVIDIA's names of the parameters to ONNX Runtime's (onnxruntime.cc, `kTensorRTExecutionAccelerator`)."""
    options: dict[str, str] = {}
    for key, value in parameters.items():
        if key == "precision_mode":
            if value not in _PRECISION_MODES:
                raise pb_utils.TritonModelException(f"{name}: there is no precision_mode {value!r}")
            options |= {_PRECISION_MODES[value]: "1"} if _PRECISION_MODES[value] else {}
        elif key.startswith("trt_"):
            options[key] = value
        elif key in _TENSORRT_OPTIONS:
            options[_TENSORRT_OPTIONS[key]] = value
        else:
            raise pb_utils.TritonModelException(f"{name}: the accelerator 'tensorrt' has no parameter {key!r}")
    return options


def _check_providers(name: str, wanted: list[str], found: list[str]) -> None:
    """Refuse what ONNX Runtime only warns of: a provider that is missing, or whose libraries cannot be loaded."""
    missing = [provider for provider in wanted if provider not in found]
    if not missing:
        return
    if missing[0] not in ort.get_available_providers():
        raise pb_utils.TritonModelException(
            f"{name}: this ONNX Runtime has no {missing[0]}. A GPU needs the wheel onnxruntime-gpu in the place of "
            "onnxruntime (`make setup-gpu`); to serve on the CPU, say so: kind: KIND_CPU in the instance_group"
        )
    raise pb_utils.TritonModelException(
        f"{name}: {missing[0]} did not start, and ONNX Runtime would run on {found[0]} without a word. Install the "
        "CUDA, cuDNN and TensorRT that this onnxruntime-gpu was built for; its warning stands above in the log"
    )
