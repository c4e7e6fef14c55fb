"""The network backends against what NVIDIA's do, on small graphs and the real server."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from fixtures.lab import CONFIG
from fixtures.processes import descriptors, memory_bytes
from fixtures.waiting import until
from onnx import TensorProto, helper, numpy_helper
from tritonclient.utils import InferenceServerException

from depthface.config import text_from_config
from depthface.families import card_named
from depthface.processor import multiplies_bf16
from depthface.spec import Network
from depthface_export import configs


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


HINT_BF16 = 'parameters { key: "HINT_BF16" value { string_value: "YES" } }'

CPU_RUNTIME = 'parameters { key: "cpu_runtime" value { string_value: "openvino" } }'

ENGINES = [
    (card, network)
    for card in (card_named("depth_anything_v2_small"), card_named("buffalo_l"))
    for network in card.networks[:2]
]


def of_signature(network: Network) -> onnx.ModelProto:
    """A graph that takes and gives what the network does, and computes nothing of it."""
    types = {"UINT8": TensorProto.UINT8, "FP32": TensorProto.FLOAT, "INT32": TensorProto.INT32}

    def values(tensors: tuple) -> list[onnx.ValueInfoProto]:
        return [
            helper.make_tensor_value_info(
                tensor.name,
                types[tensor.dtype],
                ["n", *(f"{tensor.name}_{axis}" if dim < 0 else dim for axis, dim in enumerate(tensor.dims))],
            )
            for tensor in tensors
        ]

    first = network.inputs[0].name
    nodes = [
        helper.make_node("Shape", [first], ["batch"], start=0, end=1),
        helper.make_node("Shape", [first], ["varies"], start=1, end=2),
    ]
    constants = []
    for tensor in network.outputs:
        sides = ["batch", *("varies" if dim < 0 else f"{tensor.name}_{dim}" for dim in tensor.dims)]
        fixed = {dim for dim in tensor.dims if dim >= 0}
        constants += [helper.make_tensor(f"{tensor.name}_{dim}", TensorProto.INT64, [1], [dim]) for dim in fixed]
        nodes.append(helper.make_node("Concat", sides, [f"{tensor.name}_shape"], axis=0))
        zero = helper.make_tensor("zero", types[tensor.dtype], [1], [0])
        nodes.append(helper.make_node("ConstantOfShape", [f"{tensor.name}_shape"], [tensor.name], value=zero))
    graph = helper.make_graph(nodes, "signature", values(network.inputs), values(network.outputs), constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture(params=["onnxruntime", "openvino"])
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


def test_a_good_model_serves(lab, backend):
    lab.load(f"good_{backend}", doubling(), backend=backend)
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(lab.run(f"good_{backend}", x), 2 * x)


def test_a_parameter_of_others_that_is_empty_does_no_harm(lab, backend):
    name = f"noted_{backend}"
    lab.load(name, doubling(), backend=backend, more='parameters { key: "note" value { string_value: "" } }')
    assert lab.run(name, np.ones((1, 4), np.float32)).tolist() == [[2, 2, 2, 2]]
    lab.unload(name)


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
def test_a_config_that_does_not_fit_the_file_is_refused_at_load(lab, name, backend):
    make, options, said = REFUSED[name]
    model = f"{name}_{backend}"
    with pytest.raises(InferenceServerException, match=said):
        lab.load(model, make(), backend=backend, **options)
    assert not lab.client.is_model_ready(model)


def test_a_fixed_batch_serves_without_batching(lab, backend):
    name = f"unbatched_{backend}"
    lab.load(name, doubling(first=1, side=4), backend=backend, batch=0, dims="1, 4", out="1, 4")
    x = np.ones((1, 4), np.float32)
    np.testing.assert_array_equal(lab.run(name, x), 2 * x)


IN_EIGHTS = "dynamic_batching { max_queue_delay_microseconds: 1000000 preferred_batch_size: [8] }"


def batches(lab, name: str) -> dict[int, int]:
    """How many batches of each size a model has computed."""
    statistics = lab.client.get_inference_statistics(name)["model_stats"][0]
    return {int(batch["batch_size"]): int(batch["compute_infer"]["count"]) for batch in statistics["batch_stats"]}


def test_a_bad_request_in_a_batch_fails_alone(lab, backend):
    """32 requests batched by the server, every fourth of a shape that the graph cannot take."""
    name = f"batching_{backend}"
    lab.load(
        name,
        doubling(),
        backend=backend,
        more=IN_EIGHTS,
    )

    def call(index: int) -> np.ndarray | str:
        width = 3 if index % 4 == 0 else 4
        try:
            return lab.run(name, np.full((1, width), index, np.float32))
        except InferenceServerException as error:
            return str(error.status())

    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(call, range(32)))
    for index, answer in enumerate(answers):
        if index % 4 == 0:
            assert answer == "400"
        else:
            np.testing.assert_array_equal(answer, np.full((1, 4), 2 * index, np.float32))
    until(lambda: max(batches(lab, name), default=0) > 1, "a batch")  # Triton counts after it has answered


def inverse() -> onnx.ModelProto:
    """y = 1 / x, which is infinite of 0."""
    graph = helper.make_graph(
        [helper.make_node("Reciprocal", ["x"], ["y"])],
        "inverse",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "n"])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def test_an_answer_that_is_no_number_in_a_batch_is_a_failure_of_its_own_request(lab, backend):
    name = f"inverse_{backend}"
    lab.load(
        name,
        inverse(),
        backend=backend,
        is_exported=True,
        out="-1",
        more=IN_EIGHTS,
    )

    def call(index: int) -> np.ndarray | str:
        try:
            return lab.run(name, np.full((1, 4), index % 4, np.float32) + np.float32([1, 1, 1, 0]))
        except InferenceServerException as error:
            return f"{error.status()} {error.message()}"

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(call, range(16)))
    for index, answer in enumerate(answers):
        if index % 4 == 0:
            assert answer == "500 The network failed on this request; the server's log says why."
        else:
            assert np.isfinite(answer).all()
    until(lambda: max(batches(lab, name), default=0) > 1, "a batch")


def test_a_network_of_ones_own_may_answer_with_infinity(lab, backend):
    """A mask, say. What a network that was exported means is known."""
    name = f"own_{backend}"
    lab.load(name, inverse(), backend=backend, out="-1")
    assert np.isinf(lab.run(name, np.zeros((1, 4), np.float32))).all()


def test_a_preferred_batch_of_one_takes_each_request_by_itself(lab, backend):
    """What an export for a CPU says; a request of several photos is still one."""
    name = f"one_by_one_{backend}"
    lab.load(name, doubling(), backend=backend, more="dynamic_batching { preferred_batch_size: [1] }")
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(lambda _: lab.run(name, np.ones((1, 4), np.float32)), range(64)))
    np.testing.assert_array_equal(lab.run(name, np.ones((3, 4), np.float32)), np.full((3, 4), 2))
    until(lambda: sum(batches(lab, name).values()) >= 65, "the last count")  # Triton counts after it has answered
    assert batches(lab, name) == {1: 64, 3: 1}


def test_the_thread_count_of_the_config_is_honoured(lab):
    """Sessions of 1 and of 7 intra-op threads differ by six threads in their processes."""
    counts = {}
    for threads in (1, 7):
        name = f"threads{threads}"
        lab.load(name, doubling(), more=THREADS.format(threads))
        lab.run(name, np.ones((1, 4), np.float32))
        (process,) = lab.steps(name)
        counts[threads] = process.num_threads()
    assert counts[7] - counts[1] == 6


def test_openvino_takes_onnx_runtimes_place_where_the_config_says_so(lab):
    """The same batches and answers; seen by what the process has loaded to compute with."""
    x = np.arange(32, dtype=np.float32).reshape(8, 4)
    for name, more in (("by_default", ""), ("by_openvino", CPU_RUNTIME)):
        lab.load(name, doubling(), more=more)
        for rows in (1, 3, 8):
            np.testing.assert_array_equal(lab.run(name, x[:rows]), 2 * x[:rows])
        (process,) = lab.steps(name)
        plugins = {Path(found.path).name for found in process.memory_maps() if "intel_cpu_plugin" in found.path}
        assert bool(plugins) == bool(more)


def test_a_parameter_that_is_no_number_is_refused(lab):
    with pytest.raises(InferenceServerException, match="many"):
        lab.load("bad_threads", doubling(), more=THREADS.format("many"))


def test_openvino_computes_in_bf16_only_where_the_config_says_so_and_it_is_quicker(lab):
    """bf16 has 8 bits of mantissa: of x·x it keeps 1/256, of fp32's nothing is lost that shows here."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 64])],
        [numpy_helper.from_array(np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32), "w")],
    )
    product = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    x = np.random.default_rng(1).normal(size=(4, 64)).astype(np.float32)
    expected = x @ numpy_helper.to_array(graph.initializer[0])
    error = {}
    for name, more in (("fp32", ""), ("bf16", HINT_BF16)):
        lab.load(f"product_{name}", product, backend="openvino", dims="64", out="64", more=more)
        error[name] = np.abs(lab.run(f"product_{name}", x) - expected).max() / np.abs(expected).max()
    assert error["fp32"] < 1e-6
    assert (1e-4 < error["bf16"] < 1e-2) if multiplies_bf16() else error["bf16"] < 1e-6


