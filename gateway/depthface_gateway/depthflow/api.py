"""The routes of the DepthFlow API.

Errors are `{"error", "message", "detail"}`, and the same once more under `detail`: its documents and its own tests look
in different places.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, File, Form, Query, Request, UploadFile
from fastapi.responses import FileResponse, JSONResponse, Response
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from depthface import __version__
from depthface.errors import DepthfaceError, InvalidInput
from depthface_gateway.context import Context
from depthface_gateway.depthflow import clips, figures, webhooks
from depthface_gateway.depthflow.wire import PRESETS, Preset, Process, Task, time_of
from depthface_gateway.edge import NoKey
from depthface_gateway.forms import new_router
from depthface_gateway.frame import MOST_TOLD, Frame, Problem, new_app
from depthface_gateway.jobs.claims import UPLOAD, NewJob
from depthface_gateway.jobs.cleaning import clean
from depthface_gateway.jobs.core import Core, opened, working
from depthface_gateway.jobs.models import Job, Status
from depthface_gateway.jobs.sending import OpenFile
from depthface_gateway.jobs.settings import JobSettings
from depthface_gateway.jobs.wire import Cleanup
from depthface_gateway.loops import repeat
from depthface_gateway.outward import allowed_networks
from depthface_gateway.settings import flag, number, text, words

__all__ = ["app", "work"]

_log = logging.getLogger(__name__)

_MAX_PHOTO_BYTES = 10 * 2**20
_MOST_ASKED = 2**16  # characters of the parameters
_SUFFIXES = (".jpg", ".jpeg", ".png")
_MEDIA_TYPES = {"mp4": "video/mp4", "webm": "video/webm", "gif": "image/gif"}
_CLEAN_EVERY_S = 600.0

_WITHOUT_EFFECT = {
    **dict.fromkeys(
        ("REDIS_*", "CELERY_*", "UPLOAD_PATH", "OUTPUT_PATH"), "jobs and files have variables of their own"
    ),
    **dict.fromkeys(("MAX_UPLOAD_SIZE", "ALLOWED_EXTENSIONS", "DEPTHFLOW_MAX_RESOLUTION"), "this limit is fixed"),
    **dict.fromkeys(("DEPTHFLOW_DEFAULT_FPS", "DEPTHFLOW_DEFAULT_DURATION"), "the defaults are its documents'"),
    "API_PREFIX": "it is always /api/v1",
    "CORS_ALLOW_*": "pages of CORS_ORIGINS may use any method and header, and send no cookies",
}

_routes = new_router()
_api = new_router(prefix="/api/v1")


class _Refusal(DepthfaceError):
    """A status, a code, a sentence and facts, as this contract has them."""

    def __init__(self, code_status: int, code: str, what: str, **facts: Any) -> None:
        super().__init__(what)
        self.code_status, self.code, self.facts = code_status, code, facts


def app(context: Context) -> FastAPI:
    """Make the app; raises `InvalidInput` if a variable says what cannot be."""
    settings = _settings(context)
    most_waiting = round(number(context.environment, "DEPTHFLOW_MAX_WAITING", 100, 1, 1e6))
    allowed_networks(context.environment)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            core = await stack.enter_async_context(_opened(context, settings))
            app.state.core, app.state.most_waiting = core, most_waiting
            app.state.at_once, app.state.started_s = settings.concurrency, time.monotonic()
            is_sqlite = core.queue.database.is_sqlite
            if is_sqlite if context.with_worker is None else context.with_worker:
                await stack.enter_async_context(context.triton)
                await stack.enter_async_context(_working(core, context, settings))
                if core.worker is not None:
                    app.state.on_stop = core.worker.stop
            yield

    frame = Frame(
        name="depthflow", title="DepthFlow API", answer=_answer, api_key=_key(context),
        origins=words(context.environment, "CORS_ORIGINS"), is_for_any_page=True, without_effect=_WITHOUT_EFFECT,
    )  # fmt: skip
    made = new_app(context, frame, lifespan)
    made.add_exception_handler(_Refusal, _refused)
    made.add_exception_handler(SQLAlchemyError, _not_now)
    made.add_exception_handler(OSError, _not_now)
    made.include_router(_routes)
    made.include_router(_api)
    return made


@asynccontextmanager
async def work(context: Context) -> AsyncIterator[Core]:
    """Have a worker make clips meanwhile; `context.triton` is open already."""
    settings = _settings(context)
    async with _opened(context, settings) as core, _working(core, context, settings):
        yield core


def _key(context: Context) -> str:
    """Return the key that callers show; empty where nobody has asked for one.

    Raises:
        InvalidInput: somebody has, and it is empty: the app would stand open.
    """
    environment = context.environment
    own, theirs = text(environment, "DEPTHFLOW_API_KEY"), text(environment, "API_KEY")
    is_theirs_wanted = flag(environment, "API_KEY_ENABLED")
    key = own or (theirs if is_theirs_wanted else "") or context.settings.api_key
    if not key and is_theirs_wanted:
        raise InvalidInput(
            "API_KEY_ENABLED is set, and API_KEY is empty.",
            "Set API_KEY to what callers show, or API_KEY_ENABLED to 0.",
        )
    if not key and "DEPTHFLOW_API_KEY" in environment:
        raise InvalidInput("DEPTHFLOW_API_KEY is empty.", "Set it to what callers show, or unset it to ask nobody.")
    return key


def _settings(context: Context) -> JobSettings:
    at_once = round(number(context.environment, "DEPTHFLOW_MAX_CONCURRENT", 1, 1, 64))
    return replace(JobSettings.of(context), concurrency=at_once, gives_results=False)


@asynccontextmanager
async def _opened(context: Context, settings: JobSettings) -> AsyncIterator[Core]:
    storage = (context.data / "depthflow").absolute()
    async with opened(context, settings, storage, [clips.TASK]) as core:
        yield core


@asynccontextmanager
async def _working(core: Core, context: Context, settings: JobSettings) -> AsyncIterator[None]:
    days = number(context.environment, "DEPTHFLOW_KEEP_DAYS", 7, 0.01, 36500)
    told = webhooks.Webhooks(allowed_networks(context.environment))
    async with AsyncExitStack() as stack:
        threads = ThreadPoolExecutor(settings.concurrency, "clip")
        stack.callback(threads.shutdown, wait=False, cancel_futures=True)
        tasks = {clips.TASK: clips.clip_task(clips.depth_of(context.triton), threads)}
        await stack.enter_async_context(working(core, context, settings, tasks, told))

        async def clean_up() -> None:
            await asyncio.to_thread(clean, core.queue, core.store, _older_than(days))

        expected = (SQLAlchemyError, OSError)
        expiry = repeat(clean_up, _CLEAN_EVERY_S, "old clips are not deleted", expected)
        cleaning = asyncio.create_task(expiry, name="expiry")
        try:
            yield
        finally:
            cleaning.cancel()
            with suppress(asyncio.CancelledError):
                await cleaning


def _older_than(days: float) -> Cleanup:
    """Return what goes: tasks that have ended, and clips without a task, whose deletion broke off."""
    return Cleanup(older_than_seconds=86400 * days, remove_queue=False, remove_orphaned_files=True)


# Errors

_CODES = {
    404: "not_found",
    405: "method_not_allowed",
    413: "file_too_large",
    422: "parameter_validation_error",
    503: "service_busy",
}


def _error(status: int, code: str, message: str, facts: Mapping[str, Any] | None = None) -> Response:
    body = {"error": code, "message": message, "detail": facts or None}
    return JSONResponse({**body, "detail": body}, status)


def _answer(problem: Problem) -> Response:
    if isinstance(problem.error, NoKey):
        return _error(401, "missing_api_key", "Show the key in the header X-API-Key.")
    if problem.status == 401:
        return _error(401, "invalid_api_key", "The key that is shown is not the right one.")
    status = 400 if problem.status == 413 else problem.status
    return _error(
        status, _CODES.get(problem.status, "internal_error" if status >= 500 else "bad_request"), problem.message
    )


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, _Refusal)
    return _error(error.code_status, error.code, error.what, error.facts)


async def _not_now(request: Request, error: Exception) -> Response:
    _log.error("the database or the disk cannot be used: %s", error)
    code = "file_save_error" if isinstance(error, OSError) else "service_busy"
    return _error(500 if isinstance(error, OSError) else 503, code, "Nothing can be kept now. Try again in a moment.")


def _core(request: Request) -> Core:
    core: Core = request.app.state.core
    return core


TheCore = Annotated[Core, Depends(_core)]


async def _found(core: Core, task_id: str) -> Job:
    with suppress(ValueError):
        job = await run_in_threadpool(core.queue.get, str(uuid.UUID(task_id)))
        if job is not None:
            return job
    raise _Refusal(404, "task_not_found", "There is no such task.", task_id=task_id)


# Clips


@_api.post("/process", response_model=Task)
async def process(
    core: TheCore,
    request: Request,
    file: Annotated[UploadFile, File()],
    asked: Annotated[str, Form(alias="request")] = "{}",
) -> Task:
    """Ask for a clip of a photo; `request` is JSON: `{"parameters": {…}, "webhook_url": "https://…"}`."""
    wanted = _wanted(asked)
    photo = await _photo(file)
    waiting = await run_in_threadpool(core.queue.size)
    if waiting >= request.app.state.most_waiting:
        what = "Too many clips wait already. Try again later."
        raise _Refusal(503, "service_busy", what, can_process=False, reason=what, queue_length=waiting)
    task_id = str(uuid.uuid4())
    parameters = wanted.model_dump() | {UPLOAD: True}
    new = NewJob(task_id, clips.TASK, f"upload-{task_id}", parameters=parameters)

    def add() -> Job:
        core.store.keep_upload(task_id, photo)
        try:
            return core.queue.add(new)
        except BaseException:
            core.store.drop_upload(task_id)
            raise

    job = await run_in_threadpool(add)
    core.wake()
    return Task.of(job)


def _wanted(asked: str) -> Process:
    if len(asked) > _MOST_ASKED:
        what = f"request is longer than {_MOST_ASKED} characters."
        raise _Refusal(400, "parameter_validation_error", what, error=what)
    try:
        wanted = Process.model_validate_json(asked)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)[:MOST_TOLD]
        said = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}".lstrip(": ") for one in problems)
        is_json = all(one["type"] != "json_invalid" for one in problems)
        code = "parameter_validation_error" if is_json else "invalid_json"
        raise _Refusal(
            400, code, "The parameters cannot be used." if is_json else "request is no JSON.", error=said
        ) from error
    if wanted.webhook_url:
        try:
            webhooks.check_url(wanted.webhook_url)
        except InvalidInput as error:
            raise _Refusal(400, "parameter_validation_error", str(error), error=str(error)) from error
    return wanted


async def _photo(file: UploadFile) -> bytes:
    if Path(file.filename or "").suffix.lower() not in _SUFFIXES:
        what = f"The file's name ends in none of {', '.join(_SUFFIXES)}."
        raise _Refusal(400, "invalid_file_format", what, filename=file.filename)
    photo = await file.read()
    if len(photo) > _MAX_PHOTO_BYTES:
        what = f"The file is larger than {_MAX_PHOTO_BYTES // 2**20} MiB."
        raise _Refusal(400, "file_too_large", what, file_size=len(photo))
    try:
        await run_in_threadpool(clips.check_photo, photo)
    except InvalidInput as error:
        raise _Refusal(400, "invalid_file_format", str(error), filename=file.filename, error=str(error)) from error
    return photo


@_api.get("/task/{task_id}", response_model=Task)
async def task(task_id: str, core: TheCore) -> Task:
    """Say how far a clip is."""
    return Task.of(await _found(core, task_id))


@_api.get("/result/{task_id}", response_class=FileResponse)
async def result(task_id: str, core: TheCore) -> OpenFile:
    """Return the clip."""
    job = await _found(core, task_id)
    if job.status not in (Status.COMPLETED, Status.SYNC_FAILED):
        state = Task.of(job).status
        raise _Refusal(400, "task_not_completed", f"The task is {state}.", status=state)
    kind = Task.of(job).parameters["output_format"]
    file = await run_in_threadpool(core.store.open, job.job_id, f"clip.{kind}")
    if file is None:
        raise _Refusal(404, "result_not_found", "The clip is no longer there.", task_id=task_id)
    return OpenFile(file, _MEDIA_TYPES[kind], f"depthflow_{job.job_id}.{kind}")


@_api.delete("/task/{task_id}")
async def cancel(task_id: str, core: TheCore) -> dict[str, str]:
    """Stop a clip that is not done."""
    job = await _found(core, task_id)
    await run_in_threadpool(core.store.check)  # or its files would be left where they are away
    if not await run_in_threadpool(core.queue.cancel, job.job_id):
        state = Task.of(await _found(core, task_id)).status
        raise _Refusal(400, "task_not_cancellable", "The task has ended already.", status=state)
    await run_in_threadpool(core.store.drop_upload, job.job_id)
    return {"message": "Task cancelled", "task_id": job.job_id}


# Figures


@_api.get("/presets", response_model=list[Preset])
async def presets(core: TheCore) -> list[Preset]:
    """Name good parameters."""
    return PRESETS


@_api.get("/status")
async def status(core: TheCore, request: Request) -> dict[str, Any]:
    """Say how busy the service is."""
    state = request.app.state
    return await run_in_threadpool(figures.status, core.queue, state.at_once, time.monotonic() - state.started_s)


@_api.get("/monitoring/metrics")
async def metrics(core: TheCore) -> dict[str, Any]:
    """Count tasks and what they take."""
    return await run_in_threadpool(figures.metrics, core)


@_api.get("/monitoring/errors")
async def errors(core: TheCore, hours: Annotated[float, Query(gt=0, le=8760)] = 24) -> dict[str, Any]:
    """Name the tasks that failed lately."""
    return await run_in_threadpool(figures.errors, core.queue, hours)


@_api.post("/monitoring/cleanup")
async def cleanup(core: TheCore, days: Annotated[float, Query(ge=0, le=36500)] = 7) -> dict[str, Any]:
    """Delete tasks that ended, with their clips."""
    done = await run_in_threadpool(clean, core.queue, core.store, _older_than(days))
    return {"message": "Cleanup completed", "tasks_deleted": done.jobs_deleted, "files_deleted": done.files_deleted}


@_routes.get("/")
@_routes.get("/health")
async def health() -> dict[str, Any]:
    """Say that the service lives."""
    return {"status": "healthy", "version": __version__, "timestamp": time_of(time.time_ns() // 1_000_000)}
