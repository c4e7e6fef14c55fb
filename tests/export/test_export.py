"""The stages together: what is made, what is proven, and that a failure changes nothing."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from export.conftest import snapshot
from fixtures.exporting import job_of, random_sources, started_apart
from fixtures.imports import HEAVY, imported_by
from fixtures.machine import HAS_BF16
from fixtures.serving import depthface
from fixtures.users import as_nobody, for_everybody

from depthface import config, manifest
from depthface.contract import CONTRACT
from depthface.errors import ExportError, ParityError
from depthface.families import all_cards
from depthface.families.depth_anything_v2 import parity
from depthface.spec import ModelCard
from depthface_export import onnx as onnx_stage
from depthface_export import staging
from depthface_standins.depth_anything_v2 import random_model
from depthface_standins.insightface import synthetic


@pytest.fixture
def exported(tiny_repository) -> Path:
    return tiny_repository


@pytest.mark.parametrize(("size", "parameters"), [("small", 24_785_089), ("base", 97_470_785), ("large", 335_315_649)])
def test_random_weights_have_the_true_architecture(size, parameters):
    with torch.device("meta"):
        model = random_model(all_cards()[f"depth_anything_v2_{size}"])
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_random_weights_are_the_same_every_time(tiny):
    a, b, other = (random_model(tiny, seed).head.conv1.weight for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, other)


def test_the_graph_varies_in_batch_height_and_width(tiny, exported):
    """The unpatched head exports as static without an error: every shape here differs from the traced one."""
    path = exported / tiny.networks[0].name / "1" / "model.onnx"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    source = random_sources(tiny)[tiny.networks[0].name]
    random = np.random.default_rng(0)
    for shape in ((1, 518, 518, 3), (2, 140, 168, 3), (5, 14, 14, 3), (1, 70, 700, 3), (3, 700, 70, 3)):
        pixels = random.integers(0, 256, shape, dtype=np.uint8)
        (depth,) = session.run(None, {"pixels": pixels})
        assert depth.shape == shape[:3]
        error = np.abs(depth - source.reference(pixels)).max()
        assert error < tiny.tolerances["fp32"]["max_error"] * np.ptp(depth)


def test_the_file_is_plain_and_tells_nothing_of_this_machine(tiny, exported):
    path = exported / tiny.networks[0].name / "1" / "model.onnx"
    model = onnx.load(path)
    onnx.checker.check_model(model)
    assert model.ir_version == onnx_stage.IR_VERSION
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": onnx_stage.OPSET}
    for place in (Path(__file__).parents[2], sys.prefix, Path(torch.__file__).parent, "site-packages"):
        assert str(place).encode() not in path.read_bytes()
    assert not [node for node in model.graph.node if node.op_type == "IsNaN"]  # the attention mask


def test_the_manifest_says_where_it_came_from_and_what_was_proven(tiny, exported):
    folder = exported / tiny.networks[0].name / "1"
    found = manifest.read(folder)
    assert found is not None
    assert not found.differences(folder)
    assert found.weights == {"origin": "random, seed 0", "sha256": {}}
    assert found.license is None
    assert found.serves == {tiny.name: [tiny.networks[0].name]}
    assert found.exporters["torch"] == version("torch")
    shapes = {check["case"] for check in found.checks}
    assert len(shapes) >= 4
    assert {case.split("×")[0] for case in shapes} == {"1", "3"}
    for check in found.checks:
        assert check["value"] <= check["tolerance"] == tiny.tolerances["fp32"][check["metric"]]


def test_a_changed_file_is_not_what_the_manifest_describes(tiny, exported, tmp_path):
    folder = exported / tiny.networks[0].name / "1"
    (tmp_path / "manifest.json").write_bytes((folder / "manifest.json").read_bytes())
    (tmp_path / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:-1] + b"?")
    assert manifest.read(tmp_path).differences(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"serves": "x"}))
    assert manifest.read(tmp_path) is None


@pytest.mark.parametrize("contract", [0, CONTRACT + 1])
def test_what_another_depthface_laid_out_is_laid_out_anew_round_the_same_network(
    contract, tiny, exported, tmp_path, run
):
    copy = Path(shutil.copytree(exported, tmp_path / "copy"))
    for path in (copy / tiny.name).rglob("*.pbtxt"):
        found = config.read(path)
        config.set_parameters(found, dataclasses.replace(config.parameters_of(found), contract=contract))
        path.write_text(config.text_from_config(found))
    network = copy / tiny.networks[0].name / "1" / "model.onnx"
    before = network.stat().st_ino
    outcome, lines = run(tiny, copy)
    assert outcome == "exported"
    assert [line.partition(" was laid out")[0] for line in lines] == [f"anew: {tiny.name}"]
    assert network.stat().st_ino == before
    assert snapshot(copy / tiny.name) == snapshot(exported / tiny.name)


def test_a_second_run_changes_nothing(tiny, exported, run):
    before = snapshot(exported)
    outcome, lines = run(tiny, exported)
    assert (outcome, lines) == ("unchanged", [])
    assert snapshot(exported) == before


class Wanted(Exception):
    """The export went to work."""


@pytest.fixture
def goes_to_work(monkeypatch):
    """Whether an export has anything to do; it is stopped before it does it."""
    from depthface_export import pipeline

    def stop(*_: object) -> None:
        raise Wanted

    monkeypatch.setattr(pipeline, "_make", stop)

    def goes_to_work(card: ModelCard, target: Path, **wish: object) -> bool:
        try:
            return pipeline.export(job_of(card, target, **wish)) != "unchanged"
        except Wanted:
            return True

    return goes_to_work


def test_a_changed_wish_is_a_new_export(tiny, exported, goes_to_work, tmp_path):
    assert not goes_to_work(tiny, exported)
    for precision in ("fp16", "bf16"):
        assert goes_to_work(tiny, exported, precision=precision)
    random_model(tiny, 3).save_pretrained(tmp_path / "mine")
    assert goes_to_work(tiny, exported, weights=str(tmp_path / "mine"))
    assert not goes_to_work(tiny, exported)


def test_the_command_exports_all_that_is_named_as_it_is_told(tmp_path):
    """A pack by its name and a folder of one file, which is its own weights."""
    mine, target = tmp_path / "mine", tmp_path / "repository"
    mine.mkdir()
    onnx.save(synthetic.detector(), mine / "det.onnx")
    precision = "bf16" if HAS_BF16 else "fp32"
    options = ("--weights", "synthetic", "--precision", precision, "--accept-license", "--repository", target)
    done = depthface("export", "buffalo_sc", mine, *options)
    assert done.returncode == 0, done.stderr
    made = {path.parents[1].name: manifest.read(path.parent) for path in target.glob("*/1/manifest.json")}
    origins = {name: found.weights["origin"] for name, found in made.items()}
    assert origins == {
        "face_buffalo_sc_detector": "synthetic",
        "face_buffalo_sc_recognizer": "synthetic",
        "face_mine_detector": "folder mine",
    }
    assert {found.precision for found in made.values()} == {precision}
    assert [name for name in ("buffalo_sc", "mine") if f"{name}  exported to {target}" in done.stdout] == [
        "buffalo_sc",
        "mine",
    ]


def test_fp16_holds_its_tolerance_and_its_many_depths(tiny, tmp_path, run):
    run(tiny, tmp_path, precision="fp16")
    path = tmp_path / tiny.networks[0].name / "1" / "model.onnx"
    types = {tensor.data_type for tensor in onnx.load(path).graph.initializer}
    assert onnx.TensorProto.FLOAT16 in types
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (depth,) = session.run(None, {"pixels": np.random.default_rng(0).integers(0, 256, (1, 280, 280, 3), np.uint8)})
    assert depth.dtype == np.float32
    assert len(np.unique(depth)) > 10_000  # with the last convolution in fp16: about 2,000


def test_a_failed_check_names_itself_and_leaves_the_repository_as_it_was(tiny, stale, run):
    strict = dataclasses.replace(tiny, tolerances={"fp32": {"max_error": 0.0, "mean_error": 1.0, "delta1_loss": 1.0}})
    before = snapshot(stale)
    with pytest.raises(ParityError, match="max_error"):
        run(strict, stale)
    assert snapshot(stale) == before


def test_a_value_that_is_not_finite_fails_every_tolerance():
    good = np.random.default_rng(0).random((1, 14, 14)).astype(np.float32)
    bad = good.copy()
    bad[0, 3, 3] = np.nan
    assert set(parity.measure(good, bad).values()) == {float("inf")}
    assert set(parity.measure(good, good).values()) == {0.0}


def test_two_exports_into_one_repository_do_not_mix(tiny, tmp_path, run):
    with staging.stage(tmp_path), pytest.raises(ExportError, match="Another export"):
        run(tiny, tmp_path)


def test_what_a_killed_export_left_is_swept_away(tmp_path):
    leftover = tmp_path / ".export" / "build-old"
    leftover.mkdir(parents=True)
    (leftover / "model.onnx").write_bytes(b"half")
    with staging.stage(tmp_path) as build:
        assert build.is_dir()
        assert not leftover.exists()
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_swept_away_is_said_and_keeps_no_export_from_its_work():
    """Another user's, or on NFS: a file that a server has open."""
    with for_everybody() as repository:
        leftover = repository / ".export" / "build-old"
        leftover.mkdir(parents=True)
        leftover.parent.chmod(0o777)
        (leftover / "model.onnx").write_bytes(b"half")
        leftover.chmod(0o555)
        said: list[str] = []
        with as_nobody(), staging.stage(repository, said.append) as build:
            assert build.is_dir()
        assert [path.name for path in leftover.parent.iterdir()] == ["build-old"]
        (line,) = said
        assert line.startswith(f"{leftover} stays")
        leftover.chmod(0o755)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_said(number, tmp_path, monkeypatch):
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(staging.fcntl, "flock", flock)
    with (
        pytest.raises(ExportError, match=r"has no locks .* Export to a folder of this machine"),
        staging.stage(tmp_path),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_a_repository_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    done = depthface(
        "export", "depth_anything_v2_small", "--weights", "random", "--repository", tmp_path / "file" / "x"
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert "Traceback" not in done.stderr


def test_an_unchanged_export_takes_seconds(true_repository):
    """It does not even import what the work would be done with."""
    arguments = ("export", "depth_anything_v2_small", "--weights", "random", "--repository", true_repository)
    done, packages = imported_by(*arguments)
    assert "depthface_export" in packages
    assert not packages & HEAVY
    assert "unchanged" in done.stdout
    assert "RANDOM WEIGHTS" in done.stdout


@pytest.fixture
def stale(exported, tmp_path) -> Path:
    """The tiny network of older code, so that it is to be exported anew."""
    copy = Path(shutil.copytree(exported, tmp_path / "stale"))
    (path,) = copy.glob("*/1/manifest.json")
    path.write_text(path.read_text().replace('"onnx": "', '"onnx": "old'))
    return copy


@pytest.mark.parametrize("stage", ["weights:", "onnx:", "1×518×518", "repository:"])
def test_kill_minus_nine_leaves_what_was_served_before(stage, tiny, stale, shared):
    """A killed export at each stage: the one that was there is whole and can be told so."""
    network_folder = stale / tiny.networks[0].name
    before = snapshot(network_folder)
    killed = started_apart(shared, stale, "tiny")
    assert killed.stdout is not None
    assert any(stage in line for line in killed.stdout)
    killed.send_signal(signal.SIGKILL)
    status = killed.wait()
    killed.stdout.close()
    # A busy machine may let it end first; and "repository:" is said just before the exchange.
    assert status in (-signal.SIGKILL, 0)
    assert snapshot(network_folder) == before or status == 0 or stage == "repository:"
    assert not manifest.read(network_folder / "1").differences(network_folder / "1")


def test_kill_minus_nine_in_the_middle_of_the_exchange(tmp_path):
    """Kill a process that exchanges two folders without end: at every moment one of the two is whole in place."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for file in ("x", "y"):
            (tmp_path / name / file).write_text(name)
    code = (
        "import sys; from pathlib import Path; from depthface_export.staging import install\n"
        "while True: install(Path(sys.argv[1], 'a'), Path(sys.argv[1], 'b')); print('.', flush=True)"
    )
    for delay_s in (0.0, 0.003, 0.007, 0.011):
        process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay_s)
        process.kill()
        process.wait()
        process.stdout.close()
        contents = {name: {(tmp_path / name / file).read_text() for file in ("x", "y")} for name in ("a", "b")}
        assert sorted(map(sorted, contents.values())) == [["a"], ["b"]]
