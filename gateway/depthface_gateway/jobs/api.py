"""The routes of the asynchronous inference service. Errors are `{"detail": …}`."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import PurePath
from typing import Annotated, Any

from fastapi import Body, Depends, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from depthface_gateway.context import Context
from depthface_gateway.forms import new_router
from depthface_gateway.frame import Frame, Problem, new_app, request_id, told
from depthface_gateway.jobs.claims import UPLOAD, NewJob
from depthface_gateway.jobs.cleaning import clean
from depthface_gateway.jobs.core import Core, count_tables, opened, working
from depthface_gateway.jobs.events import Hub
from depthface_gateway.jobs.inference import TASKS, TritonModels, face_tasks
from depthface_gateway.jobs.metrics import as_text
from depthface_gateway.jobs.models import Job, Status
from depthface_gateway.jobs.sending import OpenFile
from depthface_gateway.jobs.settings import JobSettings
from depthface_gateway.jobs.tokens import PERMISSION, BadToken, Caller, Tokens
from depthface_gateway.jobs.wire import (
    Cleaned,
    Cleanup,
    Health,
    JobAnswer,
    Service,
    Stats,
    asked_in,
    request_body,
)

__all__ = ["app"]

_log = logging.getLogger(__name__)

_MEDIA_TYPES = {".bin": "application/octet-stream", ".jpg": "image/jpeg"}
_HEALTH_S = 5.0  # a database that has not answered by then is ill
_CHALLENGE = {"WWW-Authenticate": "Bearer"}

_routes = new_router()
_bearer = HTTPBearer(auto_error=False, bearerFormat="JWT (ES256)")


_Responses = dict[int | str, dict[str, Any]]


def _detail(description: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"detail": {}}, "required": ["detail"]}
    return {"description": description, "content": {"application/json": {"schema": schema}}}


_NOT_FOUND: _Responses = {404: _detail("There is no such job")}
_REFUSED: _Responses = {
    401: _detail("No token, or none that can be believed"),
    403: _detail("The token does not allow it"),
}
_EVENTS: _Responses = {200: {"content": {"text/event-stream": {}}, "description": "An event for each change"}}
_FILE: _Responses = {200: {"content": {kind: {} for kind in _MEDIA_TYPES.values()}, "description": "The file"}}
_NOT_NOW: _Responses = {503: _detail("The database or the disk cannot be used now")}


def app(context: Context) -> FastAPI:
    """Make the app."""
    settings = JobSettings.of(context)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        tasks = face_tasks(TritonModels(context.triton, settings.face_model, settings.embedding_model))
        async with AsyncExitStack() as stack:
            app.state.tokens = Tokens(settings.public_key)
            core = await stack.enter_async_context(opened(context, settings, settings.storage, tasks))
            count_tables(core)
            hub = await stack.enter_async_context(Hub(core.queue).running())
            app.state.core, app.state.hub = core, hub

            def on_stop() -> None:
                hub.close()
                if core.worker is not None:
                    core.worker.stop()

            app.state.on_stop = on_stop
            with_worker = core.queue.database.is_sqlite if context.with_worker is None else context.with_worker
            if with_worker:
                await stack.enter_async_context(context.triton)
                await stack.enter_async_context(working(core, context, settings, tasks))
            yield

    frame = Frame(
        name="jobs", title="AI Inference Microservice", version="0.1.0", answer=_answer, is_keyed=False,
        is_for_any_page=settings.public_key is not None,  # or else any page that its user opens could delete jobs
        without_effect=dict.fromkeys(("BROADCAST_TYPE", "MQTT_*"), "events are at /job/{id}/events alone"),
    )  # fmt: skip
    made = new_app(context, frame, lifespan)
    made.add_exception_handler(RequestValidationError, _invalid)
    made.add_exception_handler(SQLAlchemyError, _not_now)
    made.add_exception_handler(OSError, _not_now)
    made.include_router(_routes)
    return made


def _answer(problem: Problem) -> Response:
    return JSONResponse({"detail": problem.message}, problem.status)


async def _invalid(request: Request, error: Exception) -> Response:
    """As FastAPI says it, but without what was sent: it may hold what is no JSON."""
    assert isinstance(error, RequestValidationError)
    return JSONResponse({"detail": told(error)}, 422)


async def _not_now(request: Request, error: Exception) -> Response:
    what = "The database" if isinstance(error, SQLAlchemyError) else "The folder for jobs"
    _log.error("%s cannot be used: %s", what, error, extra={"request_id": request_id(request)})
    message = f"{what} cannot be used now. Send the request again in a moment; the service's log says more."
    return JSONResponse({"detail": message}, 503)


# Who asks


def _core(request: Request) -> Core:
    core: Core = request.app.state.core
    return core


def _caller(request: Request, shown: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> Caller:
    tokens: Tokens = request.app.state.tokens
    if shown is None and not tokens.is_off:
        raise HTTPException(401, "Not authenticated", _CHALLENGE)
    try:
        return tokens.caller(shown.credentials if shown is not None else "")
    except BadToken as error:
        _log.info("a token is refused: %s", error, extra={"request_id": request_id(request)})
        raise HTTPException(401, "Invalid authentication credentials", _CHALLENGE) from error


def _who_may_infer(caller: Annotated[Caller, Depends(_caller)]) -> Caller:
    if not caller.may_infer:
        raise HTTPException(403, f"Missing required permission: {PERMISSION}")
    return caller


def _admin(caller: Annotated[Caller, Depends(_caller)]) -> Caller:
    if not caller.is_admin:
        raise HTTPException(403, "Admin access required")
    return caller


TheCore = Annotated[Core, Depends(_core)]


def _job_id(job_id: str) -> str:
    """Return an id as it stands in the table; what cannot be one is not looked for."""
    try:
        return str(uuid.UUID(job_id))
    except ValueError:
        raise _no_job() from None


JobId = Annotated[str, Depends(_job_id)]


def _no_job() -> HTTPException:
    return HTTPException(404, "Job not found")


async def _found(core: Core, job_id: str) -> Job:
    job = await run_in_threadpool(core.queue.get, job_id)
    if job is None:
        raise _no_job()
    return job


# Jobs


@_routes.post(
    "/job/{task_type}",
    status_code=201,
    response_model=JobAnswer,
    responses={400: _detail("There is no such task"), 409: _detail("The job is there already")}
    | _REFUSED
    | _NOT_NOW
    | {422: _detail("The request is not as it should be")},
    openapi_extra=request_body(),
)
async def create_job(
    task_type: str, request: Request, core: TheCore, caller: Annotated[Caller, Depends(_who_may_infer)]
) -> JobAnswer:
    """Put a job in the queue, for a photo in the media store (JSON) or one that comes with the job (a form)."""
    asked = await asked_in(request)
    if task_type not in TASKS:
        raise HTTPException(400, f"Invalid task_type. Must be one of {', '.join(TASKS)}")
    new = NewJob(
        job_id=str(uuid.uuid4()),
        task_type=task_type,
        media_store_id=asked.media_store_id,
        priority=asked.priority,
        created_by=caller.name,
        parameters={UPLOAD: True} if asked.photo is not None else None,
    )

    def add() -> Job:
        if asked.photo is None:
            return core.queue.add(new)
        core.store.keep_upload(new.job_id, asked.photo)
        try:
            return core.queue.add(new)
        except BaseException:
            core.store.drop_upload(new.job_id)
            raise

    job = await run_in_threadpool(add)
    core.wake()
    return JobAnswer.of(job)


@_routes.get("/job/{job_id}", response_model=JobAnswer, responses=_NOT_FOUND | _NOT_NOW)
async def get_job(job_id: JobId, core: TheCore) -> JobAnswer:
    """Return a job; who knows its id may ask."""
    return JobAnswer.of(await _found(core, job_id))


@_routes.delete("/job/{job_id}", status_code=204, responses=_NOT_FOUND | _REFUSED | _NOT_NOW)
async def delete_job(job_id: JobId, core: TheCore, caller: Annotated[Caller, Depends(_who_may_infer)]) -> Response:
    """Delete a job in any state, with its files; one that is being done is dropped."""
    await run_in_threadpool(core.store.check)  # or its files would be left where they are away
    if not await run_in_threadpool(core.queue.delete, job_id):
        raise _no_job()
    await run_in_threadpool(core.store.delete, job_id)
    return Response(status_code=204)


@_routes.get(
    "/job/{job_id}/events",
    response_class=StreamingResponse,
    responses=_EVENTS | _NOT_FOUND,
)
async def watch_job(job_id: JobId, request: Request, core: TheCore) -> StreamingResponse:
    """Tell a job's progress as it comes, until it ends (server-sent events)."""
    hub: Hub = request.app.state.hub
    events = hub.stream(await _found(core, job_id))
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)


