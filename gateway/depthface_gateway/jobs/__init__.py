"""Jobs that outlive their caller, and the asynchronous inference service's contract on them.

wire → api → queue (claims, models, database, migrations) → worker (verdicts, rests) → media, inference, results → sync
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from depthface_gateway.context import Context
from depthface_gateway.jobs.api import app
from depthface_gateway.jobs.core import Core, opened, working
from depthface_gateway.jobs.inference import TritonModels, face_tasks
from depthface_gateway.jobs.settings import JobSettings

__all__ = ["DEFAULT_PORT", "NAME", "app", "work"]

NAME = "jobs"
DEFAULT_PORT = 8001


@asynccontextmanager
async def work(context: Context) -> AsyncIterator[Core]:
    """Have a worker do this contract's jobs meanwhile; `context.triton` is open already."""
    settings = JobSettings.of(context)
    tasks = face_tasks(TritonModels(context.triton, settings.face_model, settings.embedding_model))
    async with opened(context, settings, settings.storage, tasks) as core, working(core, context, settings, tasks):
        yield core
