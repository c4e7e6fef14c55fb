"""What happens to jobs, as server-sent events (WHATWG HTML, 9.2). One question to the database serves all who watch."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.exc import SQLAlchemyError

from depthface_gateway.jobs.models import FINISHED, Job
from depthface_gateway.jobs.queue import Queue
from depthface_gateway.loops import repeat

__all__ = ["Hub"]

_LOOK_EVERY_S = 0.3
_SIGN_OF_LIFE_EVERY_S = 15.0  # proxies close what is silent


class Hub:
    """Looks at the jobs that somebody watches."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._watched: Counter[str] = Counter()
        self._jobs: dict[str, Job | None] = {}  # those that were looked at; None where there is no such job
        self._looked = asyncio.Event()
        self._somebody = asyncio.Event()
        self._is_closed = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Hub]:
        """Look meanwhile, as long as somebody watches."""
        looking = asyncio.create_task(repeat(self._look, _LOOK_EVERY_S, "no events", (SQLAlchemyError,)), name="events")
        try:
            yield self
        finally:
            self.close()
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)

    async def _look(self) -> None:
        await self._somebody.wait()
        watched = tuple(self._watched)
        found = await asyncio.to_thread(self._queue.get_many, watched)
        self._jobs = {job_id: found.get(job_id) for job_id in watched}
        self._tick()

    def close(self) -> None:
        """End all streams; who watches will ask again elsewhere."""
        self._is_closed = True
        self._tick()

    async def stream(self, job: Job) -> AsyncIterator[str]:
        """Yield an event for each change of a job, from its present state to its end.

        `progress`: `{"job_id", "status", "progress"}`; the last one is named for the state, and has `error_message`
        and `result` too; `deleted` where the job is gone.
        """
        job_id = job.job_id
        self._watched[job_id] += 1
        self._somebody.set()
        try:
            yield _event(job)
            told, spoke_s = (job.status, job.progress), time.monotonic()
            now: Job | None = job
            while now is not None and now.status not in FINISHED and not self._is_closed:
                # A database that does not answer is no reason to be silent.
                if not await self._has_looked(within_s=spoke_s + _SIGN_OF_LIFE_EVERY_S - time.monotonic()):
                    spoke_s = time.monotonic()
                    yield ": still here\n\n"
                    continue
                # Who came after the others' jobs were asked for has to wait for the next look.
                if self._is_closed or job_id not in self._jobs:
                    continue
                now = self._jobs[job_id]
                if now is None:
                    yield _line("deleted", {"job_id": job_id})
                elif (now.status, now.progress) != told:
                    told, spoke_s = (now.status, now.progress), time.monotonic()
                    yield _event(now)
        finally:
            self._watched[job_id] -= 1
            self._watched += Counter()  # drops what nobody watches
            if not self._watched:
                self._somebody.clear()

    async def _has_looked(self, within_s: float) -> bool:
        """Wait for the next look; return False if there was none in this time."""
        try:
            async with asyncio.timeout(within_s):
                await self._looked.wait()
        except TimeoutError:
            return False
        return True

    def _tick(self) -> None:
        looked, self._looked = self._looked, asyncio.Event()
        looked.set()


def _event(job: Job) -> str:
    fields = {"job_id": job.job_id, "status": job.status, "progress": round(job.progress, 3)}
    if job.status not in FINISHED:
        return _line("progress", fields)
    result = json.loads(job.result) if job.result else None
    return _line(job.status, fields | {"error_message": job.error_message, "result": result})


def _line(event: str, data: object) -> str:
    return f"event: {event}\ndata: {json.dumps(data)}\n\n"
