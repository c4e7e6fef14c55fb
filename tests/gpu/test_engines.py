"""On a GPU: engines of both families are built, gated and served, and clients see no difference but speed.

Run in the container that serves (`make test-gpu`); elsewhere each test says what it lacks.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from fixtures.exporting import random_sources
from fixtures.photos import VARIETY
from fixtures.serving import depthface, serving

from depthface import machine, manifest
from depthface.contract import MANIFEST_FILE
from depthface.errors import EngineError
from depthface.families import card_named
from depthface.families.depth_anything_v2 import parity, processing
from depthface_client import Client
from depthface_standins.insightface import scenes

pytestmark = pytest.mark.gpu

DEPTH = "depth_anything_v2_small"
PHOTOS = ("landscape JPEG", "portrait JPEG", "square PNG", "tiny 40×30", "wide 3:1")


@pytest.fixture(scope="module", autouse=True)
def here() -> machine.Machine:
    """This machine, if engines can be built on it."""
    from depthface_export import tensorrt

    try:
        return tensorrt.require()
    except EngineError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def tensorrt_backend() -> None:
    """Triton's own TensorRT backend, which the embedded server's wheel does not carry."""
    if not Path("/opt/tritonserver/backends/tensorrt").is_dir():
        pytest.skip("Triton's TensorRT backend is not here; NVIDIA's tritonserver image has it.")


def exported(target: Path, *arguments: str) -> Path:
    done = depthface("export", *arguments, "--engine", "--repository", target, timeout_s=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
    return target


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def depth_repository(request, tmp_path_factory) -> tuple[str, Path]:
    target = tmp_path_factory.mktemp(request.param) / "model_repository"
    return request.param, exported(target, DEPTH, "--weights", "random", "--precision", request.param)


@pytest.fixture(scope="module")
def face_repository(tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("faces") / "model_repository"
    return exported(target, "buffalo_l", "--weights", "synthetic")


def test_depth_is_built_gated_and_belongs_here(depth_repository, here):
    precision, repository = depth_repository
    folder = repository / f"{DEPTH}_network" / "1"
    found = manifest.read(folder)
    assert not found.differences(folder)
    assert (found.engine["tensorrt"], found.engine["gpu"]) == (here.tensorrt, here.gpus[0].name)
    tolerances = card_named(DEPTH).tolerances[precision]
    assert len(found.engine["checks"]) == 15
    for check in found.engine["checks"]:
        assert check["value"] <= tolerances[check["metric"]]
    assert depthface("verify", "--repository", repository).returncode == 0


def test_a_second_export_finds_it_done(depth_repository):
    precision, repository = depth_repository
    arguments = (DEPTH, "--weights", "random", "--precision", precision, "--engine", "--repository", repository)
    assert "unchanged" in depthface("export", *arguments).stdout


def test_an_engine_of_another_tensorrt_is_refused(depth_repository, tmp_path):
    _, repository = depth_repository
    target = Path(shutil.copytree(repository, tmp_path / "model_repository"))
    path = target / f"{DEPTH}_network" / "1" / MANIFEST_FILE
    found = manifest.read(path.parent)
    found.engine["tensorrt"] = "10.0.0"
    found.write(path.parent)
    done = depthface("serve", "--repository", target)
    assert done.returncode == 1
    assert "was built by TensorRT 10.0.0" in done.stderr
    assert "depthface export" in done.stderr


@pytest.mark.usefixtures("tensorrt_backend")
def test_depth_is_served_within_the_card(depth_repository):
    precision, repository = depth_repository
    card = card_named(DEPTH)
    reference = random_sources(card)[card.networks[0].name].reference
    with serving(repository) as server, Client(server.host) as client:
        for name in PHOTOS:
            pixels, _ = processing.preprocess(VARIETY[name])
            measured = parity.measure(reference(pixels[None]), client.depth(VARIETY[name]).array[None])
            for metric, value in measured.items():
                assert value <= card.tolerances[precision][metric], (name, metric)


def test_faces_are_built_and_gated(face_repository):
    networks = card_named("buffalo_l").networks
    for each in networks:
        folder = face_repository / each.name / "1"
        found = manifest.read(folder)
        assert not found.differences(folder)
        assert found.engine["checks"]


@pytest.mark.usefixtures("tensorrt_backend")
def test_faces_are_served_as_without_engines(face_repository, tmp_path_factory):
    """Drawn scenes through engines and through ONNX Runtime: the same faces, boxes and embeddings."""
    plain = tmp_path_factory.mktemp("plain") / "model_repository"
    done = depthface("export", "buffalo_l", "--weights", "synthetic", "--repository", plain)
    assert done.returncode == 0, done.stderr
    pictures = [scenes.draw_crowd(count).image for count in (1, 6, 40)]
    answers = []
    for repository in (plain, face_repository):
        with serving(repository) as server, Client(server.host) as client:
            answers.append([client.faces(picture, model="face_analysis_buffalo_l") for picture in pictures])
    for expected, got in zip(*answers, strict=True):
        assert len(expected) == len(got)
        for a, b in zip(expected, got, strict=True):
            np.testing.assert_allclose(b.box, a.box, atol=0.01)
            assert float(np.dot(a.embedding, b.embedding)) > 1 - 1e-4
