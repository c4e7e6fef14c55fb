"""The onnxruntime backend against what NVIDIA's does, on small graphs and the real server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper
from tritonclient.http import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from depthface_server.embedded import Address, Triton

CONFIG = """
name: "{name}"
backend: "onnxruntime"
max_batch_size: {batch}
input {{ name: "x" data_type: TYPE_FP32 dims: [ {dims} ] }}
output {{ name: "y" data_type: TYPE_FP32 dims: [ {out} ] }}
instance_group {{ count: 1 kind: KIND_CPU }}
{more}
"""


def doubling(first: str | int = "batch", side: str | int = "n", dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """y = 2x, and an error from ONNX Runtime where x's second dimension is not 4 (a Reshape fails)."""
    graph = helper.make_graph(
        [
            helper.make_node("Reshape", ["x", "shape"], ["square"]),
            helper.make_node("Add", ["square", "square"], ["sum"]),
            helper.make_node("Reshape", ["sum", "back"], ["y"]),
        ],
        "doubling",
        [helper.make_tensor_value_info("x", dtype, [first, side])],
        [helper.make_tensor_value_info("y", dtype, [first, side])],
        [
            helper.make_tensor("shape", TensorProto.INT64, [3], [-1, 2, 2]),
            helper.make_tensor("back", TensorProto.INT64, [2], [-1, 4]),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


THREADS = 'parameters {{ key: "intra_op_thread_count" value {{ string_value: "{}" }} }}'


class Lab:
    """A server to load small models into."""

    def __init__(self, folder: Path, client: InferenceServerClient, triton: Triton) -> None:
        self.folder, self.client, self.triton = folder, client, triton

    def load(self, name: str, model: onnx.ModelProto, *, config: str = CONFIG, **fields: object) -> None:
        version = self.folder / name / "1"
        version.mkdir(parents=True)
        onnx.save(model, version / "model.onnx")
        fields = {"batch": 8, "dims": "-1", "out": "4", "more": ""} | fields
        (self.folder / name / "config.pbtxt").write_text(config.format(name=name, **fields))
        self.client.load_model(name)

    def run(self, name: str, x: np.ndarray) -> np.ndarray:
        with InferenceServerClient(self.triton.address.url.removeprefix("http://")) as client:
            tensor = InferInput("x", x.shape, "FP32")
            tensor.set_data_from_numpy(x)
            return client.infer(name, [tensor]).as_numpy("y")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("lab")
    address = Address.free("127.0.0.1", 0, 0, 0)
    with Triton(folder, [], address) as triton:
        triton.wait_until_ready(threading.Event())
        client = InferenceServerClient(address.url.removeprefix("http://"))
        yield Lab(folder, client, triton)
        client.close()


def test_a_good_model_serves(lab):
    lab.load("good", doubling())
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(lab.run("good", x), 2 * x)


REFUSED: dict[str, tuple[Callable[[], onnx.ModelProto], dict[str, object], str]] = {
    "input_name": (doubling, {"config": CONFIG.replace('"x"', '"z"')}, "no input 'z'"),
    "output_name": (doubling, {"config": CONFIG.replace('"y"', '"z"')}, "no output 'z'"),
    "missing_input": (
        doubling,
        {"more": 'input { name: "extra" data_type: TYPE_FP32 dims: [ 1 ] }'},
        "2 inputs",
    ),
    "dtype": (doubling, {"config": CONFIG.replace("TYPE_FP32", "TYPE_INT32")}, "TYPE_INT32"),
    "rank": (doubling, {"dims": "-1, 3"}, "dims"),
    "fixed_dim": (lambda: doubling(side=4), {"dims": "5"}, "dims"),
    "fixed_output": (doubling, {"out": "5"}, "dims"),
    "fixed_batch": (lambda: doubling(first=1), {}, "max_batch_size"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_config_that_does_not_fit_the_file_is_refused_at_load(lab, name):
    model, options, said = REFUSED[name]
    with pytest.raises(InferenceServerException, match=said):
        lab.load(name, model(), **options)
    assert not lab.client.is_model_ready(name)


def test_a_fixed_batch_serves_without_batching(lab):
    lab.load("unbatched", doubling(first=1, side=4), batch=0, dims="1, 4", out="1, 4")
    x = np.ones((1, 4), np.float32)
    np.testing.assert_array_equal(lab.run("unbatched", x), 2 * x)


def test_a_bad_request_in_a_batch_fails_alone(lab):
    """32 requests batched by the server, every fourth of a shape that the graph cannot take."""
    lab.load(
        "batching",
        doubling(),
        more="dynamic_batching { max_queue_delay_microseconds: 200000 preferred_batch_size: [8] }",
    )

    def call(index: int) -> np.ndarray | str:
        width = 3 if index % 4 == 0 else 4
        try:
            return lab.run("batching", np.full((1, width), index, np.float32))
        except InferenceServerException as error:
            return str(error.status())

    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(call, range(32)))
    for index, answer in enumerate(answers):
        if index % 4 == 0:
            assert answer == "400"
        else:
            np.testing.assert_array_equal(answer, np.full((1, 4), 2 * index, np.float32))
    statistics = lab.client.get_inference_statistics("batching")["model_stats"][0]
    assert max(int(batch["batch_size"]) for batch in statistics["batch_stats"]) > 1


def test_the_thread_count_of_the_config_is_honoured(lab):
    """Sessions of 1 and of 7 intra-op threads differ by six threads in their processes."""
    counts = {}
    for threads in (1, 7):
        name = f"threads{threads}"
        lab.load(name, doubling(), more=THREADS.format(threads))
        lab.run(name, np.ones((1, 4), np.float32))
        (process,) = [
            child
            for child in psutil.Process(lab.triton._process.pid).children(recursive=True)
            if any(f"/{name}/" in part for part in child.cmdline())
        ]
        counts[threads] = process.num_threads()
    assert counts[7] - counts[1] == 6


def test_a_parameter_that_is_no_number_is_refused(lab):
    with pytest.raises(InferenceServerException, match="many"):
        lab.load("bad_threads", doubling(), more=THREADS.format("many"))


def test_a_probe_is_refused_unrun_and_harms_nobody(lab):
    lab.load("probed", doubling())
    tensor = InferInput("x", [1, 4], "FP32")
    tensor.set_data_from_numpy(np.ones((1, 4), np.float32))
    with pytest.raises(InferenceServerException, match="alive"):
        lab.client.infer("probed", [tensor], parameters={"depthface_probe": True})
    assert (lab.run("probed", np.ones((1, 4), np.float32)) == 2).all()
