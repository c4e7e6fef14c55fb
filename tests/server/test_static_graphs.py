"""Static graphs: which shapes get one, when, and how many; and the real backend with them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from fixtures.lab import Lab, opened
from fixtures.waiting import HANGS_AFTER_S, until
from onnx import TensorProto, helper, numpy_helper

from depthface import processor
from depthface_server.static_graphs import (
    BUDGET_MB,
    ON_CPU,
    ON_GPU,
    TRIED,
    WINDOW,
    Case,
    Rules,
    Shapes,
    StaticGraphs,
    room,
    room_of,
    room_on_gpu,
    shapes_of,
)
from depthface_server.workspace import Workspace

ASKED, KEPT = ON_CPU.asked, ON_CPU.kept


def of(side: int) -> Shapes:
    return (("x", (1, side)),)


class Built:
    """Graphs that are the names of their shapes; what was told; and a door that holds a build back."""

    def __init__(self, room: int = KEPT, rules: Rules = ON_CPU) -> None:
        self.made: list[Shapes] = []
        self.told: list[tuple[str, Shapes]] = []
        self.door = threading.Event()
        self.door.set()
        self.failure: Exception | None = None
        self.graphs = StaticGraphs(self._build, room, lambda what, shapes: self.told.append((what, shapes)), rules)

    def _build(self, case: Case) -> str:
        shapes = shapes_of(case[0])
        assert self.door.wait(HANGS_AFTER_S)
        if self.failure is not None:
            raise self.failure
        self.made.append(shapes)
        return f"graph of {shapes}"

    def ask(self, side: int, times: int = 1, *, common_s: float = 1.0, own_s: float = 0.5) -> int:
        """Requests as the backend makes them; how many of them the shape's own graph answered."""
        owns = 0
        for _ in range(times):
            own = self.graphs.graph_of(of(side)) is not None
            case = {"x": np.zeros((1, side))}, [np.zeros(1)]
            self.graphs.note(of(side), own_s if own else common_s, lambda case=case: case, own=own)
            owns += own
        return owns

    def ask_often(self, side: int, **seconds: float) -> None:
        self.ask(side, ASKED, **seconds)
        self.graphs.wait()


@pytest.fixture
def built() -> Iterator[Built]:
    built = Built()
    yield built
    built.door.set()
    built.graphs.close()


def test_a_shape_that_is_asked_for_often_gets_a_graph_and_others_do_not(built):
    assert built.ask(1, ASKED - 1) == 0
    assert built.ask(2) == 0
    built.graphs.wait()
    assert built.made == []
    built.ask(1)
    built.graphs.wait()
    assert built.made == [of(1)]
    assert built.ask(1, 5) == 5
    assert built.ask(2, 5) == 0


def test_a_batch_gets_none(built):
    several = (("x", (2, 1)),)
    for _ in range(3 * ASKED):
        built.graphs.note(several, 1.0, lambda: ({"x": np.zeros((2, 1))}, []), own=False)
    built.graphs.wait()
    assert built.made == []


def test_nobody_waits_while_a_graph_is_made(built):
    built.door.clear()
    assert built.ask(1, 3 * ASKED) == 0
    assert built.ask(2, 3 * ASKED) == 0
    built.door.set()
    built.graphs.wait()
    assert built.made == [of(1)]  # one at a time
    assert built.ask(1) == 1


def test_no_more_graphs_than_there_is_room_for_and_the_least_asked_for_leaves(built):
    for side in range(1, KEPT + 1):
        built.ask_often(side)
    built.ask(1, 20)
    built.ask(3, 20)
    built.ask_often(9)  # asked for as often as 2 is: it takes twice as much to push that out
    assert len(built.made) == KEPT
    built.ask_often(9)
    assert built.made[-1] == of(9)
    assert ("left for another", of(2)) in built.told
    assert [built.ask(side) for side in (1, 2, 3, 9)] == [1, 0, 1, 1]


def test_shapes_that_take_turns_do_not_push_each_other_out(built):
    for _ in range(4 * WINDOW):
        for side in range(KEPT + 2):
            built.ask(side)
        built.graphs.wait()
    assert len(built.made) == KEPT


def test_what_was_asked_for_yesterday_makes_room(built):
    for side in range(KEPT):
        built.ask_often(side)
    built.ask(9, 3 * WINDOW)
    built.graphs.wait()
    assert built.made[-1] == of(9)
    for side in range(1000, 1000 + 2 * WINDOW):  # each once: nothing is remembered of them
        built.ask(side)
    assert len(built.graphs._known) <= WINDOW + KEPT


