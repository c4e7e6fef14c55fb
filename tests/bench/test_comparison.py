"""Ways side by side: each proven to do the same work; one that is not, or that fails, is left out, and it alone."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from depthface.errors import DepthfaceError
from depthface_bench import comparison, machine, peers, photos, report, services, tasks, ways
from depthface_bench.comparison import Ground, compare
from depthface_bench.peers import Peer
from depthface_bench.plan import FULL, QUICK
from depthface_bench.rounds import Way, in_turn
from depthface_bench.tasks import Items, Task
from depthface_bench.variants import FP32

PLAN = replace(QUICK, rounds=1, at_once=(1, 2), at_once_else=(1,))
RIGHT = np.eye(1, 8, dtype=np.float32)[0]
WRONG = np.roll(RIGHT, 1)


def broken(*_: object) -> None:
    raise RuntimeError("it\n broke " + "x" * 1000)


def peer(kind: str, answer: object = RIGHT, **facts: object) -> Peer:
    return Peer(kind, "fp32", lambda: lambda _: answer, **facts)


def fails_later(calls: int):
    left = [calls]

    def call(_: bytes) -> np.ndarray:
        left[0] -= 1
        return RIGHT if left[0] >= 0 else broken()

    return Peer("openvino", "fp32", lambda: call)


@pytest.fixture
def compared(monkeypatch, tmp_path):
    """Compare peers of a task whose answers are vectors; `service` is what its service answers, and `bytes_of` how much
    memory it has whenever it is looked at, 5 in the end."""

    def compared(some: list[Peer], service: object = RIGHT, bytes_of: tuple[int, ...] = ()):
        @contextmanager
        def serving(*_: object):
            if service is None:
                raise DepthfaceError("The service did not start.")
            yield SimpleNamespace(host="x", start_s=1.0, memory_bytes=lambda: next(looks, 5))

        looks = iter(bytes_of)
        monkeypatch.setattr(services, "serving", serving)
        monkeypatch.setattr(comparison.limits, "products", lambda *_: {"torch": lambda: None})
        monkeypatch.setattr(comparison.ways, "posted", lambda _: lambda _: service)
        task = next(task for task in tasks.TASKS if task.name == "text embedding")
        items = [Items("words", [b"a", b"b"])]
        fake: Task = replace(task, peers=lambda *_: some, items=lambda _: items, read=lambda found: found, at_once=())
        return compare(fake, Ground(tmp_path, {FP32: tmp_path}, {}, {}, 1), PLAN, lambda _: None)

    return compared


def kinds(found: comparison.Compared) -> set[str]:
    return {one["kind"] for one in found.rounds}


def lost(found: comparison.Compared) -> dict[str, str]:
    return {one["kind"]: one["reason"] for one in found.left_out}


def test_each_is_measured_as_often_as_the_plan_says(compared):
    found = compared([peer("library"), peer("openvino", is_usual=False)])
    assert [(one["kind"], one["at_once"]) for one in found.rounds] == [
        ("library", 1),
        ("library", 2),
        ("openvino", 1),
        ("service", 1),
        ("service", 2),
    ]
    assert all(len(one["images_s"]) == 1 for one in found.rounds)
    (peak,) = found.peaks
    assert (peak["task"], peak["photo"], peak["library"], peak["precision"]) == (
        "text embedding",
        "words",
        "torch",
        "fp32",
    )
    assert len(peak["gflop_s"]) == 1
    assert found.left_out == []
    (start,) = found.start
    assert start == {
        "kind": "service",
        "task": "text embedding",
        "precision": "fp32",
        "start_s": 1.0,
        "ready_bytes": 5,
        "worked_bytes": 5,
    }


def test_memory_is_that_of_the_start_and_the_most_after_a_turn(compared):
    (start,) = compared([peer("library")], bytes_of=(2, 7, 9, 6)).start
    assert (start["ready_bytes"], start["worked_bytes"]) == (2, 9)


def test_each_way_is_looked_at_before_the_next_has_its_turn():
    """At rest a network of ours gives memory back."""
    seen: list[str] = []
    kinds = (ways.SERVICE, ways.SERVER)
    made = [Way(kind, "fp32", lambda _, kind=kind: seen.append(f"{kind} asked")) for kind in kinds]
    sizes = iter((3, 8, 4))
    process = SimpleNamespace(memory_bytes=lambda: seen.append("server looked at") or next(sizes))
    memory = comparison._Memory({(ways.SERVER, "fp32"): process})
    in_turn(made, [b"x"], (1,), 2, after=memory.look)
    assert seen == 3 * ["service asked", "server asked", "server looked at"]
    assert memory.most == {(ways.SERVER, "fp32"): 8}
    failed: list[str] = []
    assert in_turn(made[:1], [b"x"], (1,), 1, lambda way, _: failed.append(way.kind), broken) == []
    assert failed == [ways.SERVICE]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (Peer("openvino", "fp32", broken), "RuntimeError: it broke"),
        (Peer("openvino", "fp32", lambda: broken), "RuntimeError: it broke"),
        (peer("openvino", WRONG), "not the same work"),
        (peer("openvino", RIGHT * np.nan), "not the same work"),
        (fails_later(3), "RuntimeError: it broke"),  # it proves itself on two items, and fails in the rounds
    ],
    ids=["cannot be made", "cannot answer", "does other work", "no number", "fails in the rounds"],
)
def test_one_that_is_not_sound_is_left_out_and_loses_no_other(compared, bad, reason):
    found = compared([peer("library"), bad, peer("onnx")])
    assert kinds(found) == {"library", "onnx", "service"}
    assert set(lost(found)) == {"openvino"}
    assert reason in lost(found)["openvino"]
    assert len(lost(found)["openvino"]) <= 300
    assert "\n" not in lost(found)["openvino"]


def test_a_service_that_does_not_start_loses_itself_alone(compared):
    found = compared([peer("library")], service=None)
    assert (kinds(found), set(lost(found)), found.start) == ({"library"}, {"service"}, [])


def test_answers_of_other_weights_or_other_pixels_are_not_held_against_the_library(compared):
    found = compared([peer("library"), peer("openclip", WRONG, is_same_weights=False)])
    assert kinds(found) == {"library", "openclip", "service"}
    found = compared([peer("library"), peer("onnx", WRONG, is_same_input=False)])
    assert kinds(found) == {"library", "onnx", "service"}


def test_without_a_listener_a_failure_ends_the_run():
    with pytest.raises(RuntimeError):
        in_turn([Way("a", "fp32", broken)], [b"x"], (1,), 1)


def test_what_was_left_out_is_in_the_report():
    results = {"left_out": [{"task": "depth", "kind": "compiled", "precision": "bf16", "reason": "It broke."}]}
    assert report.left_out(results) == ["depth: transformers with torch.compile, in process, bf16. It broke."]
    assert report.ours_left_out(results) == []
    ours = {"task": "depth", "kind": "server", "precision": "bf16", "reason": "It broke."}
    assert report.ours_left_out({"left_out": [ours]}) == ["depth: depthface, over HTTP, bf16. It broke."]


def test_a_map_is_held_by_its_size_and_the_cards_tolerance():
    def png(levels: np.ndarray) -> bytes:
        buffer = BytesIO()
        Image.fromarray(levels.astype(np.uint8)).save(buffer, "PNG")
        return buffer.getvalue()

    depth = next(task for task in tasks.TASKS if task.name == "depth")
    photo, levels = photos.sized(64, 48), np.arange(48 * 64).reshape(48, 64) % 250
    depth.hold(photo, png(levels), png(levels + 1), "fp32")  # a level
    depth.hold(photo, None, png(levels), "fp32")
    with pytest.raises(DepthfaceError, match="not the same work"):
        depth.hold(photo, png(levels), png(levels + 2), "fp32")
    depth.hold(photo, png(levels), png(levels + 5), "bf16")
    with pytest.raises(DepthfaceError, match="not of"):
        depth.hold(photo, png(levels), png(levels.T), "fp32")


def test_faces_are_held_by_their_number_boxes_and_embeddings():
    faces = next(task for task in tasks.TASKS if task.name == "faces")
    some = {"boxes": 100 * np.arange(24.0).reshape(6, 4), "embeddings": np.eye(6, 8)}
    ours = [SimpleNamespace(box=box + 1, embedding=e) for box, e in zip(*some.values(), strict=True)][::-1]
    faces.hold(b"", some, ours, "bf16")
    with pytest.raises(DepthfaceError, match="box is off"):
        faces.hold(b"", some, some | {"boxes": some["boxes"] + 9}, "bf16")
    with pytest.raises(DepthfaceError, match="not the same work"):
        faces.hold(b"", some, some | {"embeddings": np.roll(some["embeddings"], 1, axis=0)}, "bf16")
    with pytest.raises(DepthfaceError, match="not the same work"):
        faces.hold(b"", None, ours[1:], "fp32")


@pytest.fixture
def tiny_peers(tiny, monkeypatch):
    """The peers with a network of a hundredth of its size, and the card's own tolerances for that."""
    monkeypatch.setattr(peers, "depth_card", lambda: tiny)


