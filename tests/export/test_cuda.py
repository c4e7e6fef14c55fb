"""What CUDA serves is proven on CUDA too, where it is. There is none here: its session is the seam."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from fixtures.engines import H200
from fixtures.exporting import making_of
from onnx import TensorProto, helper

from depthface import machine
from depthface.errors import ExportError, ParityError
from depthface.families import card_named
from depthface.spec import EngineOptions, Source
from depthface_export import validate
from depthface_export.job import Engines
from depthface_export.validate import Check

CARD = card_named("depth_anything_v2_small")
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


def ramp(pixels: np.ndarray) -> np.ndarray:
    """The reference, and what the CPU gives of the file."""
    batch, height, width, _ = pixels.shape
    one = np.linspace(0, 1, height * width, dtype=np.float32).reshape(height, width)
    return np.stack([one] * batch)


@pytest.fixture
def prove(monkeypatch, tmp_path) -> Callable[..., tuple[list[Check], list[str]]]:
    """Prove depth whose values come back from CUDA by a function of them; its checks, and what was reported."""

    def prove(precision: str, on_cuda: Callable, engines: Engines | None = None, providers: tuple = (CUDA, CPU)):
        lines: list[str] = []
        session = SimpleNamespace(
            get_outputs=lambda: [SimpleNamespace(name="depth")],
            run=lambda _, inputs: [on_cuda(ramp(inputs["pixels"]))],
        )
        monkeypatch.setattr(machine, "gpus", lambda: H200.gpus)
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(providers))
        monkeypatch.setattr(validate, "runner", lambda *_: lambda inputs: {"depth": ramp(inputs["pixels"])})
        monkeypatch.setattr(validate, "session_as_served", lambda model, on_cuda: session)
        options = {"precision": precision, "engines": engines, "report": lines.append}
        return validate.prove_as_served(making_of(CARD, Source(None, ramp), tmp_path, **options)), lines

    return prove


def past_fp16(depth: np.ndarray) -> np.ndarray:
    depth[-1, -1, -1] = np.inf
    return depth


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_what_overflows_on_cuda_alone_is_refused(prove, precision):
    with pytest.raises(ParityError, match="on CUDA, gives depth that is not finite"):
        prove(precision, past_fp16)


def test_what_is_off_on_cuda_alone_is_refused(prove):
    with pytest.raises(ParityError, match="on CUDA, does not equal its reference: max_error"):
        prove("fp16", lambda depth: depth + 0.1)


def test_both_proofs_are_told_apart(prove):
    checks, lines = prove("fp16", lambda depth: depth)
    cases = [check.case for check in checks]
    assert [case for case in cases if case.endswith(", CUDA")] == [f"{case}, CUDA" for case in cases[: len(cases) // 2]]
    assert [line for line in lines if line.startswith("validate: ")] == [
        "validate: on the CPU, against the reference, on photographs",
        "validate: on CUDA, which serves it here, against the reference",
    ]


def test_a_network_with_an_engine_is_not_what_cuda_serves(prove):
    checks, _ = prove("fp16", past_fp16, engines=Engines(EngineOptions()))
    assert not [check for check in checks if "CUDA" in check.case]


def test_without_cuda_the_proof_is_on_the_cpu_and_says_so(prove):
    for precision, says in (("fp16", True), ("fp32", False)):
        checks, lines = prove(precision, past_fp16, providers=(CPU,))
        assert not [check for check in checks if "CUDA" in check.case]
        assert any("on the CPU alone" in line for line in lines) == says


@pytest.mark.parametrize(
    ("gpus", "providers", "expected"),
    [(H200.gpus, (CUDA, CPU), True), ((), (CUDA, CPU), False), (H200.gpus, (CPU,), False)],
)
def test_cuda_is_there_with_a_gpu_and_an_onnx_runtime_for_it(monkeypatch, gpus, providers, expected):
    monkeypatch.setattr(machine, "gpus", lambda: gpus)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(providers))
    assert validate.has_cuda() is expected


@pytest.fixture
def model(tmp_path) -> Path:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "relu",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def test_cuda_that_does_not_start_is_an_error_and_no_proof_on_the_cpu(model):
    with (
        pytest.warns(UserWarning, match=CUDA),
        pytest.raises(ExportError, match=rf"{CUDA} did not start, though there is a GPU.*CUDA_VISIBLE_DEVICES"),
    ):
        validate.session_as_served(model, on_cuda=True)
    assert validate.session_as_served(model, on_cuda=False).get_providers() == [CPU]
