"""The queue: the highest priority first, then first in, first out; a job belongs to who holds its claim.

A worker claims a job for the time of a lease and renews it while it works. When the lease runs out, the next worker
claims the job: a dead worker's job is done by another. So a job may be done twice, but only the holder of the latest
claim can finish it, and its files and its row change in one transaction.

Every transaction touches `queue` before `jobs` before `media_store_sync_status`, so that no two wait for each other.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any, ClassVar

from sqlalchemy import ColumnElement, case, delete, func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from depthface.errors import DepthfaceError
from depthface_gateway.jobs.claims import LONGEST_DELAY_MS, Claim, NewJob
from depthface_gateway.jobs.database import Database
from depthface_gateway.jobs.models import (
    ACTIVE,
    FINISHED,
    IS_ACTIVE,
    Job,
    QueueEntry,
    Status,
    StoreRow,
    SyncStatus,
    WorkerRow,
)

__all__ = ["LEASE_MS", "JobExists", "Queue"]

LEASE_MS = 15_000
"""How long a claim lasts without a heartbeat."""

_FEW = 200
"""So many jobs are looked at one by one; for more it takes less to go through the queue in its order."""

_FORGOTTEN_MS = 24 * 3_600_000  # a worker's row, after its last heartbeat


class JobExists(DepthfaceError):
    """The same photo waits for the same task already."""

    status: ClassVar[int] = 409


class Queue:
    """The jobs of some tasks.

    Args:
        database: where they are.
        task_types: the tasks; others in the same tables are not seen.
        max_retries: tries after the first before a job is given up.
        lease_ms: see `LEASE_MS`.
    """

    def __init__(
        self, database: Database, task_types: Collection[str], *, max_retries: int = 3, lease_ms: int = LEASE_MS
    ) -> None:
        self.database = database
        self.task_types = tuple(task_types)
        self.lease_ms = lease_ms
        self._max_retries = max_retries
        self._mine = Job.task_type.in_(self.task_types)
        self._tasks = ",".join(sorted(self.task_types))

    def note_store(self, mark: str) -> str:
        """Return the mark of the folder that has these tasks' files: this one, if none has been noted before."""
        with suppress(IntegrityError), self.database.writing() as session:  # another may note one at the same moment
            if session.get(StoreRow, self._tasks) is None:
                session.add(StoreRow(tasks=self._tasks, mark=mark))
        with self.database.reading() as session:
            return session.scalars(select(StoreRow.mark).where(StoreRow.tasks == self._tasks)).one()

    # What users do

    def add(self, new: NewJob) -> Job:
        """Put a job in the queue.

        Raises:
            JobExists: the same photo waits for the same task already.
        """
        try:
            with self.database.writing() as session:
                now_ms = self.database.now_ms(session)
                job = Job(
                    job_id=new.job_id,
                    task_type=new.task_type,
                    media_store_id=new.media_store_id,
                    status=Status.PENDING,
                    created_at=now_ms,
                    retry_count=0,
                    max_retries=self._max_retries,
                    created_by=new.created_by,
                    priority=new.priority,
                    progress=0.0,
                    parameters=json.dumps(new.parameters) if new.parameters else None,
                )
                session.add(job)
                session.flush()
                session.add(
                    QueueEntry(job_id=new.job_id, priority=new.priority, enqueued_at=now_ms, available_at=0, attempts=0)
                )
                return job
        except IntegrityError as error:
            raise JobExists(
                f"Job already exists for media_store_id={new.media_store_id}, task_type={new.task_type}"
            ) from error

    def get(self, job_id: str) -> Job | None:
        """Return a job; None if there is none of these tasks."""
        with self.database.reading() as session:
            return session.scalar(select(Job).where(Job.job_id == job_id, self._mine))

    def get_many(self, job_ids: Collection[str]) -> dict[str, Job]:
        """Return those jobs that there are."""
        with self.database.reading() as session:
            jobs = session.scalars(select(Job).where(Job.job_id.in_(job_ids), self._mine))
            return {job.job_id: job for job in jobs}

    def delete(self, job_id: str) -> bool:
        """Delete a job in any state; its worker, if it has one, drops the result. Return whether there was one."""
        return self.remove(job_id) is not None

    def remove(self, job_id: str, statuses: Collection[str] = (*ACTIVE, *FINISHED)) -> bool | None:
        """Delete a job if it is in one of these states.

        Returns:
            None if nothing was deleted; else whether it had a place in the queue.
        """
        with self.database.writing() as session:
            # With SQLite the whole transaction has the lock, and with PostgreSQL this row's.
            entry = session.scalar(select(QueueEntry).where(QueueEntry.job_id == job_id).with_for_update())
            job = session.scalar(
                select(Job).where(Job.job_id == job_id, self._mine, Job.status.in_(statuses)).with_for_update()
            )
            if job is None:
                return None
            session.execute(delete(QueueEntry).where(QueueEntry.job_id == job_id))
            session.execute(delete(Job).where(Job.job_id == job_id))  # and its sync status
            return entry is not None

    def cancel(self, job_id: str) -> bool:
        """End a job that is not yet done; return whether it was so."""
        with self.database.writing() as session:
            mine = select(Job.job_id).where(Job.job_id == job_id, self._mine)
            out = delete(QueueEntry).where(QueueEntry.job_id.in_(mine)).returning(QueueEntry.id)
            if session.execute(out).first() is None:
                return False
            self._end(session, job_id, Status.CANCELLED, error_message=None)
            return True

    def older_than(self, before_ms: int | None, status: str | None) -> list[str]:
        """Return the ids of jobs made before a time, and in a state; None for all."""
        wanted: list[ColumnElement[bool]] = [self._mine]
        if before_ms is not None:
            wanted.append(Job.created_at < before_ms)
        if status is not None:
            wanted.append(Job.status == status)
        with self.database.reading() as session:
            return list(session.scalars(select(Job.job_id).where(*wanted).order_by(Job.id)))

    def now_ms(self) -> int:
        """Return the queue's time."""
        with self.database.reading() as session:
            return self.database.now_ms(session)

    def counts(self) -> dict[str, int]:
        """How many jobs are in each state."""
        with self.database.reading() as session:
            rows = session.execute(select(Job.status, func.count()).where(self._mine).group_by(Job.status))
            return {str(row[0]): int(row[1]) for row in rows}

    def size(self) -> int:
        """How many jobs wait to be taken."""
        with self.database.reading() as session:
            waiting = select(func.count()).select_from(Job).where(self._mine, Job.status == Status.PENDING)
            return session.scalar(waiting) or 0

    def workers(self) -> int:
        """How many workers of these tasks were heard of within a lease."""
        with self.database.reading() as session:
            now_ms = self.database.now_ms(session)
            # One that is of the future is of before the clock was set back.
            lately = WorkerRow.seen_at.between(now_ms - self.lease_ms, now_ms + self.lease_ms)
            living = select(func.count()).where(lately, WorkerRow.tasks == self._tasks)
            return session.scalar(living) or 0

    def active_claims(self) -> set[str]:
        """Return the claims that somebody holds, of any task."""
        with self.database.reading() as session:
            held = session.scalars(select(QueueEntry.claim).where(QueueEntry.claim.is_not(None)))
            return {claim for claim in held if claim is not None}

    # What workers do

    def claim(
        self,
        worker_id: str,
        tasks: Collection[str] | None = None,
        *,
        syncs: Callable[[Claim], bool] = lambda claim: False,
    ) -> Claim | None:
        """Take the next job; None if none is to be had now. One that killed its workers ends.

        Args:
            tasks: of these alone; None for all of the queue's.
            syncs: as in `fail`.
        """
        while True:
            with self.database.writing() as session:
                taken = self._take(session, worker_id, self.task_types if tasks is None else tasks)
                if taken is None:
                    return None
                if taken.attempts <= taken.max_retries + 1:
                    return taken
                session.execute(delete(QueueEntry).where(QueueEntry.job_id == taken.job_id))
                tries = taken.attempts - 1
                message = f"Its worker was lost at try {tries} of {tries}. The worker's log may say why."
                self._fail(session, taken, message, syncs=syncs(taken))

    def _take(self, session: Session, worker_id: str, tasks: Collection[str]) -> Claim | None:
        # `queue` does not say of which task a job is, and another contract may have very many there: who has few looks
        # at these alone.
        active = select(Job.job_id).where(Job.task_type.in_(tasks), IS_ACTIVE).limit(_FEW + 1)
        mine = session.scalars(active).all()
        if not mine:
            return None
        wanted = QueueEntry.job_id.in_(mine) if len(mine) <= _FEW else Job.task_type.in_(tasks)
        now_ms = self.database.now_ms(session)
        # The last conditions are for a clock that was set back: such a lease, or delay, would last for as long.
        free = or_(
            QueueEntry.worker_id.is_(None),
            QueueEntry.lease_until.is_(None),
            QueueEntry.lease_until < now_ms,
            QueueEntry.lease_until > now_ms + 2 * self.lease_ms,
        )
        due = or_(QueueEntry.available_at <= now_ms, QueueEntry.available_at > now_ms + 2 * LONGEST_DELAY_MS)
        candidate = (
            select(QueueEntry.id)
            .join(Job, Job.job_id == QueueEntry.job_id)
            .where(wanted, free, due)
            .order_by(QueueEntry.priority.desc(), QueueEntry.id)
            .limit(1)
            .with_for_update(skip_locked=True, of=QueueEntry)
        )
        entry_id = session.scalar(candidate)
        if entry_id is None:
            return None
        entry = session.get_one(QueueEntry, entry_id)
        was_left = entry.worker_id is not None
        entry.worker_id, entry.claim = worker_id, uuid.uuid4().hex
        entry.dequeued_at, entry.lease_until = now_ms, now_ms + self.lease_ms
        entry.attempts += 1
        session.flush()
        job = session.scalars(select(Job).where(Job.job_id == entry.job_id)).one()
        job.status, job.retry_count = Status.PROCESSING, entry.attempts - 1
        job.started_at = job.started_at or max(now_ms, job.created_at)  # it may have come since `now_ms`
        return Claim(
            job_id=job.job_id,
            claim=entry.claim,
            task_type=job.task_type,
            media_store_id=job.media_store_id,
            parameters=json.loads(job.parameters) if job.parameters else {},
            attempts=entry.attempts,
            max_retries=job.max_retries,
            was_left=was_left,
            losses=entry.losses,
        )

    def renew(self, worker_id: str, progress: Mapping[Claim, float]) -> set[Claim]:
        """Say that a worker lives, renew its claims and note their progress; return the claims that it has lost."""
        with self.database.writing() as session:
            now_ms = self.database.now_ms(session)
            names = {claim.claim for claim in progress}
            kept = set(
                session.scalars(
                    update(QueueEntry)
                    .where(QueueEntry.claim.in_(names))
                    .values(lease_until=now_ms + self.lease_ms)
                    .returning(QueueEntry.claim)
                )
            )
            for claim, share in progress.items():
                if claim.claim in kept and share > 0:
                    grown = update(Job).where(Job.job_id == claim.job_id, Job.progress < share)
                    session.execute(grown.values(progress=share, progressed_at=now_ms))
            row = session.get(WorkerRow, worker_id)
            if row is None:
                session.add(WorkerRow(worker_id=worker_id, seen_at=now_ms, tasks=self._tasks))
                session.execute(delete(WorkerRow).where(WorkerRow.seen_at < now_ms - _FORGOTTEN_MS))
            elif abs(now_ms - row.seen_at) > self.lease_ms / 2:  # not at each beat: each writes to the disk
                row.seen_at = now_ms
            return {claim for claim in progress if claim.claim not in kept}

    def finish(
        self, claim: Claim, result: Mapping[str, Any], publish: Callable[[], None], *, syncs: bool = False
    ) -> bool:
        """Note a job's result, unless the claim is lost.

        Args:
            publish: moves the files into place; called while nobody else can finish or delete this job, nor, with
                SQLite, write anything. If it raises, nothing is noted.
            syncs: whether somebody is to be told: the media store, a webhook.

        Returns:
            Whether the claim was still held.
        """
        with self.database.writing() as session:
            if not self._let_go(session, claim):
                return False
            publish()
            text = json.dumps(result, allow_nan=False)
            self._end(session, claim.job_id, Status.COMPLETED, error_message=None, result=text, progress=1.0)
            if syncs:
                self._tell(session, claim)
            return True

    def fail(self, claim: Claim, message: str, *, syncs: bool = False) -> bool:
        """End a job with an error, unless the claim is lost; return whether it was held."""
        with self.database.writing() as session:
            if not self._let_go(session, claim):
                return False
            self._fail(session, claim, message, syncs=syncs)
            return True

    def give_back(
        self, claim: Claim, message: str | None, *, delay_ms: int = 0, counts: bool, is_loss: bool = False
    ) -> bool:
        """Put a job back where it was in the queue, unless the claim is lost.

        Args:
            message: why, for who looks at the job meanwhile.
            delay_ms: nobody takes it for so long, a minute at most.
            counts: whether this try was one of the job's tries.
            is_loss: whether the server was lost during this try.

        Returns:
            Whether the claim was held.
        """
        with self.database.writing() as session:
            delay_ms = min(delay_ms, LONGEST_DELAY_MS)
            available_at = self.database.now_ms(session) + delay_ms if delay_ms else 0  # clocks are set back
            attempts = claim.attempts if counts else claim.attempts - 1
            place = {"available_at": available_at, "attempts": attempts, "losses": claim.losses + is_loss}
            given = session.execute(
                update(QueueEntry)
                .where(QueueEntry.claim == claim.claim)
                .values(worker_id=None, claim=None, lease_until=None, **place)
                .returning(QueueEntry.id)
            ).first()
            if given is None:
                return False
            session.execute(
                update(Job)
                .where(Job.job_id == claim.job_id)
                .values(status=Status.PENDING, error_message=message, progress=0.0)
            )
            return True

    def forget(self, worker_id: str) -> None:
        """Note that a worker has ended."""
        with self.database.writing() as session:
            session.execute(delete(WorkerRow).where(WorkerRow.worker_id == worker_id))

    def _let_go(self, session: Session, claim: Claim) -> bool:
        """Take a job out of the queue if the claim is the latest."""
        held = delete(QueueEntry).where(QueueEntry.claim == claim.claim).returning(QueueEntry.id)
        return session.execute(held).first() is not None

    def _fail(self, session: Session, claim: Claim, message: str, *, syncs: bool) -> None:
        self._end(session, claim.job_id, Status.ERROR, error_message=message)
        if syncs:
            self._tell(session, claim)

    def _tell(self, session: Session, claim: Claim) -> None:
        """Somebody is to be told of the job's end."""
        now_ms = self.database.now_ms(session)
        session.execute(delete(SyncStatus).where(SyncStatus.job_id == claim.job_id))
        session.add(SyncStatus(job_id=claim.job_id, sync_status="pending", retry_count=0, next_retry_at=now_ms))

    def _end(self, session: Session, job_id: str, status: str, **values: Any) -> None:
        now_ms = self.database.now_ms(session)
        ended = case((Job.started_at > now_ms, Job.started_at), else_=now_ms)  # clocks are set back
        session.execute(
            update(Job).where(Job.job_id == job_id, self._mine).values(status=status, completed_at=ended, **values)
        )
