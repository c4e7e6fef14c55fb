"""The three tables of the service as its users have them; where they are there already, they are kept."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create what is missing."""
    there = set(sa.inspect(op.get_bind()).get_table_names())
    if "jobs" not in there:
        op.create_table(
            "jobs",
            sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
            sa.Column("job_id", sa.String, nullable=False),
            sa.Column("task_type", sa.String, nullable=False),
            sa.Column("media_store_id", sa.String, nullable=False),
            sa.Column("status", sa.String, nullable=False),
            sa.Column("created_at", sa.BigInteger, nullable=False),
            sa.Column("started_at", sa.BigInteger),
            sa.Column("completed_at", sa.BigInteger),
            sa.Column("error_message", sa.Text),
            sa.Column("retry_count", sa.Integer, nullable=False),
            sa.Column("max_retries", sa.Integer, nullable=False),
            sa.Column("result", sa.Text),
            sa.Column("created_by", sa.String),
        )
        op.create_index("ix_jobs_job_id", "jobs", ["job_id"], unique=True)
        for column in ("status", "created_at", "created_by"):
            op.create_index(f"ix_jobs_{column}", "jobs", [column])
    if "queue" not in there:
        op.create_table(
            "queue",
            sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
            _job_id(),
            sa.Column("priority", sa.Integer, nullable=False),
            sa.Column("enqueued_at", sa.BigInteger, nullable=False),
            sa.Column("dequeued_at", sa.BigInteger),
            sa.Column("worker_id", sa.String),
        )
        op.create_index("idx_queue_priority_enqueued", "queue", ["priority", "enqueued_at"])
        op.create_index("idx_queue_dequeued_at", "queue", ["dequeued_at"])
    if "media_store_sync_status" not in there:
        op.create_table(
            "media_store_sync_status",
            sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
            _job_id(),
            sa.Column("sync_attempted_at", sa.BigInteger),
            sa.Column("sync_completed_at", sa.BigInteger),
            sa.Column("sync_status", sa.String, nullable=False),
            sa.Column("sync_error", sa.Text),
            sa.Column("retry_count", sa.Integer, nullable=False),
            sa.Column("next_retry_at", sa.BigInteger),
        )
        for column in ("sync_status", "next_retry_at"):
            op.create_index(f"ix_media_store_sync_status_{column}", "media_store_sync_status", [column])


def downgrade() -> None:
    """Drop the tables, with all jobs."""
    for table in ("media_store_sync_status", "queue", "jobs"):
        op.drop_table(table)


def _job_id() -> sa.Column[str]:
    key = sa.ForeignKey("jobs.job_id", ondelete="CASCADE")
    return sa.Column("job_id", sa.String, key, nullable=False, unique=True)
