"""What the DepthFlow API tells of itself: health, status, monitoring, presets."""

from __future__ import annotations

import os
import uuid
from datetime import datetime
from pathlib import Path

import pytest
from fixtures.depthflow import BROKEN, FLAKY, SHORT, Service, serving
from fixtures.waiting import until
from prometheus_client import CollectorRegistry

from depthface.cores import Cores
from depthface_gateway.depthflow import figures
from depthface_gateway.depthflow.clips import TASK
from depthface_gateway.depthflow.figures import cpu_percent, errors, health_of, memory_percent
from depthface_gateway.depthflow.wire import Task
from depthface_gateway.jobs.claims import NewJob
from depthface_gateway.jobs.core import Core
from depthface_gateway.jobs.database import Database
from depthface_gateway.jobs.queue import Queue
from depthface_gateway.jobs.results import ResultStore


def test_figures(service: Service) -> None:
    for path in ("/", "/health"):
        body = service.ask("GET", path).json()
        assert set(body) == {"status", "version", "timestamp"} and body["status"] == "healthy"
    until(lambda: service.ask("GET", "/api/v1/status").json()["workers"] == 1, "the worker's first sign of life")
    assert service.ask("GET", "/api/v1/monitoring/metrics").json()["storage"]["free_bytes"] > 0
    assert service.ask("GET", "/api/v1/monitoring/errors?hours=1").json()["hours"] == 1
    assert service.ask("GET", "/api/v1/monitoring/errors?hours=0").json()["error"] == "parameter_validation_error"


def test_the_status_has_the_originals_figures(service: Service) -> None:
    status = service.ask("GET", "/api/v1/status").json()
    gpu = {name: told for name, told in status.items() if name.startswith("gpu_")}
    assert gpu == {"gpu_available": False, "gpu_memory_used": None, "gpu_temperature": None, "gpu_utilization": None}
    assert 0 <= status["cpu_percent"] <= 100 and 0 <= status["memory_percent"] <= 100
    assert (status["queue_length"], status["active_tasks"], status["max_concurrent_tasks"]) == (0, 0, 1)


def test_how_busy_the_machine_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cores = Cores.found().count
    for load, percent in ((0, 0.0), (cores / 2, 50.0), (4 * cores, 100.0)):
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load, 0.0, 0.0))
        assert cpu_percent() == percent
    meminfo = tmp_path / "meminfo"
    assert memory_percent(meminfo) == 0.0, "there is no such file"
    meminfo.write_text("MemTotal:       16000 kB\nMemFree:         1000 kB\n")
    assert memory_percent(meminfo) == 0.0, "it does not say"
    meminfo.write_text("MemTotal:       16000 kB\n\nMemAvailable:    4000 kB\nHugePages_Total:       0\n")
    assert memory_percent(meminfo) == 75.0


def test_a_task_is_updated_by_each_progress(tmp_path: Path) -> None:
    """Who sees it stand still takes it for hung, and cancels it."""
    now_ms = 1_700_000_000_000
    database = Database(f"sqlite:///{tmp_path}/jobs.sqlite3", lambda: now_ms)
    queue = Queue(database, [TASK])
    queue.add(NewJob("clip", TASK, "photo"))
    updated = []

    def look() -> None:
        job = queue.get("clip")
        assert job is not None
        updated.append(int(Task.of(job).updated_at.timestamp() * 1000) - 1_700_000_000_000)

    look()
    now_ms += 1000
    claim = queue.claim("w")
    assert claim is not None
    look()
    for share in (0.2, 0.2, 0.5):  # by the second it stands still
        now_ms += 1000
        queue.renew("w", {claim: share})
        look()
    now_ms += 1000
    assert queue.finish(claim, {}, lambda: None)
    look()
    assert updated == [0, 1000, 2000, 2000, 4000, 5000]
    database.close()


