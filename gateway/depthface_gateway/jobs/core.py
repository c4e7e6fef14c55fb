"""What a contract with jobs is made of: its tables, its files, and a worker if it is to have one of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from prometheus_client import CollectorRegistry

from depthface.errors import ConfigError
from depthface_gateway.context import Context
from depthface_gateway.jobs.claims import Claim
from depthface_gateway.jobs.database import Database, url_in
from depthface_gateway.jobs.inference import Task
from depthface_gateway.jobs.media import MediaStore
from depthface_gateway.jobs.metrics import TableMetrics, WorkerMetrics
from depthface_gateway.jobs.queue import Queue
from depthface_gateway.jobs.results import MARK, ResultStore
from depthface_gateway.jobs.settings import JobSettings
from depthface_gateway.jobs.sync import Parcel
from depthface_gateway.jobs.worker import Worker, WorkerOptions

__all__ = ["Core", "Telling", "count_tables", "opened", "working"]


@dataclass
class Core:
    """Tables, files and metrics of one contract; `worker` is None where the work is done in other processes."""

    queue: Queue
    store: ResultStore
    registry: CollectorRegistry
    worker: Worker | None = None

    def wake(self) -> None:
        """Say that a job has come."""
        if self.worker is not None:
            self.worker.wake()


class Telling(Protocol):
    """Who is told of jobs' ends."""

    async def tell(self, parcel: Parcel) -> None:
        """Tell it; raises an error of depthface where it has to be tried again."""

    def is_told(self, claim: Claim, is_success: bool) -> bool:
        """Whether anybody is to be told of this job."""


@asynccontextmanager
async def opened(context: Context, settings: JobSettings, storage: Path, tasks: Iterable[str]) -> AsyncIterator[Core]:
    """Open the tables and the files of some tasks, and close them.

    Raises:
        ConfigError: one of them cannot be used, or the folder is not the one that the database knows.
    """
    database = await asyncio.to_thread(lambda: Database(context.database or url_in(context.data)))
    try:
        queue = Queue(database, tuple(tasks), max_retries=settings.max_retries, lease_ms=round(1000 * settings.lease_s))
        store = await asyncio.to_thread(_store, queue, storage)
        yield Core(queue, store, CollectorRegistry())
    finally:
        database.close()


def _store(queue: Queue, storage: Path) -> ResultStore:
    """Open the folder of the jobs' files; one whose share is not mounted would lose them all."""
    store = ResultStore(storage)
    noted = queue.note_store(store.mark)
    if store.mark != noted:
        raise ConfigError(
            f"The folder for jobs, {storage}, is not the one in which the jobs of this database have their files: "
            f"its file {MARK} says {store.mark}, and the database {noted}.",
            "Mount that one, or name it with --data. If this one is to take its place, write "
            f"{noted} into {storage / MARK}.",
        )
    return store


@asynccontextmanager
async def working(
    core: Core, context: Context, settings: JobSettings, tasks: Mapping[str, Task], telling: Telling | None = None
) -> AsyncIterator[Worker]:
    """Have a worker do the jobs meanwhile; `context.triton` is open already.

    Args:
        telling: who is told of jobs' ends; None: the media store, where the settings say so.
    """
    async with MediaStore(settings.media_store_url, context.settings.max_body_bytes) as media:
        worker = Worker(
            queue=core.queue,
            store=core.store,
            media=media,
            tasks=tasks,
            metrics=WorkerMetrics(core.registry),
            options=WorkerOptions(settings.concurrency, settings.poll_s, settings.grace_s),
            is_ready=lambda: context.triton.is_alive,
        )
        if telling is not None:
            worker.tell, worker.is_told = telling.tell, telling.is_told
        elif settings.gives_results:
            worker.tell = lambda parcel: media.give(parcel.media_store_id, parcel.result)
        core.worker = worker
        run = asyncio.create_task(worker.run(), name="worker")
        try:
            yield worker
        finally:
            worker.stop()
            await run


def count_tables(core: Core) -> None:
    """Have the metrics tell what the tables say."""
    core.registry.register(TableMetrics(core.queue))
