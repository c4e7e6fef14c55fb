"""No artefact is served that is not the exported one, and no engine that belongs to another machine."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from fixtures import tensorrt_bindings
from fixtures.serving import depthface

from depthface import manifest, verify
from depthface.machine import Gpu, Machine
from depthface.spec import EngineOptions
from depthface_server.repository import has_version_compatible_engine

MODEL = "depth_anything_v2_small"
NETWORK = f"{MODEL}_network"
HERE = Machine("10.16.1", (Gpu("NVIDIA H200", "9.0", "570.124.06"),))
COMMAND = ["depthface", "export", MODEL, "--weights", "random", "--precision", "fp32", "--engine"]


@pytest.fixture
def with_engine(repository: Path, tmp_path: Path) -> Path:
    """The shared repository with an engine in it, said to be of HERE; its bytes are nobody's."""
    target = Path(shutil.copytree(repository, tmp_path / "my models"))
    folder = target / NETWORK / "1"
    (folder / "model.plan").write_bytes(b"an engine")
    found = manifest.read(folder)
    gpu = HERE.gpus[0]
    engine = {
        "sha256": manifest.sha256_of(folder / "model.plan"),
        "tensorrt": HERE.tensorrt,
        "gpu": gpu.name,
        "compute_capability": gpu.compute_capability,
        "driver": gpu.driver,
        "options": dataclasses.asdict(EngineOptions()),
        "fp32_nodes": 0,
        "checks": [],
    }
    dataclasses.replace(found, engine=engine, command=COMMAND).write(folder)
    return target


def test_what_was_exported_verifies_without_asking_for_a_gpu(repository, tmp_path):
    """`nvidia-smi` would leave a file behind if it were called."""
    here = tensorrt_bindings.environment(tmp_path, gpu="x, 1.0, 1")
    called = tmp_path / "called"
    (tmp_path / "bin" / "nvidia-smi").write_text(f"#!/bin/sh\ntouch {called}\n")
    done = depthface("verify", "--repository", repository, **here)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{NETWORK}: model.onnx as exported, fp32" in done.stdout
    assert not called.exists()


def test_an_engine_verifies_on_the_machine_that_built_it(with_engine, tmp_path):
    here = tensorrt_bindings.environment(tmp_path, version=101601)
    done = depthface("verify", "--repository", with_engine, **here)
    assert (done.returncode, done.stderr) == (0, "")
    assert "engine of TensorRT 10.16.1 for NVIDIA H200, which is here" in done.stdout


@pytest.mark.parametrize(
    ("version", "gpu", "said"),
    [
        (None, None, "needs TensorRT 10.16.1, and there is none here; its engine needs an NVIDIA H200"),
        (110400, "NVIDIA H200, 9.0, 570.124.06", "built by TensorRT 10.16.1, and here is 11.4.0"),
        (101601, "NVIDIA L4, 8.9, 570.124.06", "built for NVIDIA H200 (compute capability 9.0), and here is NVIDIA L4"),
        (101601, "NVIDIA H200, 9.0, 580.65.06", "built under driver 570.124.06, and here is 580.65.06"),
    ],
)
def test_an_engine_of_another_machine_is_refused_with_the_command_that_mends_it(
    version, gpu, said, with_engine, tmp_path
):
    here = tensorrt_bindings.environment(tmp_path, version=version, gpu=gpu)
    command = f"  {' '.join(COMMAND)} --repository '{with_engine}'"
    # Serving refuses before it starts anything; the ports are nobody's.
    for arguments in (("verify",), ("serve", "--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")):
        done = depthface(*arguments, "--repository", with_engine, **here)
        assert done.returncode == 1
        assert said in done.stderr
        assert command in done.stderr.splitlines()
        assert "Traceback" not in done.stderr


def alter(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"?")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: alter(folder / "model.plan"), "model.plan is not the file that was exported"),
        (lambda folder: (folder / "model.plan").unlink(), "model.plan is not there"),
        (lambda folder: alter(folder / "model.onnx"), "model.onnx is not the file that was exported"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json cannot be read"),
    ],
)
def test_a_changed_artefact_is_refused(change, said, with_engine, tmp_path):
    change(with_engine / NETWORK / "1")
    here = tensorrt_bindings.environment(tmp_path, version=101601)
    done = depthface("verify", "--repository", with_engine, **here)
    assert done.returncode == 1
    assert f"{NETWORK}: {said}" in done.stderr
    assert "depthface export" in done.stderr


def test_an_engine_that_no_manifest_knows_is_refused(repository, tmp_path):
    target = Path(shutil.copytree(repository, tmp_path / "models"))
    (target / NETWORK / "1" / "model.plan").write_bytes(b"from somewhere")
    done = depthface("verify", "--repository", target)
    assert done.returncode == 1
    assert "model.plan is there, and its manifest does not know it" in done.stderr


def test_an_empty_repository_is_no_success(tmp_path):
    assert depthface("verify", "--repository", tmp_path).returncode == 1


def test_triton_is_told_to_trust_a_version_compatible_engine_and_no_other(with_engine):
    folder = with_engine / NETWORK / "1"
    assert not has_version_compatible_engine(with_engine)
    found = manifest.read(folder)
    found.engine["options"]["version_compatible"] = True
    found.write(folder)
    assert has_version_compatible_engine(with_engine)


def problems(here: Machine, **options: object) -> list[str]:
    gpu = HERE.gpus[0]
    facts = {
        "tensorrt": HERE.tensorrt,
        "gpu": gpu.name,
        "compute_capability": gpu.compute_capability,
        "driver": gpu.driver,
        "options": dataclasses.asdict(dataclasses.replace(EngineOptions(), **options)),
    }
    return verify.engine_problems(json.loads(json.dumps(facts)), here)


@pytest.mark.parametrize(
    ("tensorrt", "plain", "compatible"),
    [
        ("10.16.1", True, True),
        ("10.16.2", False, True),
        ("10.17.0", False, True),
        ("11.4.0", False, True),
        ("12.0.0", False, False),
        ("10.15.9", False, False),
        (None, False, False),
    ],
)
def test_version_compatible_means_later_and_at_most_one_major(tensorrt, plain, compatible):
    here = dataclasses.replace(HERE, tensorrt=tensorrt)
    assert (problems(here) == []) is plain
    assert (problems(here, version_compatible=True) == []) is compatible


@pytest.mark.parametrize(
    ("gpu", "capability", "fits"),
    [
        ("NVIDIA H200", "9.0", {"none", "same_compute_capability", "ampere_plus"}),
        ("NVIDIA H100", "9.0", {"same_compute_capability", "ampere_plus"}),
        ("NVIDIA A10", "8.6", {"ampere_plus"}),
        ("NVIDIA B200", "10.0", {"ampere_plus"}),
        ("Tesla T4", "7.5", set()),
    ],
)
def test_hardware_compatible_means_what_it_says(gpu, capability, fits):
    here = Machine(HERE.tensorrt, (Gpu(gpu, capability, HERE.gpus[0].driver),))
    for level in ("none", "same_compute_capability", "ampere_plus"):
        assert (problems(here, hardware_compatible=level) == []) is (level in fits), level


def test_every_gpu_must_fit_and_a_patch_of_the_driver_is_no_matter():
    other = Gpu("NVIDIA L4", "8.9", "570.124.06")
    assert problems(Machine(HERE.tensorrt, (*HERE.gpus, other)))
    assert not problems(Machine(HERE.tensorrt, (Gpu("NVIDIA H200", "9.0", "570.999.01"),)))
