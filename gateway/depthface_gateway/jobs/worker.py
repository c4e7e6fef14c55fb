"""The worker: takes jobs, does them, several at once, and renews its claims while it does.

What becomes of a job that fails is said in `verdicts`; what it failed for is left alone for a while (`rests`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from depthface.errors import DepthfaceError, InvalidInput, OutputError
from depthface_gateway.jobs.claims import Claim
from depthface_gateway.jobs.inference import Task, Try
from depthface_gateway.jobs.media import MediaStore
from depthface_gateway.jobs.metrics import WorkerMetrics
from depthface_gateway.jobs.queue import Queue
from depthface_gateway.jobs.rests import EVERYTHING, Rests
from depthface_gateway.jobs.results import ResultStore, StoreAway
from depthface_gateway.jobs.sync import Outbox, Parcel, deliver
from depthface_gateway.jobs.verdicts import Fate, ruling, verdict
from depthface_gateway.loops import repeat

__all__ = ["Worker", "WorkerOptions"]

T = TypeVar("T")

_log = logging.getLogger(__name__)

_BEATS_A_LEASE = 5
_SWEEP_EVERY_S = 600.0
_GOODBYE_S = 10.0  # for each word to a database that may not answer any more


@dataclass(frozen=True)
class WorkerOptions:
    """How a worker works; see `JobSettings`."""

    concurrency: int = 4
    poll_s: float = 1.0
    grace_s: float = 20.0


@dataclass
class _Running:
    """A job that is being done."""

    task: asyncio.Task[None]
    progress: float = 0.0
    is_ending: bool = False
    is_lost: bool = False


@dataclass
class Worker:
    """Does the jobs of a queue in one event loop.

    Attributes:
        tasks: what does each task of the queue.
        is_ready: whether it is worth while to take a job now.
        tell: tells somebody of a job's end; None: nobody is told. What it raises is tried again, twice.
        is_told: whether somebody is to be told of this job's success, or failure.
    """

    queue: Queue
    store: ResultStore
    media: MediaStore
    tasks: Mapping[str, Task]
    metrics: WorkerMetrics
    options: WorkerOptions = field(default_factory=WorkerOptions)
    is_ready: Callable[[], bool] = lambda: True
    tell: Callable[[Parcel], Awaitable[None]] | None = None
    is_told: Callable[[Claim, bool], bool] = lambda claim, is_success: is_success and not claim.is_upload

    def __post_init__(self) -> None:
        self.worker_id = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._running: dict[Claim, _Running] = {}
        self._wake = asyncio.Event()
        self._stop = asyncio.Event()
        self._rests = Rests()
        # The heartbeat has a thread of its own: slow disks must not keep it waiting.
        self._heart = ThreadPoolExecutor(1, "heartbeat")

    def wake(self) -> None:
        """Say that a job has come, so that nobody waits for the next look."""
        self._wake.set()

    def stop(self) -> None:
        """Take no more jobs, and let `run` return when those at hand are done or the grace is over."""
        self._stop.set()
        self._wake.set()

    async def run(self) -> None:
        """Work until `stop`. What is not done by then is put back."""
        pause_s = self.queue.lease_ms / 1000 / _BEATS_A_LEASE
        beat = repeat(self._beat, pause_s, "no heartbeat", (SQLAlchemyError,))
        sweep = repeat(self._sweep, _SWEEP_EVERY_S, "old files are not deleted", (OSError, SQLAlchemyError))
        helpers = [asyncio.create_task(beat, name="beat"), asyncio.create_task(sweep, name="sweep")]
        if self.tell is not None:
            outbox = Outbox(self.queue.database, self.queue.task_types)
            helpers.append(asyncio.create_task(deliver(outbox, self.tell, self.options.poll_s), name="deliver"))
        _log.info("worker %s does %s", self.worker_id, ", ".join(self.tasks))
        try:
            while not self._stop.is_set():
                try:
                    await self._step()
                except Exception:  # whatever it is, the next job is to have its try
                    _log.exception("no job can be taken now")
                    self._rests.begin(EVERYTHING)
            await self._leave()
        finally:
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            with suppress(SQLAlchemyError, TimeoutError):
                async with asyncio.timeout(_GOODBYE_S):
                    await self._in_heart(self.queue.forget, self.worker_id)
            self._heart.shutdown(wait=False)
            _log.info("worker %s has stopped", self.worker_id)

    # Taking

    async def _step(self) -> None:
        """Take one job, or wait for a moment in which one may be had."""
        self._wake.clear()
        rest_s = self._rests.left_s(EVERYTHING)
        if rest_s:
            await self._pause(rest_s, self._stop)
            return
        tasks = [task for task in self.tasks if not self._rests.left_s(task)]
        if not tasks or self._is_full() or not self.is_ready():
            await self._pause(self.options.poll_s, self._wake)
            return
        try:
            take = partial(self.queue.claim, self.worker_id, tasks, syncs=partial(self._tells, is_success=False))
            claim = await asyncio.to_thread(take)
        except SQLAlchemyError as error:
            self._rests.begin(EVERYTHING)
            _log.error("the database does not answer: %s", _first_line(error))
            return
        if claim is None:
            self._rests.end(EVERYTHING)
            await self._pause(self.options.poll_s, self._wake)
            return
        if not self.is_ready():  # the server went while the job was taken
            await asyncio.to_thread(self.queue.give_back, claim, None, counts=False)
            return
        if claim.was_left:
            self.metrics.taken_over.inc()
            _log.warning("job %s was left by its worker and is taken over", claim.job_id)
        task = asyncio.create_task(self._do(claim), name=claim.job_id)
        self._running[claim] = _Running(task)

    def _is_full(self) -> bool:
        """Whether no more may be taken: there are as many as may be, or one that is to be alone."""
        return len(self._running) >= self.options.concurrency or any(claim.losses for claim in self._running)

    async def _pause(self, seconds: float, event: asyncio.Event) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()

    async def _leave(self) -> None:
        """End what is at hand, or put it back."""
        if self._running:
            tasks = [running.task for running in self._running.values()]
            _, late = await asyncio.wait(tasks, timeout=self.options.grace_s)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=_GOODBYE_S)

    # Doing

    async def _do(self, claim: Claim) -> None:
        """One try of one job, from the claim to its end; raises nothing."""
        started = time.monotonic()
        try:
            outcome = await self._outcome(claim)
        except SQLAlchemyError as error:
            self._rests.begin(EVERYTHING)
            outcome = Fate.UNKNOWN.value
            _log.error("job %s: the database does not answer: %s", claim.job_id, _first_line(error))
        finally:
            del self._running[claim]
            self._wake.set()
        self.metrics.tries.labels(claim.task_type, outcome).inc()
        self.metrics.seconds.labels(claim.task_type).observe(time.monotonic() - started)
        _log.info("job %s %s: %s", claim.job_id, claim.task_type, outcome)

    async def _outcome(self, claim: Claim) -> str:
        try:
            done = await self._try(claim)
        except asyncio.CancelledError:
            if self._running[claim].is_lost:
                return "dropped"
            await asyncio.to_thread(self.queue.give_back, claim, None, counts=False)
            return "put back"
        except Exception as error:
            self._running[claim].is_ending = True
            return await self._settle(claim, error)
        finally:
            await asyncio.to_thread(self.store.abandon, claim.claim)
        self._rests.end(EVERYTHING, claim.task_type)
        return "completed" if done else "dropped"

    async def _try(self, claim: Claim) -> bool:
        running = self._running[claim]
        if claim.losses:
            await self._alone(claim)
        photo = await self._photo(claim)
        running.progress = 0.1
        folder = await asyncio.to_thread(self.store.begin, claim.claim)

        def report(share: float) -> None:
            running.progress = min(0.1 + 0.85 * share, 0.95)

        result = await self.tasks[claim.task_type](Try(claim, photo, folder, report))
        running.is_ending = True
        publish = await asyncio.to_thread(self.store.ready, folder, claim.job_id)
        syncs = self._tells(claim, is_success=True)
        done = await asyncio.to_thread(partial(self.queue.finish, claim, result, publish, syncs=syncs))
        if done:
            await self._drop_upload(claim)
        return done

    async def _alone(self, claim: Claim) -> None:
        """Let the others end first: if it is this job that takes the server with it, it is to take no other's try."""
        others = [running.task for other, running in self._running.items() if other is not claim]
        if others:
            await asyncio.wait(others)

    async def _photo(self, claim: Claim) -> bytes:
        if not claim.is_upload:
            return await self.media.photo(claim.media_store_id)
        photo = await asyncio.to_thread(self.store.read_upload, claim.job_id)
        if photo is None:
            raise InvalidInput("The photo that came with the job is gone.", "Send it again.")
        return photo

    async def _drop_upload(self, claim: Claim) -> None:
        """Delete the photo that came with a job that has ended; one that cannot be deleted is left to the sweep."""
        if claim.is_upload:
            with suppress(OSError):
                await asyncio.to_thread(self.store.drop_upload, claim.job_id)

    async def _settle(self, claim: Claim, error: Exception) -> str:
        what = ruling(claim, error)
        if what.fate is Fate.UNKNOWN:
            raise error
        if verdict(error)[0] is Fate.AGAIN:  # before it costs the job a try
            try:
                await asyncio.to_thread(self.store.probe)
            except StoreAway as away:
                error, what = away, ruling(claim, away)
        if not isinstance(error, DepthfaceError) or isinstance(error, OutputError):
            _log.error("job %s failed", claim.job_id, exc_info=error)
        if what.rests is not None:
            self._rests.begin(what.rests)
        if what.fate is Fate.ENDS:
            fail = partial(self.queue.fail, claim, what.message, syncs=self._tells(claim, is_success=False))
            held = await asyncio.to_thread(fail)
            if held:
                await self._drop_upload(claim)
        else:
            give_back = partial(
                self.queue.give_back, claim, what.message, delay_ms=what.delay_ms, counts=what.fate is Fate.AGAIN,
                is_loss=what.is_loss,
            )  # fmt: skip
            held = await asyncio.to_thread(give_back)
        return what.fate.value if held else "dropped"

    def _tells(self, claim: Claim, *, is_success: bool) -> bool:
        return self.tell is not None and self.is_told(claim, is_success)

    # Meanwhile

    async def _beat(self) -> None:
        """Renew the claims, and let go of jobs that are no longer ours: deleted, or taken over."""
        progress = {claim: running.progress for claim, running in self._running.items()}
        lost = await self._in_heart(self.queue.renew, self.worker_id, progress)
        for claim in lost & self._running.keys():
            if not self._running[claim].is_ending:
                self._running[claim].is_lost = True
                self._running[claim].task.cancel()

    async def _sweep(self) -> None:
        """Delete what dead workers left on the disk."""

        def is_waiting(job_id: str) -> bool:
            job = self.queue.get(job_id)
            return job is not None and job.completed_at is None

        await asyncio.to_thread(self.store.sweep, self.queue.active_claims, is_waiting)

    async def _in_heart(self, call: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._heart, call, *arguments)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