def test_a_graph_that_is_no_quicker_is_let_go_for_good(built):
    built.ask_often(1, common_s=1.0)
    assert built.ask(1, TRIED + 50, own_s=0.99) == TRIED
    assert built.made == [of(1)]
    assert built.told[-1] == ("no quicker: 990.0 against 1000.0 ms", of(1))


def test_a_shape_whose_graph_cannot_be_made_is_left_to_the_common_one(built):
    built.failure = MemoryError("bad alloc")
    built.ask_often(1)
    built.failure = None
    built.ask_often(1)
    assert built.made == []
    assert built.told == [("not made: bad alloc", of(1))]


def test_a_graph_that_is_made_while_its_network_is_closed_is_thrown_away(built):
    built.door.clear()
    built.ask(1, ASKED)
    closing = threading.Thread(target=built.graphs.close)
    closing.start()
    until(lambda: built.graphs._is_closed)
    built.door.set()
    closing.join(HANGS_AFTER_S)
    assert not closing.is_alive()
    assert built.made == [of(1)]
    assert built.graphs.graph_of(of(1)) is None
    ((what, shapes),) = built.told
    assert what.endswith(", and thrown away: its network goes")
    assert shapes == of(1)


def test_without_room_nothing_is_counted():
    built = Built(room=0)
    built.ask_often(1)
    assert built.made == []
    assert built.graphs._known == {}


def test_the_room_is_for_small_networks_in_bf16(tmp_path, monkeypatch):
    """Files of Depth Anything V2 Small, Base and Large, and of a detector."""
    assert [room(megabytes * 10**6, BUDGET_MB) for megabytes in (99, 390, 1340, 17)] == [3, 0, 0, 3]
    path = tmp_path / "model.onnx"
    path.write_bytes(bytes(10**6))
    bf16 = {"HINT_BF16": "YES"}
    monkeypatch.setattr(processor, "multiplies_bf16", lambda: False)
    assert room_of(path, bf16) == 0
    monkeypatch.setattr(processor, "multiplies_bf16", lambda: True)
    assert room_of(path, bf16) == KEPT
    assert room_of(path, {}) == room_of(path, {"HINT_BF16": "NO"}) == 0
    assert room_of(path, bf16 | {"STATIC_GRAPHS_MB": "0"}) == 0
    assert room_of(path, bf16 | {"STATIC_GRAPHS_MB": "5"}) == 2
    for wrong in ("-1", "nan", "inf", "many"):
        with pytest.raises(ValueError):
            room_of(path, bf16 | {"STATIC_GRAPHS_MB": wrong})


def test_the_room_on_a_gpu_is_for_several_of_small_and_few_of_large(tmp_path):
    """Files in fp16 of Depth Anything V2 Small and Large, which are sparse here."""
    path = tmp_path / "model.onnx"
    found = []
    for megabytes in (50, 670):
        with path.open("wb") as file:
            file.truncate(megabytes * 10**6)
        found.append([room_on_gpu(path, {}), room_on_gpu(path, {"STATIC_GRAPHS_MB": "0"})])
    assert found == [[13, 0], [4, 0]]


def test_a_graph_of_a_batch_stays_where_the_rules_say_so():
    built = Built(rules=ON_GPU)
    built.ask(1, 2)
    built.graphs.wait()
    assert built.ask(1, 3 * TRIED, own_s=2.0) == 3 * TRIED
    batch = (("x", (8, 1)),)
    for _ in range(2):
        built.graphs.note(batch, 1.0, lambda: ({"x": np.zeros((8, 1))}, []), own=False)
    built.graphs.wait()
    assert built.made == [of(1), batch]


def test_how_far_a_graph_is_from_the_other():
    from depthface.openvino import off

    a = np.array([3.0, 4.0], np.float32)
    assert off([a], [a.copy()]) == 0
    assert off([a, a], [a, a + np.float32([0, 0.5])]) == pytest.approx(0.1)
    assert off([np.zeros(2)], [np.zeros(2)]) == 0
    assert off([np.zeros(2)], [a]) == off([a], [a[:1]]) == off([a], [a * np.nan]) == off([a * np.inf], [a]) == np.inf


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[Lab]:
    """A server whose processes take this processor for one that is quick in bf16; all else is as it is."""
    usual = Workspace.make_python

    def make_python(workspace: Workspace) -> Path:
        programs = usual(workspace)
        (packages,) = programs.parent.glob("lib/python*/site-packages")
        code = "from depthface import processor\n\nprocessor.multiplies_bf16 = lambda: True\n"
        (packages / "quick_in_bf16.py").write_text(code)
        (packages / "zz.pth").write_text("import quick_in_bf16\n")  # the last, or depthface is not found
        return programs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Workspace, "make_python", make_python)
        with opened(tmp_path_factory.mktemp("quick")) as lab:
            yield lab


