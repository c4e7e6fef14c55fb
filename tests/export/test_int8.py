"""int8: Q/DQ pairs in the ONNX file, calibrated on photographs, proven as everything else is."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from depthface import manifest
from depthface.errors import ExportError, ParityError
from depthface.families import card_named
from depthface.spec import EngineOptions
from depthface_export import int8, validate
from depthface_export.job import Engines

LOOSE = {"max_error": 1.0, "mean_error": 0.5, "delta1_loss": 1.0}


@pytest.fixture
def card(tiny):
    """Of a network whose narrow range makes every rounding weigh more."""
    return dataclasses.replace(tiny, tolerances={**tiny.tolerances, "int8": LOOSE})


def folder_of(card, target):
    return target / card.networks[0].name / "1"


def test_the_large_products_are_int8_and_attention_is_not(card, tmp_path, run):
    assert run(card, tmp_path, precision="int8")[0] == "exported"
    found = manifest.read(folder_of(card, tmp_path))
    model = onnx.load(folder_of(card, tmp_path) / "model.onnx")
    assert found.precision == "int8"
    assert found.onnx["sha256"] == manifest.sha256_of(folder_of(card, tmp_path) / "model.onnx")
    assert "in_fp32" not in found.onnx
    weights = Counter(tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) > 1)
    assert weights[TensorProto.INT8] >= 6 * 4  # of each layer: queries, keys, values, output, and two of the MLP
    # Two of each layer: queries by keys, and their softmax by the values.
    constants = {tensor.name for tensor in model.graph.initializer}
    made = {output for node in model.graph.node if node.op_type == "DequantizeLinear" for output in node.output}
    free = [n for n in model.graph.node if n.op_type == "MatMul" and not made.intersection(n.input)]
    assert len([node for node in free if not constants.intersection(node.input)]) >= 2 * 4
    assert run(card, tmp_path, precision="int8")[0] == "unchanged"
    assert run(card, tmp_path)[0] == "exported"
    assert TensorProto.INT8 not in {
        t.data_type for t in onnx.load(folder_of(card, tmp_path) / "model.onnx").graph.initializer
    }


def test_the_checks_are_of_the_int8_file(card, tmp_path, run):
    run(card, tmp_path)
    fp32 = manifest.read(folder_of(card, tmp_path)).checks
    run(card, tmp_path, precision="int8")
    worst = [
        max(check["value"] for check in checks if check["metric"] == "mean_error")
        for checks in (fp32, manifest.read(folder_of(card, tmp_path)).checks)
    ]
    assert worst[1] > 20 * worst[0]


def test_what_does_not_hold_leaves_the_most_sensitive_products_in_fp32(card, tmp_path, run):
    run(card, tmp_path / "loose", precision="int8")
    checks = manifest.read(folder_of(card, tmp_path / "loose")).checks
    worst = max(check["value"] for check in checks if check["metric"] == "mean_error")
    strict = dataclasses.replace(card, tolerances={"int8": LOOSE | {"mean_error": 0.95 * worst}})
    _, lines = run(strict, tmp_path / "strict", precision="int8")
    found = manifest.read(folder_of(card, tmp_path / "strict"))
    model = onnx.load(folder_of(card, tmp_path / "strict") / "model.onnx")
    assert any("most sensitive" in line for line in lines)
    assert found.onnx["in_fp32"]
    assert not set(found.onnx["in_fp32"]) & set(int8.products(model))
    assert set(found.onnx["in_fp32"]) <= {node.name for node in model.graph.node}
    assert all(check["value"] <= check["tolerance"] for check in found.checks)


def test_what_cannot_hold_installs_nothing(card, tmp_path, run):
    impossible = dataclasses.replace(card, tolerances={"int8": LOOSE | {"max_error": 1e-9}})
    with pytest.raises(ParityError, match=r"max_error.*Half of its products"):
        run(impossible, tmp_path, precision="int8")
    assert not list(tmp_path.iterdir())


def test_an_activation_with_one_huge_value_is_the_most_sensitive(tmp_path):
    rng = np.random.default_rng(0)
    weights = [numpy_helper.from_array(rng.normal(size=(64, 64)).astype(np.float32), f"w{i}") for i in range(2)]
    nodes = [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"y{i}"], name=f"product {i}") for i in range(2)]
    values = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 64]) for name in ("x0", "x1", "y0", "y1")
    }
    graph = helper.make_graph(
        nodes, "two", [values["x0"], values["x1"]], [values["y0"], values["y1"]], initializer=weights
    )
    path = tmp_path / "fp32.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    feed = {f"x{i}": rng.normal(size=(50, 64)).astype(np.float32) for i in range(2)}
    feed["x1"][0, 0] = 1000
    int8.write_int8(path, tmp_path / "int8.onnx", [feed], tmp_path / "ranges.json")
    order = int8.by_sensitivity(path, tmp_path / "int8.onnx", [feed], tmp_path / "ranges.json")
    assert order == ["product 1", "product 0"]

    def error(model) -> float:
        (expected, got) = (
            onnxruntime.InferenceSession(each, providers=["CPUExecutionProvider"]).run(None, feed)[1]
            for each in (path, model)
        )
        return float(np.abs(got - expected)[1:].max())

    int8.write_int8(path, tmp_path / "mixed.onnx", [feed], tmp_path / "ranges.json", ["product 1"])
    assert error(tmp_path / "int8.onnx") > 1 > 1e-3 > error(tmp_path / "mixed.onnx")


def test_ranges_are_not_measured_on_the_photographs_that_prove():
    assert not set(validate.CALIBRATION) & set(validate.PROOF)


def test_it_is_refused_where_it_does_not_belong(tmp_path, run):
    with pytest.raises(ExportError, match="fp32"):
        run(card_named("buffalo_l"), tmp_path, precision="int8", accepts_license=True)
    with pytest.raises(ExportError, match="int8 is for processors"):
        run(
            card_named("depth_anything_v2_small"),
            tmp_path,
            precision="int8",
            engines=Engines(EngineOptions()),
        )
    assert not list(tmp_path.iterdir())
