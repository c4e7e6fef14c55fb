"""Which folder has the jobs' files, so that nobody takes another one for it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table; the next who opens a folder is believed."""
    op.create_table(
        "job_stores", sa.Column("tasks", sa.String, primary_key=True), sa.Column("mark", sa.String, nullable=False)
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("job_stores")
