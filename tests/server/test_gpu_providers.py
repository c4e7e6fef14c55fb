"""The onnxruntime backend's GPU side at its seam: which providers it asks for, and that none may be missing.

ONNX Runtime is the real one, which has no CUDA: it warns, and runs on the CPU. That is the fallback that is refused.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import onnx
import pytest
from onnx import TensorProto, helper

BACKEND = Path(__file__).parents[2] / "server" / "depthface_server" / "backends" / "onnxruntime" / "model.py"
GPU = {"model_instance_kind": "GPU", "model_instance_device_id": "1"}
CUDA, TENSORRT, CPU = "CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"


class Refused(Exception):
    """pb_utils.TritonModelException, which only the server's stub has."""


class NoMetrics:
    """pb_utils.MetricFamily of a server without metrics."""

    COUNTER, GAUGE, HISTOGRAM = range(3)

    def __init__(self, **facts: object) -> None:
        raise Refused("metrics are not allowed")


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The backend's module; of Triton it gets the two names that loading needs."""
    stub = SimpleNamespace(TritonModelException=Refused, MetricFamily=NoMetrics)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", stub)
    spec = importlib.util.spec_from_file_location("onnxruntime_backend", BACKEND)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def arguments(tmp_path: Path) -> dict[str, str]:
    """What Triton says to a model that is to run on GPU 1."""
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "relu",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
    )
    (tmp_path / "1").mkdir()
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "1" / "model.onnx")
    config = {
        "name": "relu",
        "max_batch_size": 8,
        "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": ["4"]}],
        "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": ["4"]}],
    }
    return GPU | {"model_config": json.dumps(config), "model_repository": str(tmp_path), "model_version": "1"}


def accelerated(*accelerators: dict) -> dict:
    return {"optimization": {"execution_accelerators": {"gpu_execution_accelerator": list(accelerators)}}}


def test_cuda_alone_where_nothing_is_said(backend):
    assert backend._providers("m", {}, GPU) == [(CUDA, {"device_id": "1", "use_tf32": "0"}), (CPU, {})]
    assert backend._providers("m", {}, GPU | {"model_instance_kind": "CPU"}) == [(CPU, {})]


def test_the_same_config_as_nvidias_backend_asks_for_tensorrt(backend):
    config = accelerated(
        {
            "name": "tensorrt",
            "parameters": {
                "precision_mode": "FP16",
                "max_workspace_size_bytes": "1073741824",
                "trt_engine_cache_enable": "1",
                "trt_engine_cache_path": "/tmp/engines",
            },
        },
        {"name": "cuda", "parameters": {"cudnn_conv_algo_search": "HEURISTIC"}},
    )
    assert backend._providers("m", config, GPU) == [
        (
            TENSORRT,
            {
                "device_id": "1",
                "trt_fp16_enable": "1",
                "trt_max_workspace_size": "1073741824",
                "trt_engine_cache_enable": "1",
                "trt_engine_cache_path": "/tmp/engines",
            },
        ),
        (CUDA, {"device_id": "1", "use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}),
        (CPU, {}),
    ]
    assert backend._providers("m", accelerated({"name": "tensorrt"}), GPU)[0] == (TENSORRT, {"device_id": "1"})


@pytest.mark.parametrize(
    ("accelerator", "said"),
    [
        ({"name": "openvino"}, "'openvino'"),
        ({"name": "tensorrt", "parameters": {"precision": "FP16"}}, "no parameter 'precision'"),
        ({"name": "tensorrt", "parameters": {"precision_mode": "FP8"}}, "no precision_mode 'FP8'"),
    ],
)
def test_what_nvidias_backend_refuses_is_refused(backend, accelerator, said):
    with pytest.raises(Refused, match=said):
        backend._providers("m", accelerated(accelerator), GPU)


def test_the_cpus_onnxruntime_does_not_serve_a_gpu(backend, arguments):
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(Refused, match=r"this ONNX Runtime has no CUDAExecutionProvider.*make setup-gpu"),
    ):
        backend.TritonPythonModel().initialize(arguments)


def test_a_provider_that_does_not_start_is_an_error_and_no_fallback(backend, arguments, monkeypatch):
    """As with onnxruntime-gpu and a CUDA library missing: it is listed as available, and the session has it not."""
    monkeypatch.setattr(backend.ort, "get_available_providers", lambda: [CUDA, CPU])
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(Refused, match=r"CUDAExecutionProvider did not start.*would run on CPUExecutionProvider"),
    ):
        backend.TritonPythonModel().initialize(arguments)


def test_a_model_for_the_cpu_loads(backend, arguments):
    backend.TritonPythonModel().initialize(arguments | {"model_instance_kind": "CPU"})
