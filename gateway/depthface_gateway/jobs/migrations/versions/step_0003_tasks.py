"""What a worker does, so that each contract on one database counts its own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; a worker that was started before says nothing of its tasks, and is counted nowhere."""
    op.add_column("workers", sa.Column("tasks", sa.String, nullable=False, server_default=""))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("workers", "tasks")
