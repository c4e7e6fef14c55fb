"""What a sweep makes of loads that are stable, at once or at the second try, or never. perf_analyzer itself, on a real
server, is in test_perf_analyzer.py; whether its windows agree cannot be had at will."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from depthface.errors import DepthfaceError
from depthface_bench import sweep, tasks
from depthface_bench.perf_analyzer import Load, Measured, Unstable
from depthface_bench.plan import FULL, QUICK, Plan

PLAN = replace(QUICK, long_window=5, long_rounds=2, rates=(0.5,))
SUBJECT = sweep.Subject("depth", "fp32", "measured_depth", Path("depth.json"), ())
SERVED = SimpleNamespace(host="nowhere", memory_bytes=lambda: 7)


@pytest.fixture
def records(monkeypatch):
    """The records of a sweep of 1 and 2 at once, where `unstable` says how often each load wavers at first."""

    def swept(unstable: dict[float, int]) -> list[dict]:
        left = dict(unstable)

        def drive(tool, host, model, data, load: Load, inside) -> Measured:
            if left.get(load.value, 0) > 0:
                left[load.value] -= 1
                raise Unstable(f"wavered at {load.value:g}")
            return Measured(load, 2.0, (2.0, 2.0, 2.0), 500.0, 500.0, 500.0, 600.0, 36, ())

        monkeypatch.setattr(sweep, "drive", drive)
        monkeypatch.setattr(sweep, "products_ms", lambda cores, each_s, count: [1000 * each_s] * count)
        return sweep.swept(None, SERVED, SUBJECT, replace(PLAN, concurrency=(1, 2)), 2, lambda line: None)

    return swept


def test_the_best_is_measured_in_rounds_beside_the_machine_itself(records):
    found = records({})
    assert [one["role"] for one in found] == ["concurrency", "concurrency", "best", "best", "rate"]
    assert {one["tries"] for one in found} == {1}
    bests = [one for one in found if one["role"] == "best"]
    # Each piece of work as long as a request of the best load; as many as a window has requests.
    assert [(one["piece_ms"], one["machine_ms"]) for one in bests] == [(500.0, [500.0] * 5)] * 2
    assert [one["load"]["value"] for one in bests] == [1, 1]
    assert found[-1]["load"]["value"] == 1.0  # half of two a second


def test_a_piece_of_the_machines_own_work_is_as_long_as_a_request_among_others(monkeypatch):
    """Four under way, four a second: a request takes a second, not a quarter of it."""
    monkeypatch.setattr(sweep, "products_ms", lambda cores, each_s, count: [1000 * each_s] * count)
    found = Measured(Load("concurrency", 4, 36), 4.0, (4.0, 4.0, 4.0), 1000.0, 1000.0, 1000.0, 1100.0, 36, ())
    monkeypatch.setattr(sweep, "drive", lambda *_: found)
    records = sweep.swept(None, SERVED, SUBJECT, replace(PLAN, concurrency=(4,)), 2, lambda line: None)
    assert [one["machine_ms"] for one in records if one["role"] == "best"] == [[1000.0] * 5] * 2


@pytest.mark.parametrize(
    ("request_s", "expected"), [(0.1, (0.1, 45)), (2.0, (2.0, 30)), (3.0, (3.0, 20)), (17.0, (3.0, 20))]
)
def test_the_machines_own_work_takes_a_minute_at_most_and_is_twenty_pieces_at_least(request_s, expected):
    assert sweep.piece(request_s, 45) == expected


def test_what_wavers_once_has_a_second_try(records):
    (one, *_) = records({1: 1})
    assert one["tries"] == 2
    assert one["throughput"] == 2.0
    assert "unstable" not in one


def test_what_wavers_again_has_no_figure(records):
    one, other, *_ = records({1: 2})
    assert (one["tries"], one["unstable"]) == (2, "wavered at 1")
    assert "throughput" not in one
    assert other["throughput"] == 2.0


def test_one_that_fails_has_no_figure_and_loses_no_other(monkeypatch):
    def drive(tool, host, model, data, load: Load, inside) -> Measured:
        if (load.kind, load.value) == ("concurrency", 1):
            raise DepthfaceError("perf_analyzer failed.")
        return Measured(load, 2.0, (2.0, 2.0, 2.0), 500.0, 500.0, 500.0, 600.0, 36, ())

    monkeypatch.setattr(sweep, "drive", drive)
    monkeypatch.setattr(sweep, "products_ms", lambda cores, each_s, count: [1000 * each_s] * count)
    one, *others = sweep.swept(None, SERVED, SUBJECT, replace(PLAN, concurrency=(1, 2)), 2, lambda line: None)
    assert one["unstable"] == "perf_analyzer failed."
    assert others and not [other for other in others if "unstable" in other]


@pytest.mark.parametrize("plan", [FULL, QUICK], ids=["full", "quick"])
@pytest.mark.parametrize("task", [task for task in tasks.TASKS if task.driven], ids=lambda task: task.name)
def test_all_windows_hold_the_same_items_and_have_a_median_among_them(plan: Plan, task: tasks.Task):
    sent, pace = len(task.driven.items()), task.driven.pace
    assert plan.window * pace % sent == plan.long_window * pace % sent == 0
    assert sent % 2 == 1


def test_what_is_quick_has_larger_windows(monkeypatch):
    loads = []

    def drive(tool, host, model, data, load: Load, inside) -> Measured:
        loads.append((load.value, load.requests))
        return Measured(load, 2.0, (2.0, 2.0, 2.0), 500.0, 500.0, 500.0, 600.0, 36, ())

    monkeypatch.setattr(sweep, "drive", drive)
    monkeypatch.setattr(sweep, "products_ms", lambda cores, each_s, count: [1000 * each_s] * count)
    sweep.swept(None, SERVED, replace(SUBJECT, pace=8), replace(PLAN, concurrency=(1,)), 2, lambda line: None)
    assert loads == [(1, 8 * PLAN.window), (1, 8 * 5), (1, 8 * 5), (1.0, 8 * 5)]