@_routes.get(
    "/job/{job_id}/files/{name:path}",
    response_class=FileResponse,
    responses=_FILE | _NOT_FOUND,
)
async def get_file(job_id: JobId, name: str, core: TheCore) -> OpenFile:
    """Return one of a job's files: `embedding.bin`, `faces/0.bin`, `faces/0.jpg` …; who knows the job's id may ask."""
    await _found(core, job_id)
    file = await run_in_threadpool(core.store.open, job_id, name)
    if file is None:
        raise HTTPException(404, "File not found")
    return OpenFile(file, _MEDIA_TYPES[PurePath(name).suffix])


# For admins


@_routes.get("/admin/stats", response_model=Stats, responses=_REFUSED | _NOT_NOW)
async def stats(core: TheCore, caller: Annotated[Caller, Depends(_admin)]) -> dict[str, Any]:
    """Count the jobs and what they take."""
    counts = await run_in_threadpool(core.queue.counts)
    usage_bytes = await run_in_threadpool(core.store.usage_bytes)
    states = (Status.PENDING, Status.PROCESSING, Status.COMPLETED, Status.ERROR, Status.SYNC_FAILED)
    return {
        "queue_size": counts.get(Status.PENDING, 0),
        "jobs": {status: counts.get(status, 0) for status in states},
        "storage": {"total_jobs": sum(counts.values()), "disk_usage_mb": round(usage_bytes / 2**20, 2)},
    }


