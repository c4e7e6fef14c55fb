"""The worker: how it does jobs, deletions meanwhile, and stopping."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from fixtures.waiting import HANGS_AFTER_S

from depthface_gateway.jobs import results
from depthface_gateway.jobs.database import Database
from depthface_gateway.jobs.inference import Try
from depthface_gateway.jobs.worker import Worker, WorkerOptions

on_both = pytest.mark.parametrize("world", ["sqlite", "postgresql"], indirect=True)


@on_both
def test_a_job_is_done(world) -> None:
    job_id = world.add(photo=b"the photo")
    world.run(lambda: world.status(job_id) == "completed")
    job = world.job(job_id)
    assert job is not None and job.result == '{"number": 1}' and job.error_message is None and job.progress == 1
    assert job.created_at <= (job.started_at or 0) <= (job.completed_at or 0)
    assert (world.files.root / job_id / "embedding.bin").read_bytes() == b"the photo"
    assert list((world.files.root / ".partial").iterdir()) == []
    assert world.queue.workers() == 0, "it has said goodbye"


@on_both
def test_a_job_that_is_deleted_while_it_runs_is_dropped(world) -> None:
    stopped = asyncio.Event()

    async def wait(attempt: Try) -> None:
        try:
            await asyncio.sleep(HANGS_AFTER_S)
        finally:
            stopped.set()

    world.answers = [wait]
    world.change_queue(lease_ms=3000)  # a fifth of it, and the worker looks
    job_id = world.add()

    async def delete(worker: Worker) -> None:
        while not world.tries:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(world.queue.delete, job_id)
        await stopped.wait()
        others.append(world.add("8"))

    others: list[str] = []
    world.run(lambda: world.status(others[0]) == "completed", delete)
    assert world.status(job_id) == "gone" and not (world.files.root / job_id).exists()
    assert list((world.files.root / ".partial").iterdir()) == []


@on_both
def test_a_slow_disk_costs_nobody_a_lease(world, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def flush(folder: Path) -> None:
        begun.set()
        go_on.wait(HANGS_AFTER_S)

    monkeypatch.setattr(results, "_flush", flush)
    job_id = world.add()

    async def renew(worker: Worker) -> None:
        try:
            await asyncio.to_thread(begun.wait, HANGS_AFTER_S)
            claims = dict.fromkeys(worker._running, 0.5)
            beat = asyncio.to_thread(world.queue.renew, worker.worker_id, claims)
            assert claims and await asyncio.wait_for(beat, 5) == set()
        finally:
            go_on.set()

    world.run(lambda: world.status(job_id) == "completed", renew)


def test_a_worker_that_stops_ends_what_it_does(world) -> None:
    stopped = asyncio.Event()

    async def slow(attempt: Try) -> None:
        await stopped.wait()

    async def stop(worker: Worker) -> None:
        while not world.tries:
            await asyncio.sleep(0.01)
        worker.stop()
        stopped.set()

    world.answers = [slow]
    job_id = world.add()
    waits = [world.add(str(number)) for number in range(10, 20)]
    world.options = WorkerOptions(concurrency=1, poll_s=0.02, grace_s=HANGS_AFTER_S)
    world.run(lambda: True, stop)
    assert world.status(job_id) == "completed" and {world.status(one) for one in waits} == {"pending"}


def test_what_a_worker_cannot_end_in_time_is_put_back(world) -> None:
    async def slow(attempt: Try) -> None:
        await asyncio.sleep(HANGS_AFTER_S)

    world.answers = [slow]
    world.options = WorkerOptions(poll_s=0.02, grace_s=0.1)
    job_id = world.add()
    world.run(lambda: bool(world.tries))
    job = world.job(job_id)
    assert job is not None and (job.status, job.retry_count) == ("pending", 0)
    world.run(lambda: world.status(job_id) == "completed")
    job = world.job(job_id)
    assert job is not None and job.retry_count == 0, "it was nobody's fault"


@on_both
def test_jobs_wait_for_a_worker_and_are_done_in_order(world) -> None:
    """Made while nobody works, by a process that has ended since: priority first, then age."""
    priorities = [5, 0, 10, 5, 10, 3, 0, 7, 10, 5]
    jobs = [world.add(str(index), priority=priority) for index, priority in enumerate(priorities)]
    world.queue.database.close()
    url = world.queue.database.engine.url.render_as_string(hide_password=False)
    world.change_queue(Database(url))
    world.options = WorkerOptions(concurrency=1, poll_s=0.02)
    world.run(lambda: world.queue.counts() == {"completed": len(jobs)})
    expected = sorted(range(len(jobs)), key=lambda index: (-priorities[index], index))
    assert [attempt.job.job_id for attempt in world.tries] == [jobs[index] for index in expected]
    world.queue.database.close()


def test_several_jobs_are_done_at_once_and_no_more_than_allowed(world) -> None:
    together, most = 0, 0
    as_many_as_allowed = asyncio.Event()

    async def slow(attempt: Try) -> None:
        nonlocal together, most
        together += 1
        most = max(most, together)
        if together == 3:
            as_many_as_allowed.set()
        await as_many_as_allowed.wait()
        await asyncio.sleep(0.1)  # one more, were it let in, would come meanwhile
        together -= 1

    world.answers = [slow] * 9
    world.options = WorkerOptions(concurrency=3, poll_s=0.02)
    jobs = [world.add(str(number)) for number in range(9)]
    world.run(lambda: world.queue.counts() == {"completed": len(jobs)})
    assert most == 3


def test_an_upload_is_used_and_then_deleted(world) -> None:
    job_id = world.upload(b"uploaded")
    world.run(lambda: world.status(job_id) == "completed")
    assert world.tries[0].photo == b"uploaded" and world.store.paths == []
    assert list((world.files.root / ".uploads").iterdir()) == []