def test_what_became_of_the_tasks(tmp_path: Path) -> None:
    with serving(tmp_path) as service:
        told = service.ask("GET", "/api/v1/monitoring/metrics").json()
        assert not any(told["task_stats"].values()) and told["system_health"] == "unknown"
        assert told["error_counts"] == told["error_rates_5min"] == {}
        good = [service.ended(service.process({"depth_model": model})) for model in (None, FLAKY)]
        bad = service.ended(service.process({"depth_model": BROKEN}))
        told = service.ask("GET", "/api/v1/monitoring/metrics").json()
        report = service.ask("GET", "/api/v1/monitoring/errors?hours=1").json()
    times = [task["metadata"]["processing_time"] for task in good]
    assert told["task_stats"] == {
        "total_tasks": 3,
        "completed_tasks": 2,
        "failed_tasks": 1,
        "retried_tasks": 1,
        "average_processing_time": pytest.approx(sum(times) / 2, abs=0.001),
    }
    assert datetime.fromisoformat(told["timestamp"]) >= datetime.fromisoformat(bad["updated_at"])
    assert told["error_counts"] == told["error_rates_5min"] == {"task_failed": 1}
    assert (told["recent_metrics"], told["active_timers"], told["system_health"]) == ({}, [], "warning")
    (recent,) = report["recent_errors"]
    assert (recent["type"], recent["task_id"]) == ("task_failed", bad["task_id"])
    assert recent["message"] == bad["error_message"] == "The model is broken. Take another."
    assert datetime.fromisoformat(recent["timestamp"]) == datetime.fromisoformat(bad["updated_at"])
    of_type = {"count": 1, "percentage": 100.0, "latest_error": recent["message"]}
    assert report["error_types"] == {"task_failed": of_type} and report["time_range"] == "last 1 h"
    assert report["total_errors"] == report["total"] == 1 and report["errors"] == [recent]


def test_an_error_is_as_old_as_the_failure(tmp_path: Path) -> None:
    now_ms, hour_ms = 1, 3_600_000
    database = Database(f"sqlite:///{tmp_path}/x.sqlite3", clock=lambda: now_ms)
    queue = Queue(database, (TASK,))
    queue.add(NewJob(str(uuid.uuid4()), TASK, "upload"))
    now_ms += 2 * hour_ms
    claim = queue.claim("worker")
    assert claim is not None and queue.fail(claim, "It failed.")
    now_ms += hour_ms // 2
    assert errors(queue, 1)["total_errors"] == 1
    now_ms += hour_ms
    assert errors(queue, 1)["total_errors"] == 0
    database.close()


def test_all_errors_are_counted_though_only_the_latest_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "_MOST_ERRORS", 2)
    database = Database(f"sqlite:///{tmp_path}/x.sqlite3")
    core = Core(Queue(database, (TASK,)), ResultStore(tmp_path), CollectorRegistry())
    for number in range(3):
        core.queue.add(NewJob(str(uuid.uuid4()), TASK, "upload"))
        claim = core.queue.claim("worker")
        assert claim is not None and core.queue.fail(claim, f"{number} failed.")
    report, told = errors(core.queue, 1), figures.metrics(core)
    assert [one["message"] for one in report["errors"]] == ["2 failed.", "1 failed."]
    assert report["total_errors"] == report["total"] == report["error_types"]["task_failed"]["count"] == 3
    assert told["error_counts"] == told["error_rates_5min"] == {"task_failed": 3}
    database.close()


@pytest.mark.parametrize(
    ("total", "failed", "health"),
    [(0, 0, "unknown"), (5, 1, "healthy"), (4, 1, "warning"), (2, 1, "warning"), (3, 2, "critical")],
)
def test_health_is_a_share_of_failures(total: int, failed: int, health: str) -> None:
    assert health_of(total, failed) == health


def test_presets(service: Service) -> None:
    presets = service.ask("GET", "/api/v1/presets").json()
    assert [preset["name"] for preset in presets] == ["快速預覽", "高品質", "GIF 動圖"]
    assert [preset["is_default"] for preset in presets] == [True, False, False]
    wanted = [preset["parameters"] for preset in presets]
    names = ("depth_strength", "animation_duration", "fps", "resolution", "output_format")
    told = [tuple(one[name] for name in names) for one in wanted]
    assert told == [(1.0, 2.0, 24, 720, "mp4"), (2.0, 5.0, 60, 1920, "mp4"), (1.5, 3.0, 15, 480, "gif")]
    for one in wanted:
        assert service.ended(service.process(one | SHORT))["status"] == "completed", "what is named can be asked for"
