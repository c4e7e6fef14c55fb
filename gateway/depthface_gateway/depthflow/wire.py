"""What travels: the parameters of a clip, tasks, presets and figures, as the clients of the DepthFlow API know them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from depthface_gateway.jobs.models import Job, Status

__all__ = [
    "MESSAGES",
    "PRESETS",
    "STATES",
    "USUAL_MODEL",
    "USUAL_MOVEMENT",
    "Parameters",
    "Preset",
    "Process",
    "Task",
    "time_of",
]

Movement = Literal["orbit", "zoom", "dolly", "static"]

USUAL_MODEL = "default"
USUAL_MOVEMENT: Movement = "orbit"

STATES = {
    Status.PENDING: "pending",
    Status.PROCESSING: "processing",
    Status.COMPLETED: "completed",
    Status.SYNC_FAILED: "completed",  # the clip is there, though nobody took the webhook
    Status.ERROR: "failed",
    Status.CANCELLED: "cancelled",
}
"""A job's state to a task's."""

MESSAGES = {
    "pending": "Task is waiting",
    "processing": "Task is being rendered",
    "completed": "Task completed",
    "failed": "Task failed",
    "cancelled": "Task cancelled",
}
"""What is said of each."""


class Parameters(BaseModel):
    """What a clip shall be.

    Attributes:
        depth_strength: how far the camera moves.
        animation_duration: seconds.
        resolution: the long side in pixels; None for the photo's own. Never more than the photo has.
        loop: whether the last frame leads into the first.
        depth_model: a served depth model; `USUAL_MODEL` or None for the usual one.
        camera_movement: None for `USUAL_MOVEMENT`.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    depth_strength: Annotated[float, Field(ge=0.1, le=5.0)] = 1.0
    animation_duration: Annotated[float, Field(ge=1.0, le=10.0)] = 3.0
    fps: Annotated[int, Field(ge=15, le=60)] = 30
    output_format: Literal["mp4", "webm", "gif"] = "mp4"
    resolution: Annotated[int, Field(ge=480, le=2048)] | None = None
    loop: bool = True
    depth_model: Annotated[str, Field(max_length=200)] | None = USUAL_MODEL
    camera_movement: Movement | None = USUAL_MOVEMENT


class Process(BaseModel):
    """The form's field `request`."""

    model_config = ConfigDict(extra="forbid")

    parameters: Parameters = Parameters()
    webhook_url: Annotated[str, Field(max_length=2000)] | None = None


class Task(BaseModel):
    """A clip that was asked for."""

    task_id: str
    status: Literal["pending", "processing", "completed", "failed", "cancelled"]
    created_at: datetime
    updated_at: datetime
    progress: int
    message: str
    result_url: str | None = None
    error_message: str | None = None
    parameters: dict[str, Any]
    metadata: dict[str, Any] | None = None

    @classmethod
    def of(cls, job: Job) -> Task:
        """Say what a row says."""
        state = STATES[job.status]
        is_done = state == "completed"
        asked = json.loads(job.parameters or "{}")
        heard_of_at = max(at for at in (job.created_at, job.started_at, job.progressed_at) if at is not None)
        return cls(
            task_id=job.job_id,
            status=state,  # type: ignore[arg-type]  # pydantic looks
            created_at=time_of(job.created_at),
            updated_at=time_of(job.completed_at or heard_of_at),
            progress=100 if is_done else int(100 * job.progress),
            message=MESSAGES[state],
            result_url=f"/api/v1/result/{job.job_id}" if is_done else None,
            error_message=job.error_message,
            parameters=asked.get("parameters", {}),
            metadata=json.loads(job.result) if job.result else None,
        )


def time_of(milliseconds: int) -> datetime:
    """Return a time as it travels: ISO 8601, UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


class Preset(BaseModel):
    """Good parameters, under a name."""

    name: str
    description: str
    parameters: Parameters
    is_default: bool = False


PRESETS = [
    Preset(
        name="快速預覽",
        description="A small clip, soon",
        parameters=Parameters(animation_duration=2, fps=24, resolution=720),
        is_default=True,
    ),
    Preset(
        name="高品質",
        description="A large, smooth clip",
        parameters=Parameters(depth_strength=2, animation_duration=5, fps=60, resolution=1920),
    ),
    Preset(
        name="GIF 動圖",
        description="For chats",
        parameters=Parameters(depth_strength=1.5, fps=15, output_format="gif", resolution=480),
    ),
]
"""Those of the original, by its names."""
