"""When a job's progress last grew, so that who looks sees that it does."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; of jobs that are there it is not known."""
    op.add_column("jobs", sa.Column("progressed_at", sa.BigInteger))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("jobs", "progressed_at")
