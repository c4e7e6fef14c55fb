"""Run the migrations on the connection that the caller gives, in its transaction."""

from __future__ import annotations

from alembic import context

from depthface_gateway.jobs.models import VERSION_TABLE, Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
