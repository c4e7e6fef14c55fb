"""Who is still to be told of a job's end. A result that nobody takes makes a completed job `sync_failed`."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import or_, select, update
from sqlalchemy.exc import SQLAlchemyError

from depthface.errors import DepthfaceError
from depthface_gateway.jobs.database import Database
from depthface_gateway.jobs.models import Job, Status, SyncStatus

__all__ = ["Outbox", "Parcel", "deliver"]

_log = logging.getLogger(__name__)

_TRIES = 3
_AT_ONCE = 4


@dataclass(frozen=True)
class Parcel:
    """What came of a job, on its way to who is to be told."""

    job_id: str
    media_store_id: str
    result: dict[str, Any]
    tries: int
    status: str = Status.COMPLETED
    error_message: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)


class Outbox:
    """The results that are due.

    Args:
        task_types: whose jobs.
        hold_ms: for how long a parcel that was taken is not given to another; longer than a delivery takes.
    """

    def __init__(self, database: Database, task_types: Collection[str], *, hold_ms: int = 60_000) -> None:
        self._database = database
        self._task_types = tuple(task_types)
        self._hold_ms = hold_ms

    def take(self) -> Parcel | None:
        """Return the next result that is due; None if there is none."""
        with self._database.writing() as session:
            now_ms = self._database.now_ms(session)
            # The last condition is for a clock that was set back: such a wait would last for as long.
            next_at = SyncStatus.next_retry_at
            is_due = or_(next_at <= now_ms, next_at > now_ms + 2 * self._hold_ms)
            due = (
                select(SyncStatus)
                .join(Job, Job.job_id == SyncStatus.job_id)
                .where(Job.task_type.in_(self._task_types))
                .where(SyncStatus.sync_status == "pending", is_due)
                .order_by(SyncStatus.next_retry_at, SyncStatus.id)
                .limit(1)
                .with_for_update(skip_locked=True, of=SyncStatus)
            )
            row = session.scalar(due)
            if row is None:
                return None
            row.sync_attempted_at, row.next_retry_at = now_ms, now_ms + self._hold_ms
            job = session.scalars(select(Job).where(Job.job_id == row.job_id)).one()
            return Parcel(
                job.job_id,
                job.media_store_id,
                json.loads(job.result or "{}"),
                row.retry_count,
                job.status,
                job.error_message,
                json.loads(job.parameters or "{}"),
            )

    def delivered(self, parcel: Parcel) -> None:
        """Note that the media store has it."""
        with self._database.writing() as session:
            now_ms = self._database.now_ms(session)
            session.execute(
                update(SyncStatus)
                .where(SyncStatus.job_id == parcel.job_id)
                .values(sync_status="completed", sync_completed_at=now_ms, sync_error=None, next_retry_at=None)
            )

    def refused(self, parcel: Parcel, reason: str) -> None:
        """Note that it was not delivered: try again after 1, 2, 4 s, and then not again."""
        tries = parcel.tries + 1
        with self._database.writing() as session:
            now_ms = self._database.now_ms(session)
            is_last = tries >= _TRIES
            if is_last:
                session.execute(
                    update(Job)
                    .where(Job.job_id == parcel.job_id, Job.status == Status.COMPLETED)
                    .values(status=Status.SYNC_FAILED, error_message=f"The result is here, but was not taken: {reason}")
                )
            session.execute(
                update(SyncStatus)
                .where(SyncStatus.job_id == parcel.job_id)
                .values(
                    sync_status="failed" if is_last else "pending",
                    sync_error=reason,
                    retry_count=tries,
                    next_retry_at=None if is_last else now_ms + 1000 * 2**parcel.tries,
                )
            )


async def deliver(outbox: Outbox, tell: Callable[[Parcel], Awaitable[None]], poll_s: float) -> None:
    """Tell whoever is to be told, several at once: one who is slow holds up nobody else.

    Args:
        tell: tells one; what it raises is a refusal.
        poll_s: between looks while nothing is due.
    """
    free = asyncio.Semaphore(_AT_ONCE)

    async def told(parcel: Parcel) -> None:
        try:
            await _told(outbox, tell, parcel)
        finally:
            free.release()

    async with asyncio.TaskGroup() as telling:
        while True:
            await free.acquire()
            parcel = None
            try:
                parcel = await asyncio.to_thread(outbox.take)
            except SQLAlchemyError as error:
                _log.error("nobody is told: the database does not answer: %s", error)
            except Exception:
                _log.exception("nobody is told")
            if parcel is not None:
                telling.create_task(told(parcel), name=f"tell of {parcel.job_id}")
                continue
            free.release()
            await asyncio.sleep(poll_s)


async def _told(outbox: Outbox, tell: Callable[[Parcel], Awaitable[None]], parcel: Parcel) -> None:
    """Tell of one, and note what came of it; raises nothing, for the others are to be told too."""
    reason = None
    try:
        await tell(parcel)
    except DepthfaceError as error:
        reason = str(error)
    except Exception:
        _log.exception("job %s: nobody could be told of its end", parcel.job_id)
        reason = "The worker failed to tell of it; its log says why."
    try:
        if reason is None:
            await asyncio.to_thread(outbox.delivered, parcel)
        else:
            await asyncio.to_thread(outbox.refused, parcel, reason)
    except Exception:  # it is told once more, when it is due again
        _log.exception("job %s: what came of telling its end is not noted", parcel.job_id)
