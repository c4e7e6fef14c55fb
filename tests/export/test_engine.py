"""The engine stage in the pipeline: gated before it may serve, fp16 tried once more, nothing changed by a failure.

TensorRT's place is taken by `fixtures.engines`; all else is the real pipeline, ONNX Runtime and torch.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from export.conftest import snapshot
from fixtures import engines
from fixtures.exporting import job_of, making_of, random_sources
from google.protobuf import text_format
from onnx import TensorProto, helper
from tritonclient.grpc import model_config_pb2 as pb

from depthface import manifest
from depthface.contract import EXPORTED_CONFIG
from depthface.errors import ExportError, ParityError
from depthface.families import card_named
from depthface.spec import EngineOptions, Source
from depthface_export import engine as engine_stage
from depthface_export import onnx as onnx_stage
from depthface_export import pipeline, precision, validate
from depthface_export.job import Engines


def wanted(options: EngineOptions | None = None, *without: str) -> Engines:
    return Engines(options or EngineOptions(), frozenset(without), engines.NoPhases())


@pytest.fixture(scope="module")
def exported(tiny, tmp_path_factory) -> Path:
    """A tiny depth network and its engine."""
    target = tmp_path_factory.mktemp("engine") / "model_repository"
    with pytest.MonkeyPatch.context() as monkeypatch:
        engines.replace_tensorrt(monkeypatch)
        pipeline.export(job_of(tiny, target, engines=wanted()))
    return target


def version_folder(target: Path, card) -> Path:
    return target / card.networks[0].name / "1"


def test_the_manifest_says_what_the_engine_belongs_to_and_what_was_proven(tiny, exported):
    folder = version_folder(exported, tiny)
    found = manifest.read(folder)
    assert not found.differences(folder)
    engine = found.engine
    gpu = engines.H200.gpus[0]
    assert engine["sha256"] == manifest.sha256_of(folder / "model.plan")
    assert (engine["tensorrt"], engine["gpu"]) == (engines.H200.tensorrt, gpu.name)
    assert (engine["compute_capability"], engine["driver"]) == (gpu.compute_capability, gpu.driver)
    assert engine["options"] == dataclasses.asdict(EngineOptions())
    assert engine["fp32_nodes"] == 0
    assert len(engine["checks"]) == len(found.checks) > 10
    assert all(check["value"] <= check["tolerance"] for check in engine["checks"])
    assert found.command == [*f"depthface export {tiny.name} --weights random --precision fp32 --engine".split()]


def test_the_engine_is_served_under_the_same_names(tiny, exported):
    """What a client sees of the model is the same to the letter; only what is behind it differs."""
    folder = exported / tiny.networks[0].name
    onnx_config = text_format.Parse((folder / "config.pbtxt").read_text(), pb.ModelConfig())
    engine_config = text_format.Parse((folder / EXPORTED_CONFIG).read_text(), pb.ModelConfig())
    assert (engine_config.backend, engine_config.default_model_filename) == ("tensorrt", "model.plan")
    (group,) = engine_config.instance_group
    assert (group.count, group.kind, list(group.profile)) == (1, pb.ModelInstanceGroup.KIND_GPU, ["0", "1"])
    assert engine_config.parameters["weights"].string_value == "random, seed 0"
    for field in ("name", "input", "output", "max_batch_size", "dynamic_batching"):
        assert getattr(engine_config, field) == getattr(onnx_config, field)


def test_a_second_run_builds_nothing_and_another_wish_would(tiny, exported, run, monkeypatch):
    builds = engines.replace_tensorrt(monkeypatch)
    before = snapshot(exported)
    assert run(tiny, exported, engines=wanted())[0] == "unchanged"
    assert builds == []
    assert snapshot(exported) == before
    engine = manifest.read(version_folder(exported, tiny)).engine
    assert engine_stage.is_current(engine, EngineOptions())
    assert not engine_stage.is_current(engine, EngineOptions(optimization_level=5))
    engines.replace_tensorrt(monkeypatch, dataclasses.replace(engines.H200, tensorrt="11.5.0"))
    assert not engine_stage.is_current(engine, EngineOptions())


def test_a_network_may_be_left_to_onnx_runtime_and_its_name_must_be_right(tiny, tmp_path, run, monkeypatch):
    engines.replace_tensorrt(monkeypatch)
    (network,) = tiny.networks
    assert wanted(None, network.name).options_of(network) is None
    assert wanted().options_of(network) == EngineOptions()
    assert wanted().options_of(dataclasses.replace(network, profiles=())) is None
    with pytest.raises(ExportError, match=network.name):
        run(tiny, tmp_path, engines=wanted(None, "face_x_detector"))


def test_without_engine_again_the_export_is_stale(tiny, exported, monkeypatch):
    engines.replace_tensorrt(monkeypatch)
    (network,) = tiny.networks
    folder = version_folder(exported, tiny)
    assert pipeline._has_current_engine(manifest.read(folder), wanted().options_of(network))
    assert not pipeline._has_current_engine(manifest.read(folder), wanted(None, network.name).options_of(network))


def test_an_engine_that_fails_its_gate_changes_nothing(tiny, exported, run, monkeypatch):
    before = snapshot(exported)
    engines.replace_tensorrt(monkeypatch, spoil=lambda engine, outputs: {"depth": outputs["depth"] * np.nan})
    with pytest.raises(ParityError, match=r"engine gives depth that is not finite"):
        run(tiny, exported, engines=wanted(EngineOptions(optimization_level=1)))
    assert snapshot(exported) == before


@pytest.fixture(scope="module")
def half(tiny, tmp_path_factory) -> tuple[Source, Path]:
    """A tiny network in fp16: its reference, and its file."""
    source = random_sources(tiny, "fp16")[tiny.networks[0].name]
    path = tmp_path_factory.mktemp("half") / "model.onnx"
    onnx_stage.onnx_from_source(source, tiny.networks[0], path)
    return source, path


@pytest.fixture
def stage(tiny, half, tmp_path):
    """The engine stage on a copy of that file: what it gives, what it says, and the checks of one that it rewrote."""
    source, path = half
    shutil.copy(path, tmp_path / "model.onnx")

    def stage(precision: str = "fp16") -> tuple[dict, list[str], list[validate.Check]]:
        lines: list[str] = []
        making = making_of(tiny, source, tmp_path, precision=precision, engines=wanted(), report=lines.append)
        made, checks = engine_stage.engine_from_export(making, EngineOptions())
        return made, lines, checks

    return stage


def test_fp16_that_holds_stays_as_it_is(stage, half, tmp_path, monkeypatch):
    builds = engines.replace_tensorrt(monkeypatch)
    made, lines, checks = stage()
    assert len(builds) == 1
    assert checks == []
    assert made["fp32_nodes"] == 0
    assert lines[0].startswith("engine: ")
    assert (tmp_path / "model.onnx").read_bytes() == half[1].read_bytes()


def test_an_engine_that_computes_something_else_is_not_kept_in_fp32(stage, monkeypatch):
    builds = engines.replace_tensorrt(
        monkeypatch, spoil=lambda engine, outputs: {"depth": outputs["depth"] * np.float32(1.5)}
    )
    with pytest.raises(ParityError, match="engine does not equal its reference: max_error"):
        stage("fp32")
    assert len(builds) == 1


def overflowing(engine: bytes, outputs: dict) -> dict:
    """What TensorRT made of some depth networks: NaN, from attention scores in fp16."""
    return {"depth": outputs["depth"] * np.nan} if engines.has_half_softmax(engine) else outputs


def test_fp16_is_tried_once_more_with_attention_in_fp32(stage, tmp_path, monkeypatch):
    builds = engines.replace_tensorrt(monkeypatch, spoil=overflowing)
    made, lines, _ = stage()
    assert len(builds) == 2
    assert [line for line in lines if "not finite" in line]
    assert made["fp32_nodes"] >= 2 * 4  # four layers, each a product and a softmax
    assert all(check["value"] <= check["tolerance"] for check in made["checks"])
    assert made["sha256"] == manifest.sha256_of(tmp_path / "model.plan")
    assert not engines.has_half_softmax((tmp_path / "model.onnx").read_bytes())


def test_the_manifest_has_the_checks_of_the_file_that_was_rewritten(tiny, tmp_path, run, monkeypatch):
    engines.replace_tensorrt(monkeypatch, spoil=overflowing)
    run(tiny, tmp_path, precision="fp16", engines=wanted())
    folder = version_folder(tmp_path, tiny)
    found = manifest.read(folder)
    assert found.engine["fp32_nodes"] >= 2 * 4
    source = random_sources(tiny, "fp16")[tiny.networks[0].name]
    making = making_of(tiny, source, folder, precision="fp16")
    proven = validate.prove(making, validate.runner(folder / "model.onnx"))
    assert [check["value"] for check in found.checks] == pytest.approx([check.value for check in proven], rel=1e-6)


def test_fp16_that_fails_twice_fails_and_says_so(stage, monkeypatch):
    builds = engines.replace_tensorrt(monkeypatch, spoil=lambda engine, outputs: {"depth": outputs["depth"] * np.nan})
    with pytest.raises(ParityError, match=r"Neither does it with attention scores.*--precision fp32"):
        stage()
    assert len(builds) == 2


@pytest.mark.slow
def test_the_true_network_holds_fp16_with_attention_in_fp32(tmp_path):
    card = card_named("depth_anything_v2_small")
    network = card.networks[0]
    source = random_sources(card, "fp16")[network.name]
    onnx_stage.onnx_from_source(source, network, tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    assert engines.has_half_softmax(model.SerializeToString())

    names = precision.attention_scores(model) | precision.normalisations(model)
    raised = precision.in_fp32(model, names)
    kinds = {node.name: node.op_type for node in model.graph.node}
    assert sum(kinds[name] == "Softmax" for name in names) == card.architecture["num_hidden_layers"]
    assert sum(kinds[name] == "MatMul" for name in names) == card.architecture["num_hidden_layers"]
    inferred = onnx.shape_inference.infer_shapes(raised).graph
    floats = {value.name for value in inferred.value_info if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    for node in raised.graph.node:
        if node.op_type in ("Softmax", "LayerNormalization"):
            assert set(node.input) <= floats
    run = validate.runner(raised.SerializeToString())
    for checks in validate.validate(making_of(card, source, tmp_path, precision="fp16"), run):
        assert all(check.passed for check in checks)


def sum_of_squares(scale: float) -> onnx.ModelProto:
    """y = mean(((x · scale)²)) / scale², in fp16: the square overflows where scale is large."""
    half = TensorProto.FLOAT16
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "scale"], ["large"], name="scale"),
            helper.make_node("Mul", ["large", "large"], ["square"], name="square"),
            helper.make_node("Reshape", ["square", "shape"], ["flat"], name="flat"),
            helper.make_node("Div", ["flat", "scale"], ["once"], name="once"),
            helper.make_node("Div", ["once", "scale"], ["twice"], name="twice"),
            helper.make_node("Relu", ["twice"], ["y"], name="relu"),
        ],
        "squares",
        [helper.make_tensor_value_info("x", half, ["n", 4])],
        [helper.make_tensor_value_info("y", half, [None])],
        [
            helper.make_tensor("scale", half, [], [scale]),
            helper.make_tensor("shape", TensorProto.INT64, [1], [-1]),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_what_comes_near_the_limit_of_fp16_is_found_and_mended():
    model = sum_of_squares(400.0)
    x = np.array([[0.5, 1, 1.5, 2]], np.float16)
    with np.errstate(over="ignore"):
        assert np.isinf((x * np.float16(400)) ** 2).any()
    names = precision.near_overflow(model, [{"x": x}], validate.runner)
    assert names == {"square", "flat", "once"}
    raised = precision.in_fp32(model, names)
    y = validate.runner(raised.SerializeToString())({"x": x})["y"]
    assert y.dtype == np.float16
    np.testing.assert_allclose(y, (x**2).ravel(), rtol=2e-3)
    assert precision.near_overflow(sum_of_squares(2.0), [{"x": x}], validate.runner) == set()
