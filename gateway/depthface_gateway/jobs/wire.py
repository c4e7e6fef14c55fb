"""What travels: requests and answers of the contract, as their users know them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.functional_validators import AfterValidator
from starlette.datastructures import UploadFile
from starlette.requests import Request

from depthface_gateway.forms import check_values
from depthface_gateway.jobs.media import is_media_id
from depthface_gateway.jobs.models import Job

__all__ = ["Asked", "Cleaned", "Cleanup", "Health", "JobAnswer", "Service", "Stats", "asked_in", "request_body"]


def _text(value: object) -> object:
    """Take the ids of clients that send them as numbers."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _an_id(value: str) -> str:
    if not is_media_id(value):
        raise ValueError("an id has 1 to 255 printable characters, and more than dots")
    return value


MediaId = Annotated[str, BeforeValidator(_text), AfterValidator(_an_id)]
M = TypeVar("M", bound=BaseModel)
Priority = Annotated[int, Field(ge=0, le=10)]


class JobRequest(BaseModel):
    """A job for a photo in the media store; the highest priority is done first."""

    media_store_id: MediaId
    priority: Priority = 5


class UploadRequest(BaseModel):
    """A job for a photo that comes with it."""

    priority: Priority = 5


class JobAnswer(BaseModel):
    """A job; times are milliseconds since 1970."""

    job_id: str
    task_type: str
    media_store_id: str
    status: Literal["pending", "processing", "completed", "error", "sync_failed"]
    priority: int
    created_at: int
    started_at: int | None = None
    completed_at: int | None = None
    error_message: str | None = None
    result: dict[str, Any] | None = None

    @classmethod
    def of(cls, job: Job) -> JobAnswer:
        """Say what a row says."""
        return cls(
            job_id=job.job_id,
            task_type=job.task_type,
            media_store_id=job.media_store_id,
            status=job.status,  # type: ignore[arg-type]  # pydantic looks
            priority=job.priority,
            created_at=job.created_at,
            started_at=job.started_at,
            completed_at=job.completed_at,
            error_message=job.error_message,
            result=json.loads(job.result) if job.result else None,
        )


class Counts(BaseModel):
    """How many jobs are in each state."""

    pending: int
    processing: int
    completed: int
    error: int
    sync_failed: int


class Storage(BaseModel):
    """What the jobs take."""

    total_jobs: int
    disk_usage_mb: float


class Stats(BaseModel):
    """For admins."""

    queue_size: int
    jobs: Counts
    storage: Storage


class Cleanup(BaseModel):
    """Which jobs to delete: those that meet all conditions. A misspelt one is refused, for it would hold back nothing.

    Attributes:
        older_than_seconds: since they were made; None for any age.
        remove_results: their files too.
        remove_queue: those that wait or are worked on too; else only those that have ended.
        remove_orphaned_files: also files whose job is gone.
    """

    model_config = ConfigDict(extra="forbid")

    older_than_seconds: Annotated[float, Field(ge=0, le=1e10, allow_inf_nan=False)] | None = None
    status: Literal["all", "pending", "processing", "completed", "error", "sync_failed"] = "all"
    remove_results: bool = True
    remove_queue: bool = True
    remove_orphaned_files: bool = False


class Cleaned(BaseModel):
    """What a cleanup has done."""

    jobs_deleted: int = 0
    files_deleted: int = 0
    queue_entries_removed: int = 0


class Health(BaseModel):
    """Whether all is well."""

    status: Literal["healthy", "unhealthy"]
    database: Literal["connected", "error"]
    worker: Literal["running", "unknown"]
    queue_size: int


class Service(BaseModel):
    """Who answers here."""

    service: str
    version: str
    status: Literal["running"]


@dataclass(frozen=True)
class Asked:
    """A request for a job, in either form; `photo` is None where it is in the media store."""

    media_store_id: str
    priority: int
    photo: bytes | None = None


async def asked_in(request: Request) -> Asked:
    """Read the request for a job: JSON with `media_store_id`, or a form with `file`.

    Raises:
        RequestValidationError: it is neither.
        HTTPException: it is JSON of too many values.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        body = await request.body()
        check_values(body)
        asked = _valid(JobRequest, body)
        return Asked(asked.media_store_id, asked.priority)
    async with request.form(max_files=1, max_fields=8) as form:
        upload = form.get("file")
        if not isinstance(upload, UploadFile):
            raise _refusal("missing", "file", "Field required: the photo")
        photo = await upload.read()
        priority = form.get("priority", "5")
    if not photo:
        raise _refusal("value_error", "file", "The file is empty")
    told = _valid(UploadRequest, json.dumps({"priority": priority if isinstance(priority, str) else None}).encode())
    return Asked(f"upload-{hashlib.sha256(photo).hexdigest()}", told.priority, photo)


def request_body() -> dict[str, Any]:
    """Return the OpenAPI of what `asked_in` reads."""
    priority = {"type": "integer", "minimum": 0, "maximum": 10, "default": 5}
    photo = {"type": "string", "format": "binary", "minLength": 1}
    media = {"anyOf": [{"type": "string", "minLength": 1, "maxLength": 255}, {"type": "integer"}]}
    return {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": _object("media_store_id", media, priority)},
                "multipart/form-data": {"schema": _object("file", photo, priority)},
            },
        }
    }


def _object(name: str, schema: dict[str, Any], priority: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": [name], "properties": {name: schema, "priority": priority}}


def _valid(model: type[M], body: bytes) -> M:
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise RequestValidationError(
            [{**one, "loc": ("body", *one["loc"])} for one in error.errors(include_url=False, include_context=False)]
        ) from error


def _refusal(kind: str, field: str, message: str) -> RequestValidationError:
    return RequestValidationError([{"type": kind, "loc": ("body", field), "msg": message}])