def test_every_peer_of_depth_does_the_librarys_work(tiny_peers, tiny, monkeypatch):
    """All but `torch.compile`, which compiles for half a minute; it is built here, and is a way like the others."""
    monkeypatch.setattr(tasks.repositories, "depth_card", lambda: tiny)
    depth = next(task for task in tasks.TASKS if task.name == "depth")
    has_bf16 = "bf16" in machine.precisions([tiny], machine.this_machine())
    photo = photos.sized(640, 480)
    library, *others = (one for one in peers.depth_peers(2) if one.precision == "fp32" or has_bf16)
    expected = library.make()(photo)
    depth.hold(photo, None, expected, "fp32")
    seen = set()
    for one in others:
        if one.kind != peers.COMPILED:
            answer = one.make()(photo)
            depth.hold(photo, expected if one.is_same_input else None, answer, one.precision)
            seen.add((one.kind, one.precision))
    assert seen >= {("openvino", "fp32"), ("onnx", "fp32")}


def test_every_precisions_tail_is_measured_quick_or_not():
    """Of what can be driven; and the peers are never measured with other numbers of requests under way than ours."""
    for plan in (FULL, QUICK):
        assert set(plan.at_once_else) <= set(plan.at_once)
        assert plan.concurrency_else
    assert {task.name for task in tasks.TASKS if task.driven} == {"depth", "faces", "photo embedding"}


def test_of_what_takes_minutes_to_make_a_quick_run_has_the_last_alone(compared):
    slow = [peer("compiled", takes_minutes=True), replace(peer("openvino"), takes_minutes=True)]
    found = compared([peer("library"), *slow])
    assert kinds(found) == {"library", "openvino", "service"}
    assert found.left_out == []
