"""The published architectures at random: do they have the size, the shapes and the task of the published ones?"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from depthface_standins.insightface import synthetic
from depthface_standins.insightface.architectures import KINDS, Kind, random_model

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

# Bytes of the published files.
PUBLISHED_BYTES = {"det_500m": 2_524_817, "det_10g": 16_923_827, "w600k_r50": 174_383_860}

PARAMETERS: dict[Kind, float] = {
    "1k3d68": 32.4e6,
    "2d106det": 0.92e6,
    "det_10g": 4.23e6,
    "det_500m": 0.626e6,
    "genderage": 0.211e6,
    "inswapper_128": 138.6e6,
    "w600k_mbf": 3.33e6,
    "w600k_r50": 43.6e6,
}

# Kind → task, mean and standard deviation that InsightFace gives it.
ROUTES: dict[Kind, tuple[str, float, float]] = {
    "1k3d68": ("landmark_3d_68", 0.0, 1.0),
    "2d106det": ("landmark_2d_106", 0.0, 1.0),
    "det_10g": ("detection", 127.5, 128.0),
    "det_500m": ("detection", 127.5, 128.0),
    "genderage": ("genderage", 0.0, 1.0),
    "w600k_mbf": ("recognition", 127.5, 127.5),
    "w600k_r50": ("recognition", 127.5, 127.5),
}


def run(model: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # the declared output shapes are the published ones: wrong for other inputs
    session = InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    outputs: list[Any] = session.run(None, feeds)
    return outputs


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_are_as_many_as_stated(kind: Kind) -> None:
    model = random_model(kind)
    assert sum(math.prod(i.dims) for i in model.graph.initializer) == pytest.approx(PARAMETERS[kind], rel=0.005)
    if kind in PUBLISHED_BYTES:
        assert model.ByteSize() == pytest.approx(PUBLISHED_BYTES[kind], rel=0.001)


@pytest.mark.parametrize("kind", ROUTES)
def test_insightface_takes_each_for_its_task(kind: Kind, tmp_path: Path) -> None:
    app = pytest.importorskip("insightface.app", reason="insightface is not installed")
    task, mean, std = ROUTES[kind]
    onnx.save(random_model(kind), str(tmp_path / f"{kind}.onnx"))
    if task != "detection":  # FaceAnalysis insists on a detector
        onnx.save(synthetic.detector(), str(tmp_path / "det_synthetic.onnx"))
    model = app.FaceAnalysis(name=str(tmp_path), providers=["CPUExecutionProvider"]).models[task]
    assert Path(model.model_file).name == f"{kind}.onnx"
    assert (model.input_mean, model.input_std) == (mean, std)


@pytest.mark.parametrize("kind", ["det_500m", "det_10g"])
def test_detectors_answer_at_any_size(kind: Kind) -> None:
    outputs = run(random_model(kind), {"input.1": np.zeros((1, 3, 96, 160), np.float32)})
    places = [2 * (96 // s) * (160 // s) for s in (8, 16, 32)]
    assert [o.shape for o in outputs] == [(n, width) for width in (1, 4, 10) for n in places]
    assert all(((scores > 0) & (scores < 1)).all() for scores in outputs[:3])
    assert all((boxes > 0).all() for boxes in outputs[3:6])


@pytest.mark.parametrize(
    ("kind", "side", "answers"),
    [
        ("w600k_mbf", 112, 512),
        ("w600k_r50", 112, 512),
        ("2d106det", 192, 212),
        ("1k3d68", 192, 3309),
        ("genderage", 96, 3),
    ],
)
def test_the_others_take_batches_and_tell_pictures_apart(kind: Kind, side: int, answers: int) -> None:
    model = random_model(kind)
    name = model.graph.input[0].name
    rng = np.random.default_rng(0)
    pictures = rng.standard_normal((2, 3, side, side)) if name == "input.1" else rng.uniform(0, 255, (2, 3, side, side))
    (output,) = run(model, {name: pictures.astype(np.float32)})
    assert output.shape == (2, answers)
    assert np.isfinite(output).all()
    assert np.abs(output).max() < 50
    assert not np.allclose(output[0], output[1], rtol=1e-3, atol=1e-5)


def test_the_swapper_holds_the_emap_last_and_unused() -> None:
    model = random_model("inswapper_128")
    emap = model.graph.initializer[-1]
    assert (emap.name, list(emap.dims)) == ("emap", [512, 512])
    assert all("emap" not in node.input for node in model.graph.node)
    rng = np.random.default_rng(0)
    target = rng.uniform(0, 1, (1, 3, 128, 128)).astype(np.float32)
    source = rng.standard_normal((1, 512)).astype(np.float32) / np.float32(np.sqrt(512))
    (image,) = run(model, {"target": target, "source": source})
    assert image.shape == (1, 3, 128, 128)
    assert 0 <= image.min() < image.max() <= 1


def test_the_seed_decides() -> None:
    assert random_model("genderage", 1) == random_model("genderage", 1)
    assert random_model("genderage", 1) != random_model("genderage", 2)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="Choose one of"):
        random_model("glintr100")  # type: ignore[arg-type]


def test_synthetic_and_random_detectors_end_alike() -> None:
    """Graph surgery on the heads and the neck meets the same nodes in both."""

    def operators(model: onnx.ModelProto, kinds: set[str]) -> list[str]:
        return [node.op_type for node in model.graph.node if node.op_type in kinds]

    surgery = {"Transpose", "Reshape", "Sigmoid", "Resize", "Shape", "Gather", "Unsqueeze", "Slice"}
    assert operators(synthetic.detector(), surgery) == operators(random_model("det_500m"), surgery)
