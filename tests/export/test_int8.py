"""int8: Q/DQ pairs in the ONNX file, calibrated on photographs, proven as everything else is."""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from fixtures.photos import photo
from fixtures.serving import depthface
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from depthface import manifest, verify
from depthface.errors import ExportError, ParityError
from depthface.families import card_named
from depthface.processor import has_vnni
from depthface.spec import EngineOptions
from depthface_export import int8, validate
from depthface_export.job import Engines

LOOSE = {"max_error": 1.0, "mean_error": 0.5, "delta1_loss": 1.0}


@dataclass(frozen=True)
class Exported:
    """An int8 export, and what its ranges were measured on."""

    target: Path
    found: manifest.Manifest
    model: onnx.ModelProto
    feeds: list[dict[str, np.ndarray]]

    @property
    def worst(self) -> float:
        """The largest mean error of its checks."""
        return max(check["value"] for check in self.found.checks if check["metric"] == "mean_error")


@pytest.fixture(scope="module")
def card(tiny):
    """Of a network whose narrow range makes every rounding weigh more."""
    return dataclasses.replace(tiny, tolerances={**tiny.tolerances, "int8": LOOSE})


def folder_of(card, target):
    return target / card.networks[0].name / "1"


@pytest.fixture(scope="module")
def exported(card, run, tmp_path_factory) -> Exported:
    target = tmp_path_factory.mktemp("int8")
    feeds: list[dict[str, np.ndarray]] = []
    quantize = int8.write_int8

    def noting(model, made, fed, *rest) -> None:
        feeds.extend(fed)
        quantize(model, made, fed, *rest)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(int8, "write_int8", noting)
        assert run(card, target, precision="int8")[0] == "exported"
    folder = folder_of(card, target)
    return Exported(target, manifest.read(folder), onnx.load(folder / "model.onnx"), feeds)


def test_the_large_products_are_int8_and_attention_is_not(card, exported):
    model = exported.model
    assert exported.found.precision == "int8"
    assert exported.found.onnx["sha256"] == manifest.sha256_of(folder_of(card, exported.target) / "model.onnx")
    assert "in_fp32" not in exported.found.onnx
    weights = Counter(tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) > 1)
    assert weights[TensorProto.INT8] >= 6 * 4  # of each layer: queries, keys, values, output, and two of the MLP
    # Two of each layer: queries by keys, and their softmax by the values.
    constants = {tensor.name for tensor in model.graph.initializer}
    made = {output for node in model.graph.node if node.op_type == "DequantizeLinear" for output in node.output}
    free = [n for n in model.graph.node if n.op_type == "MatMul" and not made.intersection(n.input)]
    assert len([node for node in free if not constants.intersection(node.input)]) >= 2 * 4


