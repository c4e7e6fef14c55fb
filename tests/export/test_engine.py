"""The engine stage in the pipeline: gated before it may serve, fp16 tried once more, nothing changed by a failure.

TensorRT's place is taken by `fixtures.engines`; all else is the real pipeline, ONNX Runtime and torch.
"""

from __future__ import annotations

import dataclasses
import errno
import io
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from export.conftest import snapshot
from fixtures import engines, tensorrt_bindings
from fixtures.exporting import job_of, making_of, random_sources
from fixtures.imports import HEAVY, imported_by
from fixtures.serving import depthface
from google.protobuf import text_format
from onnx import TensorProto, helper
from tritonclient.grpc import model_config_pb2 as pb

from depthface import machine, manifest
from depthface.contract import EXPORTED_CONFIG
from depthface.errors import EngineError, ExportError, ParityError, ServeError
from depthface.families import card_named
from depthface.spec import EngineOptions, Source
from depthface_export import engine as engine_stage
from depthface_export import onnx as onnx_stage
from depthface_export import pipeline, precision, validate
from depthface_export.cli import export
from depthface_export.job import Engines
from depthface_export.progress import Display


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


def test_the_command_that_is_kept_is_the_one_that_was_typed(tmp_path):
    card = card_named("buffalo_l")
    options = EngineOptions(version_compatible=True, hardware_compatible="ampere_plus", workspace_mib=512)
    engines_wanted = wanted(options, "face_buffalo_l_detector")
    typed = job_of(card, tmp_path, "hub", accepts_license=True, engines=engines_wanted).command
    assert " ".join(typed) == (
        "depthface export buffalo_l --weights hub --precision fp32 --accept-license --engine "
        "--without-engine face_buffalo_l_detector --version-compatible --hardware-compatible ampere_plus "
        "--workspace-mib 512"
    )
    # And it is one that the command line takes: here it gets as far as finding no GPU.
    done = depthface(*typed[1:], "--repository", tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert "TensorRT" in done.stderr


def test_without_tensorrt_an_engine_is_refused_at_once_in_one_sentence(tmp_path):
    """Before anything is imported that the work would be done with."""
    arguments = ("export", "depth_anything_v2_small", "--weights", "random", "--repository", tmp_path, "--engine")
    done, packages = imported_by(*arguments)
    assert "depthface_export" in packages
    assert not packages & HEAVY
    assert done.returncode == 1
    assert done.stderr.startswith("Error: TensorRT's Python package is not here")
    assert not list(tmp_path.iterdir())
    # With TensorRT and no GPU, the GPU is what is missing.
    here = tensorrt_bindings.environment(tmp_path / "here", version=110400, gpu=None)
    here["PYTHONPATH"] = str(tensorrt_bindings.folder(11))
    done = depthface(*arguments, **here)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: There is no NVIDIA GPU here")


def test_a_cache_that_cannot_be_written_is_told_at_once_and_by_its_name(tmp_path):
    """Not after minutes, as a disk of the repository that is full."""
    here = tensorrt_bindings.environment(tmp_path, version=110400)
    here["PYTHONPATH"] = str(tensorrt_bindings.folder(11))
    (tmp_path / "cache").write_text("no folder")
    arguments = ("export", "depth_anything_v2_small", "--weights", "random", "--engine")
    done = depthface(*arguments, "--repository", tmp_path / "repository", **here)
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: {tmp_path}/cache/depthface/tensorrt cannot be written (Not a directory)")
    assert "XDG_CACHE_HOME" in done.stderr
    assert not (tmp_path / "repository").exists()


def test_a_cache_that_is_there_and_read_only_cannot_be_written_either(monkeypatch, tmp_path):
    from depthface_export import tensorrt

    def read_only(dir: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(dir / "x"))

    (tmp_path / "depthface" / "tensorrt").mkdir(parents=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(machine, "read", lambda: engines.H200)
    monkeypatch.setattr(tensorrt, "_tensorrt", lambda: None)
    assert tensorrt.require() == engines.H200
    monkeypatch.setattr(tensorrt.tempfile, "TemporaryFile", read_only)
    with pytest.raises(ServeError, match=r"depthface/tensorrt cannot be written \(Read-only file system\)"):
        tensorrt.require()


def test_options_of_engines_need_engine():
    done = depthface("export", "depth_anything_v2_small", "--optimization-level", "5")
    assert done.returncode == 2
    assert "need --engine" in done.stderr


def test_a_tensorrt_that_cannot_build_says_why_and_how_to_go_on(tmp_path):
    """The real Polygraphy under the real bindings, whose builder is null: nothing is written."""
    (tmp_path / "model.onnx").write_bytes(b"")
    code = (
        "from pathlib import Path; import sys\n"
        "from depthface.families import card_named; from depthface.spec import EngineOptions\n"
        "from depthface_export import tensorrt; from depthface.errors import EngineError\n"
        "from fixtures.engines import NoPhases; import fixtures.tensorrt_bindings as real\n"
        "import tensorrt_bindings as trt\n"
        "network = card_named('depth_anything_v2_small').networks[0]\n"
        "made = real.stand_in(trt, network)\n"
        "made.builder.build_serialized_network.side_effect = None\n"
        "made.builder.build_serialized_network.return_value = None\n"
        "folder = Path(sys.argv[1])\n"
        "try: tensorrt.engine_from_onnx(folder / 'model.onnx', folder / 'model.plan', network, EngineOptions(), "
        "NoPhases())\n"
        "except EngineError as error: print(error)"
    )
    done = tensorrt_bindings.run_code(11, tmp_path, code, str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("TensorRT 11.4.0.106 cannot build depth_anything_v2_small_network: Invalid Engine")
    assert "--without-engine depth_anything_v2_small_network" in done.stdout
    assert not (tmp_path / "model.plan").exists()


@pytest.mark.parametrize("moment", ["start", "advance", "finish"])
def test_an_interrupt_ends_a_build_and_never_leaves_it_as_an_exception(tmp_path, moment):
    """TensorRT calls our code in the middle of its own: what left it would end the process."""
    (tmp_path / "model.onnx").write_bytes(b"")
    code = (
        "import signal, sys\n"
        "from pathlib import Path\n"
        "from depthface.families import card_named; from depthface.spec import EngineOptions\n"
        "from depthface_export import tensorrt\n"
        "from fixtures.engines import NoPhases; import fixtures.tensorrt_bindings as real\n"
        "import tensorrt_bindings as trt\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "network, phases, told = card_named('depth_anything_v2_small').networks[0], NoPhases(), []\n"
        "setattr(phases, sys.argv[2], lambda *_: signal.raise_signal(signal.SIGINT) or True)\n"
        "def build(definition, config):\n"
        "    monitor = config.progress_monitor\n"
        "    monitor.phase_start('Building Engine', None, 2)\n"
        "    goes_on = monitor.step_complete('Building Engine', 0)\n"
        "    monitor.phase_finish('Building Engine')\n"
        "    told.append(goes_on)\n"
        "made = real.stand_in(trt, network)\n"
        "made.builder.build_serialized_network.side_effect = build\n"
        "files = [Path(sys.argv[1], name) for name in ('model.onnx', 'model.plan')]\n"
        "try: tensorrt.engine_from_onnx(*files, network, EngineOptions(), phases)\n"
        "except KeyboardInterrupt: print('interrupted', told)"
    )
    done = tensorrt_bindings.run_code(11, tmp_path, code, str(tmp_path), moment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"interrupted {[moment == 'finish']}"
    assert not (tmp_path / "model.plan").exists()


def test_progress_is_shown_phase_by_phase():
    from rich.console import Console

    shown = io.StringIO()
    with Display(Console(force_terminal=True, width=100, file=shown), "model") as display:
        display.say("engine: model")
        display.start("Building Engine", None, 4)
        display.start("Timing", "Building Engine", 2)
        assert display.advance("Timing", 0)
        display._progress.refresh()
        display.finish("Timing")
        display.finish("Building Engine")
    text = shown.getvalue()
    assert ("Building Engine" in text, "Timing" in text, "1/2" in text) == (True, True, True)


def test_a_build_is_shown_though_what_is_printed_meanwhile_is_not(monkeypatch, tmp_path):
    from depthface_export import tensorrt

    def build(job):
        with tensorrt._capture_output() as log:
            print("TensorRT's own words")
            job.report("engine: it is built")
            job.engines.phases.start("Building Engine", None, 4)
            job.engines.phases._progress.refresh()
            assert log.getvalue() == "TensorRT's own words\n"
        return "unchanged"

    monkeypatch.setattr(pipeline, "export", build)
    words = ["depth_anything_v2_small", "--weights", "random", "--engine", "--repository", str(tmp_path)]
    done = CliRunner(env={"FORCE_COLOR": "1", "TERM": "xterm"}).invoke(export, words)
    assert done.exit_code == 0, done.output
    assert ("engine: it is built" in done.output, "Building Engine" in done.output) == (True, True)
    assert "TensorRT's own words" not in done.output


def test_a_wrong_version_is_named(monkeypatch):
    import sys
    from types import SimpleNamespace

    from depthface_export import tensorrt

    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="8.6.1"))
    monkeypatch.setattr(machine, "read", lambda: engines.H200)
    with pytest.raises(EngineError, match=r"TensorRT 8\.6\.1 is here"):
        tensorrt.require()
