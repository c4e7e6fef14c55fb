"""Models that die at any moment of a real Triton: what its watchdog sees at one look, and what it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx
import pytest
from fixtures.lab import Lab, opened
from fixtures.processes import ended, kill
from fixtures.waiting import until
from onnx import TensorProto, helper

from depthface_server import watchdog as watchdog_module
from depthface_server.installation import Installation
from depthface_server.watchdog import Watchdog

CONFIG = """
max_batch_size: 4
input { name: "x" data_type: TYPE_FP32 dims: [ 1 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ 1 ] }
"""
CODE = """
import pathlib, triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def initialize(self, args):
        if pathlib.Path(args["model_repository"], "refuses").exists():
            raise RuntimeError("it refuses")
    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", pb_utils.get_input_tensor_by_name(request, "x")
                                                            .as_numpy())]) for request in requests]
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A server whose models die."""
    with opened(tmp_path_factory.mktemp("dying")) as lab:
        yield lab


@pytest.fixture
def watchdog(own, tmp_path, monkeypatch) -> Watchdog:
    """One that has not looked yet, and makes no pauses."""
    monkeypatch.setattr(watchdog_module, "_FIRST_PAUSE_S", 0.0)
    triton = own.triton
    return Watchdog(triton.api, tmp_path / "counts", triton.processes, triton.count_processes)


def identity() -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "n"]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "identity", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def load(lab: Lab, name: str, more: str = "") -> None:
    lab.load_code(name, CODE, CONFIG + more)


def end_all(lab: Lab, name: str) -> None:
    steps = lab.steps(name)
    assert steps
    kill(steps)
    assert ended(steps)


def answers(lab: Lab, name: str) -> bool:
    return bool(lab.run(name, np.full((1, 1), 7, np.float32)) == 7)


def after(call: Callable[[str], object], then: Callable[[str], object]) -> Callable[[str], None]:
    """The call, and what happens right after it."""

    def both(name: str) -> None:
        call(name)
        then(name)

    return both


def test_a_model_that_dies_as_soon_as_it_is_back_comes_back_again(own, watchdog, monkeypatch):
    """With all the processes that it has got since it was first looked at."""
    load(own, "again")
    watchdog._look()
    config = f'name: "again"\nbackend: "python"\n{CONFIG}instance_group [ {{ count: 2 kind: KIND_CPU }} ]'
    (own.folder / "again" / "config.pbtxt").write_text(config)
    own.load_there("again")
    until(lambda: len(own.steps("again")) == 2, "the end of the process of before")
    watchdog._look()
    first = own.steps("again")[:1]
    kill(first)
    assert ended(first)
    with monkeypatch.context() as patch:
        patch.setattr(own.triton.api, "load", after(own.triton.api.load, lambda name: end_all(own, name)))
        watchdog._look()
        assert not own.steps("again")
    watchdog._look()
    assert len(own.steps("again")) == 2
    assert answers(own, "again")


def test_a_model_that_died_before_the_first_look_is_tried_until_it_can_be_started(own, watchdog, caplog):
    """Meanwhile a Triton that is started again is to load it too."""
    load(own, "early")
    end_all(own, "early")
    sign = own.folder / "early" / "refuses"
    sign.touch()
    watchdog._look()
    assert not own.steps("early")
    assert "early: could not be started again: " in caplog.text
    assert "it refuses" in caplog.text
    sign.unlink()
    watchdog._look()
    assert "early" in watchdog.loaded
    assert answers(own, "early")
    watchdog._look()
    assert watchdog.loaded.count("early") == 1


def test_as_many_processes_are_wanted_as_a_model_of_any_kind_has(own, watchdog):
    """One too many, and a sound model would be loaded anew for ever."""
    version = own.folder / "kinds" / "2"
    version.mkdir(parents=True)
    (version / "model.py").write_text(CODE)
    load(own, "kinds", "instance_group [ { count: 2 kind: KIND_MODEL }, { passive: true } ] version_policy { all { } }")
    load(own, "plain")
    chain = own.folder / "chain"
    (chain / "1").mkdir(parents=True)
    (chain / "config.pbtxt").write_text(
        'name: "chain"\nplatform: "ensemble"\n' + CONFIG + 'ensemble_scheduling { step [ { model_name: "plain" '
        'model_version: -1 input_map { key: "x" value: "x" } output_map { key: "y" value: "y" } } ] }'
    )
    own.load("network", identity(), out=-1)
    own.load_there("chain")
    wanted = {"kinds": 6, "plain": 1, "network": 1, "chain": 0}
    ready, count = own.triton.api.ready(), own.triton.count_processes
    assert {name: ready[name] * count(name) for name in wanted} == wanted

    def living() -> dict[str, frozenset[int]]:
        found = own.triton.processes()
        return {name: found.get(name, frozenset()) for name in wanted}

    # A step is loaded anew with its ensemble, and what it was before ends a moment later.
    until(lambda: {name: len(pids) for name, pids in living().items()} == wanted, "the end of the process of before")
    before = living()
    watchdog._look()
    assert living() == before


def test_a_backend_of_a_library_has_no_python_process(tmp_path):
    files = ("onnxruntime/libtriton_onnxruntime.so", "python/libtriton_python.so", "vllm/model.py")
    for file in (*files, "both/model.py", "both/libtriton_both.so"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    found = Installation(tmp_path / "tritonserver", tmp_path)
    names = ("python", "onnxruntime", "vllm", "both", "tensorrt", "")
    assert [name for name in names if found.runs_in_python(name)] == ["python", "vllm"]
