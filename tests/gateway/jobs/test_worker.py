"""The worker: what becomes of each failure, deletions meanwhile, stopping, overload, and results on their way."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fixtures.media_store import Store
from fixtures.waiting import HANGS_AFTER_S
from prometheus_client import CollectorRegistry

from depthface.errors import (
    InvalidImage,
    ServerFault,
    ServerOverloaded,
    ServerUnavailable,
)
from depthface_gateway.jobs.database import Database
from depthface_gateway.jobs.inference import Try
from depthface_gateway.jobs.media import MediaStore, MediaUnavailable
from depthface_gateway.jobs.metrics import WorkerMetrics
from depthface_gateway.jobs.models import Job
from depthface_gateway.jobs.queue import UPLOAD, NewJob, Queue
from depthface_gateway.jobs.results import ResultStore
from depthface_gateway.jobs.sync import Parcel
from depthface_gateway.jobs.worker import Worker, WorkerOptions

T = "face_detection"
LEASE_MS = 600_000
"""So long that no job is lost to a machine that stands still for a while."""

on_both = pytest.mark.parametrize("world", ["sqlite", "postgresql"], indirect=True)


@dataclass
class World:
    """A worker with its queue, files and media store, and the task that it does."""

    queue: Queue
    files: ResultStore
    store: Store
    answers: list[Any] = field(default_factory=list)
    tries: list[Try] = field(default_factory=list)
    options: WorkerOptions = field(default_factory=lambda: WorkerOptions(poll_s=0.02, grace_s=HANGS_AFTER_S))
    is_ready: bool = True
    gives_results: bool = False
    tell: Callable[[Parcel], Awaitable[None]] | None = None

    async def task(self, attempt: Try) -> Mapping[str, Any]:
        """Answer what is next in `answers`: an error, something to wait for, or nothing: success."""
        self.tries.append(attempt)
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, BaseException):
            raise answer
        if callable(answer):
            await answer(attempt)
        (attempt.folder / "embedding.bin").write_bytes(attempt.photo)
        return {"number": len(self.tries)}

    def add(self, media: str = "7", photo: bytes | None = b"photo", **more: Any) -> str:
        job_id = str(uuid.uuid4())
        if photo is not None:
            self.store.photos[media] = photo
        self.queue.add(NewJob(job_id, T, media, **more))
        return job_id

    def job(self, job_id: str) -> Job | None:
        return self.queue.get(job_id)

    def run(self, until: Callable[[], bool], during: Callable[[Worker], Awaitable[None]] | None = None) -> Worker:
        """Let a worker work until something is so, then stop it."""

        async def main() -> Worker:
            async with MediaStore(self.store.url, 10**6) as media:
                worker = Worker(
                    self.queue, self.files, media, {T: self.task}, WorkerMetrics(CollectorRegistry()), self.options,
                    is_ready=lambda: self.is_ready, tell=self.tell,
                )  # fmt: skip
                if self.gives_results:
                    worker.tell = lambda parcel: media.give(parcel.media_store_id, parcel.result)
                run = asyncio.create_task(worker.run())
                try:
                    async with asyncio.timeout(HANGS_AFTER_S):
                        if during is not None:
                            await during(worker)
                        while not await asyncio.to_thread(until):
                            await asyncio.sleep(0.01)
                finally:
                    worker.stop()
                    await run
            return worker

        return asyncio.run(main())

    def status(self, job_id: str) -> str:
        job = self.job(job_id)
        return "gone" if job is None else job.status


@pytest.fixture
def world(request: pytest.FixtureRequest, tmp_path: Path, store: Store) -> Iterator[World]:
    """With SQLite, or where a test asks for it with PostgreSQL."""
    if getattr(request, "param", "") == "postgresql":
        url = request.getfixturevalue("postgres_server").new()
    else:
        url = f"sqlite:///{tmp_path / 'jobs.sqlite3'}"
    database = Database(url)
    yield World(Queue(database, [T], lease_ms=LEASE_MS), ResultStore(tmp_path / "jobs"), store)
    database.close()


@on_both
def test_a_job_is_done(world: World) -> None:
    job_id = world.add(photo=b"the photo")
    world.run(lambda: world.status(job_id) == "completed")
    job = world.job(job_id)
    assert job is not None and job.result == '{"number": 1}' and job.error_message is None and job.progress == 1
    assert job.created_at <= (job.started_at or 0) <= (job.completed_at or 0)
    assert (world.files.root / job_id / "embedding.bin").read_bytes() == b"the photo"
    assert list((world.files.root / ".partial").iterdir()) == []
    assert world.queue.workers() == 0, "it has said goodbye"


def test_a_bad_photo_ends_its_job_at_once_and_leaves_nothing(world: World) -> None:
    world.answers = [InvalidImage("The bytes are no photo.", "Send a JPEG.")]
    job_id = world.add()
    world.run(lambda: world.status(job_id) == "error")
    job = world.job(job_id)
    assert job is not None and job.error_message == "The bytes are no photo. Send a JPEG." and job.retry_count == 0
    assert not (world.files.root / job_id).exists() and list((world.files.root / ".partial").iterdir()) == []


@on_both
def test_what_passes_is_tried_again_with_the_priority_of_before(world: World) -> None:
    world.answers = [ServerFault("broken")]
    job_id = world.add(priority=9)
    world.run(lambda: world.status(job_id) == "completed")
    job = world.job(job_id)
    assert job is not None and (job.retry_count, job.priority, job.error_message) == (1, 9, None)


def test_what_does_not_pass_is_given_up(world: World) -> None:
    world.queue = Queue(world.queue.database, [T], lease_ms=LEASE_MS, max_retries=1)
    world.answers = [RuntimeError("a secret"), MediaUnavailable("The store is away.")]
    job_id = world.add()
    world.run(lambda: world.status(job_id) == "error")
    job = world.job(job_id)
    assert job is not None and job.error_message == "The store is away. It was tried 2 times." and len(world.tries) == 2


def test_a_server_that_is_away_costs_no_try_and_no_place(world: World) -> None:
    """More outages than there are tries; the first job stays the first."""
    world.answers = [ServerUnavailable("away"), ServerOverloaded("full"), *[ServerUnavailable("away")] * 4]
    world.options = WorkerOptions(concurrency=1, poll_s=0.02)
    first, second = world.add("1"), world.add("2")

    async def hurry(worker: Worker) -> None:
        while len(world.tries) < 7:
            worker._failures = min(worker._failures, 1)
            await asyncio.sleep(0.01)

    world.run(lambda: world.status(second) == "completed", hurry)
    assert [attempt.job.job_id for attempt in world.tries] == [first] * 7 + [second]
    job = world.job(first)
    assert job is not None and (job.status, job.retry_count) == ("completed", 0)


def test_nothing_is_taken_while_no_server_lives(world: World) -> None:
    world.is_ready = False
    job_id = world.add()

    async def look(worker: Worker) -> None:
        await asyncio.sleep(0.3)
        assert world.tries == [] and world.status(job_id) == "pending"
        world.is_ready = True

    world.run(lambda: world.status(job_id) == "completed", look)


@on_both
def test_a_job_that_is_deleted_while_it_runs_is_dropped(world: World) -> None:
    stopped = asyncio.Event()

    async def wait(attempt: Try) -> None:
        try:
            await asyncio.sleep(HANGS_AFTER_S)
        finally:
            stopped.set()

    world.answers = [wait]
    world.queue = Queue(world.queue.database, [T], lease_ms=3000)  # a fifth of it, and the worker looks
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


def test_a_worker_that_stops_ends_what_it_does(world: World) -> None:
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


def test_what_a_worker_cannot_end_in_time_is_put_back(world: World) -> None:
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
def test_jobs_wait_for_a_worker_and_are_done_in_order(world: World) -> None:
    """Made while nobody works, by a process that has ended since: priority first, then age."""
    priorities = [5, 0, 10, 5, 10, 3, 0, 7, 10, 5]
    jobs = [world.add(str(index), priority=priority) for index, priority in enumerate(priorities)]
    world.queue.database.close()
    url = world.queue.database.engine.url.render_as_string(hide_password=False)
    world.queue = Queue(Database(url), [T], lease_ms=LEASE_MS)
    world.options = WorkerOptions(concurrency=1, poll_s=0.02)
    world.run(lambda: world.queue.counts() == {"completed": len(jobs)})
    expected = sorted(range(len(jobs)), key=lambda index: (-priorities[index], index))
    assert [attempt.job.job_id for attempt in world.tries] == [jobs[index] for index in expected]
    world.queue.database.close()


def test_several_jobs_are_done_at_once_and_no_more_than_allowed(world: World) -> None:
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


def test_an_upload_is_used_and_then_deleted(world: World) -> None:
    job_id = str(uuid.uuid4())
    world.files.keep_upload(job_id, b"uploaded")
    world.queue.add(NewJob(job_id, T, "upload-abc", parameters={UPLOAD: True}))
    world.run(lambda: world.status(job_id) == "completed")
    assert world.tries[0].photo == b"uploaded" and world.store.paths == []
    assert list((world.files.root / ".uploads").iterdir()) == []


def test_an_upload_that_is_gone_ends_its_job(world: World) -> None:
    job_id = str(uuid.uuid4())
    world.queue.add(NewJob(job_id, T, "upload-abc", parameters={UPLOAD: True}))
    world.run(lambda: world.status(job_id) == "error")
    job = world.job(job_id)
    assert job is not None and "is gone" in (job.error_message or "")


@on_both
def test_the_media_store_has_the_result_though_it_failed_once(world: World) -> None:
    world.gives_results = True
    job_id = world.add()

    async def fail(worker: Worker) -> None:
        world.store.failures = []

    async def at_the_end(attempt: Try) -> None:
        world.store.failures = [503]

    world.answers = [at_the_end]
    world.run(lambda: bool(world.store.results), fail)
    assert world.store.results == {"7": {"number": 1}} and world.status(job_id) == "completed"


def test_a_result_that_the_media_store_refuses_is_kept_and_the_job_says_so(world: World) -> None:
    world.gives_results = True
    job_id = world.add()

    async def at_the_end(attempt: Try) -> None:
        world.store.failures = [500, 500, 500]

    world.answers = [at_the_end]
    world.run(lambda: world.status(job_id) == "sync_failed")
    job = world.job(job_id)
    assert job is not None and job.result == '{"number": 1}' and "answered 500" in (job.error_message or "")


def test_the_end_of_a_job_that_killed_its_workers_is_told(world: World) -> None:
    told: list[Parcel] = []

    async def tell(parcel: Parcel) -> None:
        told.append(parcel)

    async def listen(worker: Worker) -> None:
        worker.is_told = lambda claim, is_success: not is_success

    world.tell = tell
    job_id = world.add()
    for _ in range(4):
        claim = world.queue.claim("dead")
        assert claim is not None and world.queue.give_back(claim, None, counts=True)
    world.run(lambda: bool(told), listen)
    assert [(parcel.job_id, parcel.status) for parcel in told] == [(job_id, "error")] and world.tries == []


def test_a_full_disk_loses_no_job(world: World, small_disk: Path) -> None:
    """The job waits, says why, and is done when there is room again."""
    world.files = ResultStore(small_disk)
    (small_disk / "ballast").write_bytes(bytes(40_000))
    job_id = world.add(photo=bytes(40_000))

    async def wait_and_make_room(worker: Worker) -> None:
        while True:
            job = await asyncio.to_thread(world.job, job_id)
            if job is not None and "No space left" in (job.error_message or ""):
                break
            await asyncio.sleep(0.01)
        (small_disk / "ballast").unlink()

    world.run(lambda: world.status(job_id) == "completed", wait_and_make_room)
    job = world.job(job_id)
    assert job is not None and job.retry_count == 0 and job.error_message is None
    assert (small_disk / job_id / "embedding.bin").stat().st_size == 40_000
