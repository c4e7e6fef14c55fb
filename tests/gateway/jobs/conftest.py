"""Databases of both kinds, a media store, and a worker with all that it needs."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fixtures.media_store import Store, media_store
from fixtures.postgres import Postgres, postgres
from fixtures.waiting import HANGS_AFTER_S
from prometheus_client import CollectorRegistry

from depthface_gateway.jobs.claims import UPLOAD, NewJob
from depthface_gateway.jobs.database import Database
from depthface_gateway.jobs.inference import Try
from depthface_gateway.jobs.media import MediaStore
from depthface_gateway.jobs.metrics import WorkerMetrics
from depthface_gateway.jobs.models import Job
from depthface_gateway.jobs.queue import Queue
from depthface_gateway.jobs.results import ResultStore
from depthface_gateway.jobs.sync import Parcel
from depthface_gateway.jobs.worker import Worker, WorkerOptions

NewUrl = Callable[[], str]

TASK = "face_detection"
LONG_LEASE_MS = 600_000
"""So long that no job is lost to a machine that stands still for a while."""


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    with postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'jobs.sqlite3'}"
    server: Postgres = request.getfixturevalue("postgres_server")
    return server.new()


class Clock:
    """A time that the test sets, in ms."""

    def __init__(self) -> None:
        self.now_ms = 1_700_000_000_000

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database(database_url: str, clock: Clock) -> Iterator[Database]:
    """An up-to-date database whose time the test sets."""
    made = Database(database_url, clock)
    yield made
    made.close()


@pytest.fixture
def store() -> Iterator[Store]:
    """A media store."""
    with media_store() as running:
        yield running


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
        self.queue.add(NewJob(job_id, TASK, media, **more))
        return job_id

    def upload(self, photo: bytes | None) -> str:
        """Add a job whose photo comes with it; None for one that is gone."""
        job_id = str(uuid.uuid4())
        if photo is not None:
            self.files.keep_upload(job_id, photo)
        self.queue.add(NewJob(job_id, TASK, f"upload-{job_id}", parameters={UPLOAD: True}))
        return job_id

    def change_queue(self, database: Database | None = None, **options: Any) -> None:
        self.queue = Queue(database or self.queue.database, [TASK], **{"lease_ms": LONG_LEASE_MS} | options)

    def job(self, job_id: str) -> Job | None:
        return self.queue.get(job_id)

    def run(self, until: Callable[[], bool], during: Callable[[Worker], Awaitable[None]] | None = None) -> Worker:
        """Let a worker work until something is so, then stop it."""

        async def main() -> Worker:
            async with MediaStore(self.store.url, 10**6) as media:
                worker = Worker(
                    self.queue, self.files, media, {TASK: self.task}, WorkerMetrics(CollectorRegistry()), self.options,
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
    yield World(Queue(database, [TASK], lease_ms=LONG_LEASE_MS), ResultStore(tmp_path / "jobs"), store)
    database.close()
