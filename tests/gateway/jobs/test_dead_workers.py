"""Workers that are killed in mid-job: others take over, each job ends once, nothing is lost.

DEPTHFACE_JOBS says how many jobs the longest test has; 10000 takes some minutes.
"""

from __future__ import annotations

import json
import os
import random
import time
import uuid
from collections import Counter
from pathlib import Path

from fixtures.job_worker import TASK, WorkerProcess
from fixtures.waiting import until

from depthface_gateway.jobs.claims import UPLOAD, NewJob
from depthface_gateway.jobs.database import Database
from depthface_gateway.jobs.queue import Queue
from depthface_gateway.jobs.results import ResultStore

LEASE_MS = 1500
JOBS = int(os.environ.get("DEPTHFACE_JOBS", "90"))
KILLS = max(3, JOBS // 300)


def fill(queue: Queue, files: ResultStore, count: int, chance: random.Random) -> dict[str, int]:
    """Make jobs whose photos came with them; return their priorities by id, in order."""
    jobs = {str(uuid.UUID(int=chance.getrandbits(128), version=4)): chance.randint(0, 10) for _ in range(count)}
    for job_id, priority in jobs.items():
        files.keep_upload(job_id, b"photo")
        queue.add(NewJob(job_id, TASK, f"upload-{job_id}", priority, parameters={UPLOAD: True}))
    return jobs


def wait_for(queue: Queue, count: int) -> None:
    until(lambda: queue.counts().get("completed", 0) >= count, f"the end of {count} jobs")


def test_a_killed_workers_job_is_taken_over(database_url: str, tmp_path: Path) -> None:
    database, files = Database(database_url), ResultStore(tmp_path / "jobs")
    queue = Queue(database, [TASK], lease_ms=LEASE_MS)
    (job_id,) = fill(queue, files, 1, random.Random(3))
    first = WorkerProcess(database_url, files.root, lease_ms=LEASE_MS, pause_s=600)
    first.wait_until_it_works()
    second = WorkerProcess(database_url, files.root, lease_ms=LEASE_MS)
    try:
        first.kill()
        killed = time.monotonic()
        wait_for(queue, 1)
        took_s = time.monotonic() - killed
        print(f"taken over and done {took_s:.2f} s after the kill, with a lease of {LEASE_MS / 1000} s")
        job = queue.get(job_id)
        assert job is not None and job.result is not None
        assert job.retry_count >= 1  # and more where the machine stood still for longer than the second one's lease
        assert (files.root / job_id / "embedding.bin").read_text() == json.loads(job.result)["claim"]
    finally:
        assert second.stop() == 0
    files.sweep(queue.active_claims, lambda _: False)
    assert list((files.root / ".partial").iterdir()) == []
    database.close()


def test_whoever_is_killed_the_jobs_that_were_begun_are_the_first_by_priority_and_age(
    database_url: str, tmp_path: Path
) -> None:
    """One worker after another; of several at once, one may pass over what the other is just about to take."""
    database, files = Database(database_url), ResultStore(tmp_path / "jobs")
    queue = Queue(database, [TASK], lease_ms=LEASE_MS, max_retries=1000)
    jobs = fill(queue, files, 60, random.Random(9))
    order = sorted(jobs, key=lambda job_id: -jobs[job_id])  # those of one priority stay as they came
    for count in (3, 20, 40, 60):
        worker = WorkerProcess(database_url, files.root, lease_ms=LEASE_MS, pause_s=0.04)
        try:
            wait_for(queue, count)
        finally:
            worker.kill()
        begun = {job_id for job_id, job in queue.get_many(order).items() if job.started_at is not None}
        assert begun == set(order[: len(begun)])
    assert len(begun) == 60
    database.close()


def test_killed_at_random_each_job_is_done_and_none_is_lost(database_url: str, tmp_path: Path) -> None:
    """Three workers, killed again and again; what a job says and what its file says come from the same try."""
    database, files = Database(database_url), ResultStore(tmp_path / "jobs")
    queue = Queue(database, [TASK], lease_ms=LEASE_MS, max_retries=1000)
    chance = random.Random(5)
    jobs: dict[str, int] = {}

    def start() -> WorkerProcess:
        return WorkerProcess(database_url, files.root, lease_ms=LEASE_MS, pause_s=0.05)

    workers = [start() for _ in range(3)]
    started = time.monotonic()
    try:
        for _ in range(KILLS):  # each in the middle of jobs of its own, however quick the workers are
            before = len(jobs)
            jobs |= fill(queue, files, JOBS // KILLS, chance)
            wait_for(queue, before + 1)
            time.sleep(chance.random() / 10)
            index = chance.randrange(3)
            workers[index].kill()
            workers[index] = start()
        wait_for(queue, len(jobs))
    finally:
        for worker in workers:
            worker.kill()
    tries = Counter((files.root / "tries").read_text().split())
    rate = len(jobs) / (time.monotonic() - started)
    print(f"{len(jobs)} jobs, {KILLS} kills, {sum(tries.values())} tries, {rate:.0f} jobs/s")
    assert queue.counts() == {"completed": len(jobs)} and set(tries) == set(jobs)
    for job_id in jobs:
        job = queue.get(job_id)
        assert job is not None and job.result is not None
        assert (files.root / job_id / "embedding.bin").read_text() == json.loads(job.result)["claim"]
    database.close()
