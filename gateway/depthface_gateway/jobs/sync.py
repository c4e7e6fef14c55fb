"""Who is still to be told of a job's end. A result that nobody takes makes a completed job `sync_failed`."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select, update

from depthface_gateway.jobs.database import Database
from depthface_gateway.jobs.models import Job, Status, SyncStatus

__all__ = ["Outbox", "Parcel"]

_TRIES = 3


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
            due = (
                select(SyncStatus)
                .join(Job, Job.job_id == SyncStatus.job_id)
                .where(Job.task_type.in_(self._task_types))
                .where(SyncStatus.sync_status == "pending", SyncStatus.next_retry_at <= now_ms)
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
            if is_last:
                session.execute(
                    update(Job)
                    .where(Job.job_id == parcel.job_id, Job.status == Status.COMPLETED)
                    .values(status=Status.SYNC_FAILED, error_message=f"The result is here, but {reason}")
                )
