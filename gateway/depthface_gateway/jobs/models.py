"""The tables of the jobs: three that the service's users know, with what leases and uploads need, and the workers.

All times are milliseconds since 1970 (UTC).
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Float, ForeignKey, Index, Integer, String, Text, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

__all__ = [
    "ACTIVE",
    "FINISHED",
    "IS_ACTIVE",
    "VERSION_TABLE",
    "Base",
    "Job",
    "QueueEntry",
    "Status",
    "StoreRow",
    "SyncStatus",
    "WorkerRow",
]

VERSION_TABLE = "depthface_alembic_version"
"""Which of our steps was the last; `alembic_version` may be there already, with another service's steps."""


class Status:
    """The states of a job, as they stand in the table and in answers.

    pending → processing → completed | error | cancelled; completed → sync_failed where the media store refuses
    the result.
    """

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    ERROR = "error"
    SYNC_FAILED = "sync_failed"
    CANCELLED = "cancelled"


ACTIVE = (Status.PENDING, Status.PROCESSING)
IS_ACTIVE = text("status IN ('pending', 'processing')")
"""The condition of the index `uq_jobs_active`; a query that says it in these words can use that."""

FINISHED = (Status.COMPLETED, Status.ERROR, Status.SYNC_FAILED, Status.CANCELLED)


class Base(DeclarativeBase):
    """The tables' metadata."""


class Job(Base):
    """What was asked, and what came of it.

    Attributes:
        job_id: a random UUID; who knows it may read the job.
        media_store_id: the photo's id in the media store; `upload-<sha256>` of one that came with the job.
        created_by: the token's `sub`.
        retry_count: tries after the first.
        result: JSON text.
        progress: 0 to 1.
        progressed_at: when that last grew during a try.
        parameters: JSON text of what else was asked; None for nothing.
    """

    __tablename__ = "jobs"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(String, unique=True, index=True)
    task_type: Mapped[str] = mapped_column(String)
    media_store_id: Mapped[str] = mapped_column(String)
    status: Mapped[str] = mapped_column(String, index=True)
    created_at: Mapped[int] = mapped_column(BigInteger, index=True)
    started_at: Mapped[int | None] = mapped_column(BigInteger)
    completed_at: Mapped[int | None] = mapped_column(BigInteger)
    error_message: Mapped[str | None] = mapped_column(Text)
    retry_count: Mapped[int] = mapped_column(Integer, default=0)
    max_retries: Mapped[int] = mapped_column(Integer, default=3)
    result: Mapped[str | None] = mapped_column(Text)
    created_by: Mapped[str | None] = mapped_column(String, index=True)

    priority: Mapped[int] = mapped_column(Integer, default=5, server_default="5")
    progress: Mapped[float] = mapped_column(Float, default=0.0, server_default="0")
    progressed_at: Mapped[int | None] = mapped_column(BigInteger)
    parameters: Mapped[str | None] = mapped_column(Text)

    __table_args__ = (
        # One photo waits for one task once, even when two requests arrive at the same moment.
        Index(
            "uq_jobs_active",
            "task_type",
            "media_store_id",
            unique=True,
            sqlite_where=IS_ACTIVE,
            postgresql_where=IS_ACTIVE,
        ),
    )


class QueueEntry(Base):
    """A job that waits or is worked on; gone when the job ends.

    Attributes:
        worker_id: who works on it.
        claim: a random name of this one try: only who knows it may renew, finish or give back the job.
        lease_until: the claim is void after this time unless it is renewed; None with a worker_id: void.
        available_at: nobody takes the job before this time.
        attempts: how often it was taken.
        losses: how often the server was lost while it was done; such a try is none of the attempts.
    """

    __tablename__ = "queue"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.job_id", ondelete="CASCADE"), unique=True)
    priority: Mapped[int] = mapped_column(Integer, default=5)
    enqueued_at: Mapped[int] = mapped_column(BigInteger)
    dequeued_at: Mapped[int | None] = mapped_column(BigInteger)
    worker_id: Mapped[str | None] = mapped_column(String)

    claim: Mapped[str | None] = mapped_column(String)
    lease_until: Mapped[int | None] = mapped_column(BigInteger)
    available_at: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    attempts: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    losses: Mapped[int] = mapped_column(Integer, default=0, server_default="0")

    __table_args__ = (
        Index("idx_queue_priority_enqueued", "priority", "enqueued_at"),
        Index("idx_queue_dequeued_at", "dequeued_at"),
        Index("idx_queue_order", text("priority DESC"), "id"),
    )


class SyncStatus(Base):
    """Whether the media store has a job's result: `sync_status` is pending, completed or failed."""

    __tablename__ = "media_store_sync_status"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.job_id", ondelete="CASCADE"), unique=True)
    sync_attempted_at: Mapped[int | None] = mapped_column(BigInteger)
    sync_completed_at: Mapped[int | None] = mapped_column(BigInteger)
    sync_status: Mapped[str] = mapped_column(String, index=True)
    sync_error: Mapped[str | None] = mapped_column(Text)
    retry_count: Mapped[int] = mapped_column(Integer, default=0)
    next_retry_at: Mapped[int | None] = mapped_column(BigInteger, index=True)


class WorkerRow(Base):
    """A worker, and when it was last heard of.

    Attributes:
        tasks: what it does, with commas.
    """

    __tablename__ = "workers"

    worker_id: Mapped[str] = mapped_column(String, primary_key=True)
    seen_at: Mapped[int] = mapped_column(BigInteger, index=True)
    tasks: Mapped[str] = mapped_column(String, default="", server_default="")


class StoreRow(Base):
    """Which folder has the files of the jobs.

    Attributes:
        tasks: of these tasks, with commas.
        mark: what is in the folder's file `.store`.
    """

    __tablename__ = "job_stores"

    tasks: Mapped[str] = mapped_column(String, primary_key=True)
    mark: Mapped[str] = mapped_column(String)