def attention() -> list[onnx.NodeProto]:
    """A softmax of x·xᵀ, times x."""
    return [
        helper.make_node("MatMul", ["x", "w"], ["q"]),
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "t"], ["s"]),
        helper.make_node("Softmax", ["s"], ["p"], axis=-1),
        helper.make_node("MatMul", ["p", "x"], ["y"]),
    ]


def deep(layers: int = 1000) -> list[onnx.NodeProto]:
    """A chain that takes a second to compile, and milliseconds to compute."""
    names = ["x", *(f"x{layer}" for layer in range(1, layers)), "y"]
    return [
        node
        for x, y in pairwise(names)
        for node in (helper.make_node("MatMul", [x, "w"], [f"{y}_m"]), helper.make_node("Relu", [f"{y}_m"], [y]))
    ]


def network(nodes: list[onnx.NodeProto], side: int = 64) -> onnx.ModelProto:
    """Of x, y and weights w; the shapes vary."""
    weights = np.random.default_rng(0).normal(size=(side, side)).astype(np.float32) / 8
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "n", side])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "n", side])],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


MORE = 'parameters { key: "HINT_BF16" value { string_value: "YES" } }'


def told(lab, name: str, what: str) -> list[str]:
    """What the server's log has of a network's static graphs."""
    lines = lab.triton.log.read_text(errors="replace").splitlines()
    return [line for line in lines if "static_graph" in line and name in line and what in line]


@contextmanager
def loaded(lab, name: str, more: str = MORE, *, nodes: list[onnx.NodeProto] | None = None) -> Iterator[None]:
    fields = {"batch": 0, "dims": "-1, -1, 64", "out": "-1, -1, 64", "more": more}
    lab.load(name, network(nodes or attention()), backend="openvino", **fields)
    try:
        yield
    finally:
        lab.unload(name)


def noise(tokens: int, batch: int = 1) -> np.ndarray:
    return np.random.default_rng(tokens).normal(size=(batch, tokens, 64)).astype(np.float32)


def test_the_same_answers_before_while_and_after_a_graph_is_made(lab):
    """Requests of many clients at once, of two batch sizes and two lengths; then the network goes, graphs and all."""
    inputs = [noise(96), noise(96, batch=2), noise(80)]
    with loaded(lab, "often"):
        expected = [lab.run("often", x) for x in inputs]
        deadline = time.monotonic() + HANGS_AFTER_S
        with ThreadPoolExecutor(4) as pool:
            while not told(lab, "often", "made in"):
                assert time.monotonic() < deadline
                chosen = [0, 0, 0, 1, 2] * 8
                for index, got in zip(
                    chosen, pool.map(lambda index: lab.run("often", inputs[index]), chosen), strict=True
                ):
                    assert np.abs(got - expected[index]).max() <= 2e-2 * np.abs(expected[index]).max()
        for x, before in zip(inputs, expected, strict=True):
            assert np.abs(lab.run("often", x) - before).max() <= 2e-2 * np.abs(before).max()
        assert "[1, 96, 64]" in told(lab, "often", "made in")[0]


def test_a_network_can_go_while_its_graph_is_made(lab):
    """It is unloaded as soon as the graph is begun, which takes longer to make than the request to unload takes."""
    with loaded(lab, "leaving", nodes=deep()):
        for _ in range(ASKED):
            lab.run("leaving", noise(64))
    assert told(lab, "leaving", "thrown away: its network goes")
    assert not told(lab, "leaving", "not made")


def test_a_config_can_do_without_static_graphs_or_is_refused(lab):
    from tritonclient.utils import InferenceServerException

    parameter = MORE + 'parameters { key: "STATIC_GRAPHS_MB" value { string_value: "%s" } }'
    with loaded(lab, "without", parameter % 0):
        for _ in range(2 * ASKED):
            lab.run("without", noise(64))
        assert not told(lab, "without", "")
    with (
        pytest.raises(InferenceServerException, match="it takes megabytes"),
        loaded(lab, "wrong", parameter % "x"),
    ):
        pass