def test_weights_are_rounded_signed_and_by_column_and_activations_unsigned(exported):
    """What processors with VNNI multiply; a scale for the whole matrix would cost several times the error."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in exported.model.graph.initializer}
    weights = [
        [constants[name] for name in node.input]
        for node in exported.model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in constants
    ]
    assert len(weights) >= 6 * 4
    for values, scale, zero in weights:
        assert values.dtype == zero.dtype == np.int8
        assert scale.shape == (values.shape[1],)
        assert not zero.any()
    rounded = [node for node in exported.model.graph.node if node.op_type == "QuantizeLinear"]
    assert rounded
    for node in rounded:
        assert constants[node.input[1]].shape == ()
        assert constants[node.input[2]].dtype == np.uint8


def test_int8_and_fp32_are_not_taken_for_each_other(card, exported, tiny_repository, run, tmp_path):
    copy = Path(shutil.copytree(exported.target, tmp_path / "int8"))
    assert run(card, copy, precision="int8")[0] == "unchanged"
    assert run(card, copy)[0] == "exported"
    assert TensorProto.INT8 not in {
        tensor.data_type for tensor in onnx.load(folder_of(card, copy) / "model.onnx").graph.initializer
    }


def test_a_proof_by_vnni_is_none_where_there_is_no_vnni(card, exported, run, tmp_path, monkeypatch):
    """As on a processor with AVX2 alone: it is not served there, and the same command makes it anew, proven there."""
    target = Path(shutil.copytree(exported.target, tmp_path / "int8"))
    folder = folder_of(card, target)
    assert exported.found.onnx["with_vnni"] is has_vnni()
    monkeypatch.setattr(validate, "prove", lambda *_, **__: [])  # that it holds is another test's
    for with_vnni in (True, False):
        found = dataclasses.replace(exported.found, onnx=exported.found.onnx | {"with_vnni": with_vnni})
        found.write(folder)
        monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)
        assert verify.int8_problems(found) == [] or not has_vnni()
        monkeypatch.setenv("DNNL_MAX_CPU_ISA", "AVX2")
        (verdict,) = verify.verdicts(target)
        done = depthface("verify", "--repository", target)
        assert done.returncode == (1 if with_vnni else 0)
        if with_vnni:
            assert "proven on a processor with VNNI" in str(verdict)
            assert "proven on a processor with VNNI" in done.stderr
        else:
            assert not verdict.problems
    dataclasses.replace(exported.found, onnx=exported.found.onnx | {"with_vnni": True}).write(folder)
    assert run(card, target, precision="int8")[0] == "exported"
    assert manifest.read(folder).onnx["with_vnni"] is False


def test_the_checks_are_of_the_int8_file(card, exported, tiny_repository):
    fp32 = manifest.read(folder_of(card, tiny_repository)).checks
    assert exported.worst > 20 * max(check["value"] for check in fp32 if check["metric"] == "mean_error")
    errors = [check for check in exported.found.checks if check["metric"] != "delta1_loss"]
    assert len(errors) == 2 * 7  # largest and mean, in seven shapes
    assert all(0 < check["value"] <= check["tolerance"] for check in errors)


# The photographs of scikit-image that prove an export, and those that ranges are measured on.
PROOF = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
CALIBRATION = (
    *("camera.png", "clock_motion.png", "coins.png", "grass.png", "hubble_deep_field.jpg", "ihc.png"),
    "motorcycle_left.png",
)


def test_ranges_are_measured_on_the_photographs_that_prove_nothing(exported):
    """By what the quantizer was really fed: each picture is the nearest to one of those, and to each of those."""
    assert len({value.shape for feed in exported.feeds for value in feed.values()}) > 3
    seen = set()
    for feed in exported.feeds:
        assert list(feed) == ["pixels"]
        for fed in feed["pixels"]:
            height, width, _ = fed.shape
            known = {
                name: np.asarray(photo(name).resize((width, height), Image.Resampling.BICUBIC), int)
                for name in (*PROOF, *CALIBRATION)
            }
            apart = {name: float(np.abs(picture - fed).mean()) for name, picture in known.items()}
            nearest = min(apart, key=apart.__getitem__)
            assert apart[nearest] < 5, apart  # levels: a photograph, and no noise
            seen.add(nearest)
    assert seen == set(CALIBRATION)


def test_what_does_not_hold_leaves_the_most_sensitive_products_in_fp32(card, exported, run, tmp_path):
    strict = dataclasses.replace(card, tolerances={"int8": LOOSE | {"mean_error": 0.95 * exported.worst}})
    _, lines = run(strict, tmp_path, precision="int8")
    found = manifest.read(folder_of(card, tmp_path))
    model = onnx.load(folder_of(card, tmp_path) / "model.onnx")
    assert any("most sensitive" in line for line in lines)
    assert found.onnx["in_fp32"]
    assert int8.products(model)
    assert not set(found.onnx["in_fp32"]) & set(int8.products(model))
    assert set(found.onnx["in_fp32"]) <= {node.name for node in model.graph.node}
    assert all(check["value"] <= check["tolerance"] for check in found.checks)


def test_what_cannot_hold_installs_nothing(card, exported, run, tmp_path, monkeypatch):
    """After half of the products; which of them are the most sensitive is the test's above, and takes its time."""
    named = list(int8.products(exported.model))
    tried = []
    quantize = int8.write_int8

    def noting(*arguments) -> None:
        tried.append(list(arguments[-1]))
        quantize(*arguments)

    monkeypatch.setattr(int8, "by_sensitivity", lambda *_: named)
    monkeypatch.setattr(int8, "write_int8", noting)
    impossible = dataclasses.replace(card, tolerances={"int8": LOOSE | {"max_error": 1e-9}})
    with pytest.raises(ParityError, match=r"max_error.*Half of its products"):
        run(impossible, tmp_path, precision="int8")
    assert tried == [named[: round(share * len(named))] for share in (0, 0.1, 0.25, 0.5)]
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


def test_no_sentence_is_measured_on_that_proves():
    assert validate.CALIBRATION.sentences
    assert not set(validate.CALIBRATION.sentences) & set(validate.PROOF.sentences)
