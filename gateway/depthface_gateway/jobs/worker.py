"""The worker: takes jobs, does them, several at once, and renews its claims while it does.

What becomes of a job that fails is one table, `verdict`: a bad photo ends it; a server or a disk that is not there
now puts it back where it was, uncounted, and the worker waits a little; whatever else may pass is tried again, later
and later, and then given up.
"""

from __future__ import annotations

import asyncio
import enum
import errno
import logging
import os
import random
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

from depthface.errors import (
    DepthfaceError,
    InvalidInput,
    ModelUnavailable,
    OutputError,
    ServerOverloaded,
    ServerUnavailable,
)
from depthface_gateway.jobs.inference import Task, Try
from depthface_gateway.jobs.media import MediaStore
from depthface_gateway.jobs.metrics import WorkerMetrics
from depthface_gateway.jobs.queue import Claim, Queue
from depthface_gateway.jobs.results import ResultStore
from depthface_gateway.jobs.sync import Outbox, Parcel

__all__ = ["Fate", "Worker", "WorkerOptions", "verdict"]

T = TypeVar("T")

_log = logging.getLogger(__name__)

_BEATS_A_LEASE = 5
_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 10.0
_SWEEP_EVERY_S = 600.0
_MODEL_PATIENCE = 5  # times the backoff: a model that is loaded anew takes a while


class Fate(enum.Enum):
    """What becomes of a job whose try failed."""

    ENDS = "error"
    AGAIN = "retry"
    WAITS = "requeued"
    UNKNOWN = "unknown"  # the database does not answer: the lease will run out


