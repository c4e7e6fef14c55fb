"""What is measured beside the network: round it, until a server is ready, in memory, and at rest."""

from __future__ import annotations

import os

import pytest
from fixtures.shared import copied

from depthface_bench import costs, repositories
from depthface_bench.servers import Process
from depthface_bench.variants import FP32


def test_a_large_photo_outside_the_network(repository, tiny, monkeypatch):
    monkeypatch.setattr(costs, "depth_card", lambda: tiny)
    found = costs.outside_ms(repository, 5)
    assert {name: len(values) for name, values in found.items()} == {"exact": 5, "fast_decode": 5}
    assert 10 < min(found["fast_decode"]) < min(found["exact"]) < 10_000


def test_a_server_with_depth_alone(repository, tiny, monkeypatch, tmp_path):
    monkeypatch.setattr(repositories, "depth_card", lambda: tiny)
    folder = copied(repository, to=tmp_path / "repository")
    repositories.add_measured_depth(folder, "fp32")
    monkeypatch.setattr(costs, "_RESTED_AFTER_S", 0.0)
    found = costs.depth_alone({FP32: folder}, 1)["fp32"]
    assert 0 < found["start_s"][0] < 600
    assert all(0.1 < found[f"{when}_gb"][0] < 2 for when in ("ready", "answered", "rested"))
    assert found["ready_gb"] < found["answered_gb"]
    assert list(tmp_path.iterdir()) == [folder]


def test_the_time_of_one_that_computes_nothing(monkeypatch):
    monkeypatch.setattr(costs, "_SETTLED_AFTER_S", 0.0)
    monkeypatch.setattr(costs, "_AT_REST_S", 1.0)
    times = iter([5.0, 5.25])
    monkeypatch.setattr(Process, "cpu_s", lambda _: next(times))
    assert costs.at_rest_percent(Process("x", os.getpid(), 0)) == [pytest.approx(25, abs=5)]


def test_a_process_is_counted_with_its_children():
    one = Process("x", os.getpid(), 0)
    before = one.cpu_s()
    sum(range(5_000_000))
    assert one.cpu_s() > before > 0
