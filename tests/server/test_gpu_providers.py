"""The onnxruntime backend's GPU side at its seam: which providers it asks for, and that none may be missing.

ONNX Runtime is the real one, which has no CUDA: it warns, and runs on the CPU. That is the fallback that is refused.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from depthface.machine import CUDA_OPTIONS
from depthface_server.installation import Installation
from depthface_server.static_graphs import ON_GPU
from depthface_server.workspace import Workspace

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
    """The backend's module; of Triton it gets the names that it needs."""
    logger = SimpleNamespace(log_info=lambda line: None)
    stub = SimpleNamespace(TritonModelException=Refused, MetricFamily=NoMetrics, Logger=logger)
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


def test_gpus_have_the_numbers_that_nvidia_smi_gives_them_unless_the_user_has_said_otherwise(tmp_path, monkeypatch):
    """Or the GPU that `verify` holds an engine against is not the one that runs it."""
    found = Installation(tmp_path / "tritonserver", tmp_path)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    with Workspace.temporary() as workspace:
        assert found.environment_in(workspace)["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    with Workspace.temporary() as workspace:
        assert found.environment_in(workspace)["CUDA_DEVICE_ORDER"] == "FASTEST_FIRST"


def test_cuda_alone_where_nothing_is_said(backend):
    assert backend._providers("m", {}, GPU) == [(CUDA, {"device_id": "1"} | CUDA_OPTIONS), (CPU, {})]
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
        {"name": "cuda", "parameters": {"cudnn_conv_algo_search": "DEFAULT"}},
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
        (CUDA, {"device_id": "1", "use_tf32": "0", "cudnn_conv_algo_search": "DEFAULT"}),
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


@pytest.fixture
def by_shape(backend, arguments, monkeypatch):
    """A model as on CUDA, computed by the CPU: which session computes what is the same there."""
    monkeypatch.setattr(backend, "CUDA_PROVIDER", CPU)
    model = backend.TritonPythonModel()
    model.initialize(arguments | {"model_instance_kind": "CPU"})
    yield model
    model.finalize()


def asked(model, count: int, seed: int = 0) -> None:
    x = np.random.default_rng(seed).standard_normal((count, 4)).astype(np.float32)
    (y,) = model.run(["y"], {"x": x})
    np.testing.assert_array_equal(y, np.maximum(x, 0))


def shapes_with_sessions(model) -> set[tuple[int, ...]]:
    model._graphs.wait()
    return {shapes[0][1] for shapes, known in model._graphs._known.items() if known.graph is not None}


def test_a_shape_that_is_asked_for_again_has_a_session_of_its_own(by_shape):
    asked(by_shape, 1)
    assert shapes_with_sessions(by_shape) == set()
    asked(by_shape, 1, seed=1)
    assert shapes_with_sessions(by_shape) == {(1, 4)}
    assert len(by_shape._graphs.graphs()) == 1
    asked(by_shape, 1, seed=2)  # by that one
    (known,) = by_shape._graphs._known.values()
    assert known.uses == 1


def test_batches_are_made_up_to_powers_of_two_and_answer_for_their_own(by_shape):
    for count in (*range(1, 9), *range(8, 0, -1)):
        asked(by_shape, count, seed=count)
        by_shape._graphs.wait()
    assert shapes_with_sessions(by_shape) == {(1, 4), (2, 4), (4, 4), (8, 4)}


def test_a_batch_is_not_made_up_past_the_largest(backend):
    assert [len(backend._made_up(np.zeros((count, 2)), 6)) for count in (1, 3, 4, 5, 6, 7)] == [1, 4, 4, 6, 6, 7]


def test_a_session_that_fails_leaves_its_shape_to_the_common_one(by_shape):
    class Failing:
        def run(self, *_: object) -> list:
            raise RuntimeError("no memory")

    for seed in range(2):
        asked(by_shape, 1, seed)
    by_shape._graphs.wait()
    (known,) = by_shape._graphs._known.values()
    known.graph = Failing()
    asked(by_shape, 1)
    assert (known.graph, known.is_refused) == (None, True)
    for seed in range(3):
        asked(by_shape, 1, seed)
    assert by_shape._graphs.graphs() == []


def test_where_memory_runs_out_the_other_shapes_sessions_go_and_fewer_come_again(by_shape, monkeypatch):
    for count in (1, 1, 2, 2, 4, 4):
        asked(by_shape, count)
        by_shape._graphs.wait()
    assert len(by_shape._graphs.graphs()) == 3
    common, tries = by_shape._session, []

    class Full:
        """As on a GPU that is full, until the sessions have gone."""

        def run(self, *given: object) -> list:
            tries.append(len(by_shape._graphs.graphs()))
            if tries[-1]:
                raise RuntimeError("Failed to allocate memory for requested buffer of size 1")
            return common.run(*given)

    monkeypatch.setattr(by_shape, "_session", Full())
    asked(by_shape, 8)
    assert tries == [3, 0]
    assert by_shape._graphs._room == 1


def test_what_fails_for_another_reason_is_not_tried_again(by_shape, monkeypatch):
    for _ in range(2):
        asked(by_shape, 1)
    by_shape._graphs.wait()
    tries = []

    class Failing:
        def run(self, *_: object) -> list:
            tries.append(1)
            raise RuntimeError("a kernel failed")

    monkeypatch.setattr(by_shape, "_session", Failing())
    with pytest.raises(RuntimeError, match="a kernel failed"):
        asked(by_shape, 2)
    assert tries == [1]
    assert len(by_shape._graphs.graphs()) == 1


def put_another(folder: Path) -> None:
    """As an export does: the file of another network takes the place of this one's."""
    path = folder / "1" / "model.onnx"
    model = onnx.load(path)
    model.graph.node[0].op_type = "Neg"
    aside = path.with_name("other.onnx")
    onnx.save(model, aside)
    aside.replace(path)


def test_sessions_are_of_the_file_that_was_loaded_whatever_an_export_has_put_there(by_shape, tmp_path):
    put_another(tmp_path)
    for _ in range(3):
        asked(by_shape, 1)
        by_shape._graphs.wait()
    assert len(by_shape._graphs.graphs()) == 1


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_an_idle_network_comes_back_as_it_was_whatever_an_export_has_put_there(backend, arguments, tmp_path, runtime):
    config = json.loads(arguments["model_config"]) | {"parameters": {"cpu_runtime": {"string_value": runtime}}}
    model = backend.TritonPythonModel()
    model.initialize(arguments | {"model_instance_kind": "CPU", "model_config": json.dumps(config)})
    put_another(tmp_path)
    model.close()  # as `_leave_when_idle` does
    model._is_open = False
    assert model._answers([]) == []
    asked(model, 1)
    model.finalize()


def test_a_network_of_several_files_is_read_by_its_name(backend, tmp_path):
    """Its weights are found beside it; an export's lie in the file itself, beside a manifest."""
    model = backend.TritonPythonModel()
    for name in ("model.onnx", "model.data"):
        (tmp_path / name).touch()
    assert model._hold(tmp_path / "model.onnx") == tmp_path / "model.onnx"
    (tmp_path / "manifest.json").touch()
    assert model._hold(tmp_path / "model.onnx").samefile(tmp_path / "model.onnx")
    assert model._held is not None
    model.finalize()
    assert model._held is None


def test_no_session_falls_back_on_another_provider(by_shape):
    asked(by_shape, 1)
    asked(by_shape, 1)
    by_shape._graphs.wait()
    for session in (by_shape._session, *by_shape._graphs.graphs()):
        assert not session._enable_fallback


def test_on_a_gpu_there_are_no_more_sessions_than_have_room(by_shape):
    by_shape._most = 0  # each count is a shape of its own
    for count in (*range(1, 30), *range(1, 30)):
        asked(by_shape, count)
        by_shape._graphs.wait()
    assert len(by_shape._graphs.graphs()) == ON_GPU.kept