def verdict(error: BaseException) -> tuple[Fate, str]:
    """Return what becomes of a job after this error, and what its owner is told."""
    match error:
        case InvalidInput():
            return Fate.ENDS, str(error)
        case ServerUnavailable() | ServerOverloaded():
            return Fate.WAITS, str(error)
        case OutputError(__cause__=OSError(errno=errno.ENOSPC | errno.EDQUOT) as cause):
            return verdict(cause)
        case OutputError():  # its own words name a path of this machine
            return Fate.AGAIN, "The job's files cannot be written; the worker's log says why."
        case DepthfaceError():
            return Fate.AGAIN, str(error)
        case SQLAlchemyError():
            return Fate.UNKNOWN, ""
        case OSError() if error.errno is not None:  # Pillow has some without, of what it cannot write
            reason = error.strerror or type(error).__name__
            return Fate.WAITS, f"The job's files cannot be written or read now ({reason})."
        case _:
            return Fate.AGAIN, "The worker failed; its log says why."


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
        tell: tells somebody of a job's end; None: nobody is told. What it raises of ours is tried again, twice.
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
        self._failures = 0
        self._outbox = Outbox(self.queue.database, self.queue.task_types)
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
        helpers = [
            asyncio.create_task(helper(), name=helper.__name__)
            for helper in (self._beat, self._sweep, *((self._deliver,) if self.tell is not None else ()))
        ]
        _log.info("worker %s does %s", self.worker_id, ", ".join(self.tasks))
        try:
            while not self._stop.is_set():
                try:
                    await self._step()
                except Exception:  # whatever it is, the next job is to have its try
                    _log.exception("no job can be taken now")
                    self._hold()
            await self._leave()
        finally:
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            with suppress(SQLAlchemyError):
                await self._in_heart(self.queue.forget, self.worker_id)
            self._heart.shutdown()
            _log.info("worker %s has stopped", self.worker_id)

    # Taking

    async def _step(self) -> None:
        """Take one job, or wait for a moment in which one may be had."""
        self._wake.clear()
        self._seen_failures = self._failures
        if self._failures:
            longest_s = min(_SHORTEST_PAUSE_S * 2**self._failures, _LONGEST_PAUSE_S)
            await self._pause(random.uniform(longest_s / 2, longest_s), self._stop)
            if self._stop.is_set():
                return
        if len(self._running) >= self.options.concurrency or not self.is_ready():
            await self._pause(self.options.poll_s, self._wake)
            return
        try:
            take = partial(self.queue.claim, self.worker_id, syncs=partial(self._tells, is_success=False))
            claim = await asyncio.to_thread(take)
        except SQLAlchemyError as error:
            self._hold()
            _log.error("the database does not answer: %s", _first_line(error))
            return
        if claim is None:
            self._failures = 0
            await self._pause(self.options.poll_s, self._wake)
            return
        if claim.was_left:
            self.metrics.taken_over.inc()
            _log.warning("job %s was left by its worker and is taken over", claim.job_id)
        task = asyncio.create_task(self._do(claim), name=claim.job_id)
        self._running[claim] = _Running(task)

    def _hold(self) -> None:
        """Something that all jobs need is not there: pause longer before the next one, once for those at hand."""
        self._failures = self._seen_failures + 1

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
            await asyncio.gather(*late, return_exceptions=True)

    # Doing

    async def _do(self, claim: Claim) -> None:
        """One try of one job, from the claim to its end; raises nothing."""
        started = time.monotonic()
        try:
            outcome = await self._outcome(claim)
        except SQLAlchemyError as error:
            self._hold()
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
        self._failures = 0
        return "completed" if done else "dropped"

    async def _try(self, claim: Claim) -> bool:
        running = self._running[claim]
        photo = await self._photo(claim)
        running.progress = 0.1
        folder = await asyncio.to_thread(self.store.begin, claim.claim)

        def report(share: float) -> None:
            running.progress = min(0.1 + 0.85 * share, 0.95)

        result = await self.tasks[claim.task_type](Try(claim, photo, folder, report))
        running.is_ending = True
        publish = partial(self.store.publish, folder, claim.job_id)
        syncs = self._tells(claim, is_success=True)
        done = await asyncio.to_thread(partial(self.queue.finish, claim, result, publish, syncs=syncs))
        if done and claim.is_upload:
            await asyncio.to_thread(self.store.drop_upload, claim.job_id)
        return done

    async def _photo(self, claim: Claim) -> bytes:
        if not claim.is_upload:
            return await self.media.photo(claim.media_store_id)
        try:
            return await asyncio.to_thread(self.store.upload(claim.job_id).read_bytes)
        except FileNotFoundError as error:
            raise InvalidInput("The photo that came with the job is gone.", "Send it again.") from error

    async def _settle(self, claim: Claim, error: Exception) -> str:
        fate, message = verdict(error)
        if fate is Fate.UNKNOWN:
            raise error
        if not isinstance(error, DepthfaceError) or isinstance(error, OutputError):
            _log.error("job %s failed", claim.job_id, exc_info=error)
        if fate is Fate.AGAIN and claim.attempts > claim.max_retries:
            fate, message = Fate.ENDS, f"{message} It was tried {claim.attempts} times."
        if fate is Fate.ENDS:
            fail = partial(self.queue.fail, claim, message, syncs=self._tells(claim, is_success=False))
            held = await asyncio.to_thread(fail)
            if held:
                await asyncio.to_thread(self.store.drop_upload, claim.job_id)
        elif fate is Fate.AGAIN:
            delay_ms = claim.backoff_ms * (_MODEL_PATIENCE if isinstance(error, ModelUnavailable) else 1)
            give_back = partial(self.queue.give_back, claim, message, delay_ms=delay_ms, counts=True)
            held = await asyncio.to_thread(give_back)
        else:
            self._hold()
            held = await asyncio.to_thread(partial(self.queue.give_back, claim, message, counts=False))
        return fate.value if held else "dropped"

    def _tells(self, claim: Claim, *, is_success: bool) -> bool:
        return self.tell is not None and self.is_told(claim, is_success)

    # Meanwhile

    async def _beat(self) -> None:
        """Renew the claims, and let go of jobs that are no longer ours: deleted, or taken over."""
        while True:
            progress = {claim: running.progress for claim, running in self._running.items()}
            try:
                lost = await self._in_heart(self.queue.renew, self.worker_id, progress)
            except SQLAlchemyError as error:
                _log.error("no heartbeat: the database does not answer: %s", _first_line(error))
            else:
                for claim in lost & self._running.keys():
                    if not self._running[claim].is_ending:
                        self._running[claim].is_lost = True
                        self._running[claim].task.cancel()
            await asyncio.sleep(self.queue.lease_ms / 1000 / _BEATS_A_LEASE)

    async def _sweep(self) -> None:
        """Delete what dead workers left on the disk."""

        def is_waiting(job_id: str) -> bool:
            job = self.queue.get(job_id)
            return job is not None and job.completed_at is None

        while True:
            try:
                await asyncio.to_thread(self.store.sweep, self.queue.active_claims, is_waiting)
            except (OSError, SQLAlchemyError) as error:
                _log.error("old files are not deleted: %s", _first_line(error))
            await asyncio.sleep(_SWEEP_EVERY_S)

    async def _deliver(self) -> None:
        """Tell whoever is to be told of jobs' ends."""
        assert self.tell is not None
        while True:
            try:
                parcel = await asyncio.to_thread(self._outbox.take)
                if parcel is not None:
                    try:
                        await self.tell(parcel)
                    except DepthfaceError as error:
                        await asyncio.to_thread(self._outbox.refused, parcel, str(error))
                    else:
                        await asyncio.to_thread(self._outbox.delivered, parcel)
                    continue
            except SQLAlchemyError as error:
                _log.error("nobody is told: the database does not answer: %s", _first_line(error))
            await asyncio.sleep(self.options.poll_s)

    async def _in_heart(self, call: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._heart, call, *arguments)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
