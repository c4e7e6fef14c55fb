"""Leases, uploads and progress.

Columns are added and dropped in place: to rebuild `jobs`, as Alembic's batches do, would delete the queue with it,
for a foreign key cascades.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_ACTIVE = sa.text("status IN ('pending', 'processing')")

# Of several active jobs for one task and photo, which a race could make, all but the oldest.
_DUPLICATES = """
    UPDATE jobs SET status = 'error', error_message = 'A job for the same task and photo was there already.'
    WHERE status IN ('pending', 'processing') AND EXISTS (
        SELECT 1 FROM jobs AS older
        WHERE older.task_type = jobs.task_type AND older.media_store_id = jobs.media_store_id
        AND older.status IN ('pending', 'processing') AND older.id < jobs.id
    )
"""
_ENDED = "DELETE FROM queue WHERE job_id IN (SELECT job_id FROM jobs WHERE status NOT IN ('pending', 'processing'))"
_PRIORITY = """
    UPDATE jobs SET priority = (SELECT queue.priority FROM queue WHERE queue.job_id = jobs.job_id)
    WHERE EXISTS (SELECT 1 FROM queue WHERE queue.job_id = jobs.job_id)
"""
# Active jobs that have lost their place in the queue.
_LOST = """
    INSERT INTO queue (job_id, priority, enqueued_at, attempts)
    SELECT job_id, priority, created_at, 0 FROM jobs WHERE status IN ('pending', 'processing')
    AND NOT EXISTS (SELECT 1 FROM queue WHERE queue.job_id = jobs.job_id)
    ORDER BY jobs.id
"""


def upgrade() -> None:
    """Add the columns, and put right what the older service left behind."""
    op.add_column("jobs", sa.Column("priority", sa.Integer, nullable=False, server_default="5"))
    op.add_column("jobs", sa.Column("progress", sa.Float, nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("parameters", sa.Text))
    op.add_column("queue", sa.Column("claim", sa.String))
    op.add_column("queue", sa.Column("lease_until", sa.BigInteger))
    op.add_column("queue", sa.Column("available_at", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("queue", sa.Column("attempts", sa.Integer, nullable=False, server_default="0"))
    for statement in (_PRIORITY, _DUPLICATES, _ENDED, _LOST):
        op.execute(statement)
    op.execute("UPDATE jobs SET progress = 1 WHERE status IN ('completed', 'sync_failed')")
    op.create_index("idx_queue_order", "queue", [sa.text("priority DESC"), "id"])
    op.create_index(
        "uq_jobs_active",
        "jobs",
        ["task_type", "media_store_id"],
        unique=True,
        sqlite_where=_ACTIVE,
        postgresql_where=_ACTIVE,
    )
    op.create_table(
        "workers",
        sa.Column("worker_id", sa.String, primary_key=True),
        sa.Column("seen_at", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_workers_seen_at", "workers", ["seen_at"])


def downgrade() -> None:
    """Back to the three tables; jobs and their places stay."""
    op.drop_table("workers")
    op.drop_index("uq_jobs_active", "jobs")
    op.drop_index("idx_queue_order", "queue")
    for column in ("attempts", "available_at", "lease_until", "claim"):
        op.drop_column("queue", column)
    for column in ("parameters", "progress", "priority"):
        op.drop_column("jobs", column)
