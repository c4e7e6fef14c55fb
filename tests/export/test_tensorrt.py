"""What is said to TensorRT, under the real bindings of both majors, and the shapes that its engines are built for."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from fixtures import tensorrt_bindings
from onnx import TensorProto

from depthface import machine
from depthface.errors import EngineError
from depthface.families import all_cards, card_named
from depthface.families.depth_anything_v2 import parity, processing
from depthface.families.insightface import processing as faces
from depthface.spec import Source
from depthface.tasks.faces import DET_SIZE_AUTO
from depthface_export import tensorrt, validate

SOURCE = Path(tensorrt.__file__)
DEPTH = card_named("depth_anything_v2_small")
MAX_TOP_K = 3840
"""Of ITopKLayer (docs.nvidia.com/deeplearning/tensorrt/operators, TopK)."""


def names() -> set[str]:
    """Every `trt.…` of the module, dotted."""
    found = set()
    for node in ast.walk(ast.parse(SOURCE.read_text())):
        if isinstance(node, ast.Attribute):
            parts, inner = [node.attr], node.value
            while isinstance(inner, ast.Attribute):
                parts.append(inner.attr)
                inner = inner.value
            if isinstance(inner, ast.Name) and inner.id == "trt":
                found.add(".".join(reversed(parts)))
    return found


def built(major: int, place: Path, network: str = DEPTH.networks[0].name, **options: object) -> dict:
    """What the builder was told, by the real `engine_from_onnx`, the real Polygraphy and the real bindings."""
    (place / "model.onnx").write_bytes(b"read by the parser alone")
    card = next(card for card in all_cards().values() if network in [each.name for each in card.networks])
    arguments = [str(place / "model.onnx"), str(place / "model.plan"), card.name, network, json.dumps(options)]
    done = tensorrt_bindings.run(major, place, *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("major", tensorrt_bindings.MAJORS)
def test_every_name_is_in_the_real_bindings(major, tmp_path):
    assert {"IProgressMonitor", "MemoryPoolType.WORKSPACE", "HardwareCompatibilityLevel.AMPERE_PLUS"} <= names()
    code = (
        "import tensorrt_bindings as trt, operator, sys\n"
        "assert not hasattr(trt, 'IProgressMonitors')\n"
        "print(trt.__version__, [n for n in sys.argv[1:] if operator.attrgetter(n)(trt) is None])"
    )
    here = tensorrt_bindings.environment(tmp_path, version=tensorrt_bindings.VERSIONS[major])
    path = {"PYTHONPATH": str(tensorrt_bindings.folder(major))}
    done = subprocess.run(
        [sys.executable, "-c", code, *sorted(names())],
        env=os.environ | here | path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{major}.") and done.stdout.strip().endswith("[]")


def test_no_builder_flag_speaks_of_precision():
    """TensorRT 11 has none; what a flag would say, the ONNX file says."""
    assert not [name for name in names() if "BuilderFlag" in name or "Quantization" in name]


@pytest.mark.parametrize("major", tensorrt_bindings.MAJORS)
def test_an_engine_is_strongly_typed_and_without_tf32(major, tmp_path):
    """Every attribute that Polygraphy and we read or set is one that the class of this major has."""
    told = built(major, tmp_path)
    assert told["version"].startswith(f"{major}.")
    assert told["network_flags"] == told["strongly_typed"]
    assert (told["cleared"], told["set"], told["pools"]) == (["BuilderFlag.TF32"], [], [])
    assert told["hardware"] == "HardwareCompatibilityLevel.NONE"
    assert told["level"] == "left alone"
    assert (tmp_path / "model.plan").read_bytes() == tensorrt_bindings.PLAN
    assert told["profiles"] == [
        {"pixels": [[1, 14, 14, 3], [1, 518, 686, 3], [8, 518, 1554, 3]]},
        {"pixels": [[1, 14, 14, 3], [1, 686, 518, 3], [8, 1554, 518, 3]]},
    ]


@pytest.mark.parametrize("major", tensorrt_bindings.MAJORS)
def test_options_reach_the_builder_and_progress_comes_back(major, tmp_path):
    told = built(
        major,
        tmp_path,
        "face_buffalo_l_detector",
        version_compatible=True,
        hardware_compatible="ampere_plus",
        workspace_mib=512,
        optimization_level=5,
    )
    assert told["set"] == ["BuilderFlag.VERSION_COMPATIBLE"]
    assert told["hardware"] == "HardwareCompatibilityLevel.AMPERE_PLUS"
    assert told["pools"] == [["MemoryPoolType.WORKSPACE", 512 << 20]]
    assert told["level"] == 5
    (profile,) = told["profiles"]
    assert profile["pixels"] == [[1, 32, 32, 3], [1, 640, 640, 3], [8, 1920, 1920, 3]]
    assert profile["pixels_small"] == [[1, 32, 32, 3], [1, 128, 128, 3], [8, 128, 128, 3]]
    assert profile["min_score"] == [[1, 1], [1, 1], [8, 1]]
    assert told["heard"] == [
        ["start", "Building Engine", None, 2],
        ["start", "Timing", "Building Engine", 1],
        ["advance", "Timing", 0],
        ["finish", "Timing"],
        ["advance", "Building Engine", 0],
        ["finish", "Building Engine"],
    ]


def test_timings_are_kept_by_version_and_gpu(tmp_path):
    built(11, tmp_path)
    (kept,) = (tmp_path / "cache").rglob("*.timings")
    assert kept.read_bytes() == b"timings"
    assert kept.name == "11.4.0.106-nvidia-h200-9.0.timings"


@pytest.mark.parametrize(("major", "version"), [(10, "10.16.1"), (11, "11.4.0")])
def test_a_machine_says_what_it_has(major, version, tmp_path):
    here = tensorrt_bindings.environment(tmp_path, version=tensorrt_bindings.VERSIONS[major])
    code = "from depthface import machine; print(machine.read())"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | here, capture_output=True, text=True, check=True
    )
    gpu = machine.Gpu("NVIDIA H200", "9.0", "570.124.06")
    assert done.stdout.strip() == str(machine.Machine(version, (gpu,)))


def test_a_photo_of_any_shape_fits_an_engine():
    network = DEPTH.networks[0]
    random = np.random.default_rng(0)
    sizes = [(40, 30), (518, 1554), (1554, 518), (4000, 3000), (300, 3000), (14, 140), (2000, 200), (519, 517)]
    sizes += [tuple(size) for size in random.integers(14, 6000, (500, 2))]
    for height, width in sizes:
        grid = processing.grid_size(int(height), int(width))
        for batch in (1, network.max_batch_size):
            tensorrt._profile_for(network, {"pixels": np.empty((batch, *grid, 3), np.uint8)})
    for shape in ((1, 532, 532, 3), (9, 518, 518, 3), (1, 518, 1568, 3)):
        with pytest.raises(EngineError, match="no profile"):
            tensorrt._profile_for(network, {"pixels": np.empty(shape, np.uint8)})


def test_the_gate_runs_an_engine_in_each_of_its_profiles():
    """TensorRT chooses kernels for each profile; upright photos go through another than the rest."""
    network = DEPTH.networks[0]
    seen = set()

    def run(inputs):
        seen.add(tensorrt._profile_for(network, inputs))
        return {"depth": np.zeros(inputs["pixels"].shape[:3], np.float32)}

    source = Source(None, lambda pixels: np.zeros(pixels.shape[:3], np.float32))
    for _ in parity.measurements(source, run, validate.samples(DEPTH)):
        pass
    assert seen == set(range(len(network.profiles)))


@pytest.mark.parametrize("det_size", [DET_SIZE_AUTO, 32, 640, 1920])
def test_a_photo_at_any_detector_size_fits_an_engine(det_size):
    detector = card_named("buffalo_l").networks[0]
    fed = faces.letterboxes(np.zeros((300, 400, 3), np.uint8), 0.5, det_size)
    for batch in (1, detector.max_batch_size):
        inputs = {name: np.stack([value] * batch) for name, value in fed.items()}
        assert tensorrt._profile_for(detector, inputs) == 0


@pytest.mark.parametrize("card", all_cards().values(), ids=lambda card: card.name)
def test_profiles_are_of_the_networks_own_inputs(card):
    for network in card.networks:
        assert network.profiles
        for profile in network.profiles:
            assert set(profile) == {tensor.name for tensor in network.inputs}
            for tensor in network.inputs:
                shape = profile[tensor.name]
                assert (shape.min[0], shape.max[0]) == (1, network.max_batch_size)
                for dim, *sides in zip(tensor.dims, shape.min[1:], shape.opt[1:], shape.max[1:], strict=True):
                    assert sides == sorted(sides)
                    assert dim in (-1, sides[0]) and (dim == -1 or len(set(sides)) == 1)


def test_the_graphs_keep_to_what_tensorrt_takes(repository, face_repository):
    """Bytes only into and out of a Cast, TopK within its limit, an opset that TensorRT 10.0 knows."""
    paths = [*repository.glob("*/1/model.onnx"), *face_repository.glob("*_synthetic_*/1/model.onnx")]
    assert len(paths) == 6
    for path in paths:
        model = onnx.load(path)
        graph = model.graph
        assert model.opset_import[0].version <= 20
        for value in graph.input:
            if value.type.tensor_type.elem_type == TensorProto.UINT8:
                assert {node.op_type for node in graph.node if value.name in node.input} == {"Cast"}, path
        for value in graph.output:
            if value.type.tensor_type.elem_type == TensorProto.UINT8:
                assert {node.op_type for node in graph.node if value.name in node.output} == {"Cast"}, path
        constants = {
            node.output[0]: list(attribute.ints)
            for node in graph.node
            for attribute in node.attribute
            if attribute.ints
        }
        for node in graph.node:
            if node.op_type == "TopK":
                assert 0 < constants[node.input[1]][0] <= MAX_TOP_K