CYCLES = int(os.environ.get("DEPTHFACE_CYCLES", "12"))
"""Loads and unloads; `make soak` has more of them."""


def widening(width: int) -> onnx.ModelProto:
    """Two dense layers, 4 → width → 4, with a ReLU between them."""
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "first"], ["wide"]),
            helper.make_node("Relu", ["wide"], ["positive"]),
            helper.make_node("MatMul", ["positive", "second"], ["y"]),
        ],
        "widening",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [
            numpy_helper.from_array(np.linspace(-1, 1, 4 * width, dtype=np.float32).reshape(shape), name)
            for name, shape in (("first", (4, width)), ("second", (width, 4)))
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_a_network_at_rest_gives_back_what_is_between_its_layers(lab, runtime):
    """And answers as before, to the bit."""
    name = f"resting_{runtime}"
    fields = {"batch": 0, "dims": "-1, 4", "out": "-1, 4", "more": CPU_RUNTIME if runtime == "onnxruntime" else ""}
    lab.load(name, widening(1000), backend=runtime, **fields)
    before = memory_bytes(lab.steps(name))
    x = np.random.default_rng(0).standard_normal((25_000, 4)).astype(np.float32)
    expected = lab.run(name, x)
    most = before + 25_000 * 1000 * x.itemsize
    assert memory_bytes(lab.steps(name)) > most
    until(lambda: memory_bytes(lab.steps(name)) < (before + most) / 2, "less memory")
    np.testing.assert_array_equal(lab.run(name, x), expected)
    lab.unload(name)


@pytest.mark.slow
def test_loads_and_unloads_leave_nothing_behind(lab):
    """Memory, file descriptors and /dev/shm of the server, as they were after the first cycles."""
    x = np.ones((1, 4), np.float32)
    lab.load("cycled", doubling())
    found = []
    for _ in range(CYCLES):
        lab.load_there("cycled")
        np.testing.assert_array_equal(lab.run("cycled", x), 2 * x)
        lab.unload("cycled")
        processes = lab.processes()
        memory = memory_bytes(processes) / 1e6
        regions = len([*Path("/dev/shm").glob(f"{lab.triton._region}*")])
        found.append((memory, descriptors(processes), regions))
    memory, files, shm = (np.array(column) for column in zip(*found[CYCLES // 2 :], strict=True))
    assert np.median(np.diff(memory)) < 0.5, memory  # MB: a leak is in every cycle, a larger heap in one
    assert np.median(files[-5:]) <= np.median(files[:5]) + 1, files
    assert np.median(shm[-5:]) <= np.median(shm[:5]) + 1, shm


@pytest.mark.parametrize(("card", "network"), ENGINES, ids=lambda each: each.name)
def test_the_config_of_an_engine_is_right_but_for_the_gpu(lab, card, network):
    """Triton reads it whole, and lacks only the backend; with the CPU's in its place the ONNX file fits it."""
    config = configs.exported_configs(card, "fp32", "random, seed 0", frozenset({network.name}))[network.name]
    folder = lab.folder / network.name
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.plan").write_bytes(b"an engine")
    onnx.save(of_signature(network), folder / "1" / "model.onnx")

    (folder / "config.pbtxt").write_text(text_from_config(config))
    with pytest.raises(InferenceServerException, match="unable to find backend library for backend 'tensorrt'"):
        lab.load_there(network.name)

    config.backend, config.default_model_filename = "onnxruntime", "model.onnx"
    for group in config.instance_group:
        assert group.kind == group.KIND_GPU
        group.kind = group.KIND_CPU
        del group.profile[:]
    (folder / "config.pbtxt").write_text(text_from_config(config))
    lab.load_there(network.name)
    served = lab.client.get_model_metadata(network.name)
    for kind, tensors in (("inputs", network.inputs), ("outputs", network.outputs)):
        assert [(each["name"], each["datatype"], each["shape"]) for each in served[kind]] == [
            (tensor.name, tensor.dtype, [-1, *tensor.dims]) for tensor in tensors
        ]


def test_a_model_starts_no_process_but_those_that_serve(lab):
    """Another one, to complete a config that is whole, would take a second of each start."""
    starts = lab.folder / "starts.txt"
    code = f"import os; open({str(starts)!r}, 'a').write(f'{{os.getpid()}}\\n')\nclass TritonPythonModel: pass\n"
    tensor = '{ name: "%s" data_type: TYPE_FP32 dims: [ 1 ] }'
    lab.load_code("started_once", code, f"input {tensor % 'x'} output {tensor % 'y'}")
    assert starts.read_text().split() == [str(process.pid) for process in lab.steps("started_once")]