@_routes.delete("/admin/cleanup", response_model=Cleaned, responses=_REFUSED | _NOT_NOW)
async def cleanup(
    core: TheCore, caller: Annotated[Caller, Depends(_admin)], wanted: Annotated[Cleanup | None, Body()] = None
) -> Cleaned:
    """Delete jobs that meet all of the body's conditions; without a body, all jobs."""
    return await run_in_threadpool(clean, core.queue, core.store, wanted or Cleanup())


# For everybody


@_routes.get("/health", response_model=Health)
async def health(core: TheCore) -> Health:
    """Say whether the database answers, and whether a worker was heard of lately."""
    try:
        async with asyncio.timeout(_HEALTH_S):  # the thread goes on until the driver gives up
            size, workers = await run_in_threadpool(lambda: (core.queue.size(), core.queue.workers()))
    except (SQLAlchemyError, TimeoutError):
        return Health(status="unhealthy", database="error", worker="unknown", queue_size=0)
    return Health(status="healthy", database="connected", worker="running" if workers else "unknown", queue_size=size)


@_routes.get("/metrics", response_class=Response)
async def metrics(core: TheCore) -> Response:
    """Prometheus's text: the tables' counts, and what a worker in this process did."""
    text = await run_in_threadpool(as_text, core.registry)
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


@_routes.get("/", response_model=Service)
async def service() -> Service:
    """Say who answers."""
    return Service(service="AI Inference Microservice", version="0.1.0", status="running")
