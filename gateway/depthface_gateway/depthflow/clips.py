"""A task: depth from the server, frames from `depthface_render`, one file.

Each parameter does what its name says. Where a clip cannot be as large, as fast or as near as asked for, it is
less so, and the metadata's `notes` say it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from depthface import image
from depthface.errors import DepthfaceError, InvalidInput
from depthface_client import Depth
from depthface_gateway.depthflow.wire import USUAL_MODEL, USUAL_MOVEMENT, Parameters
from depthface_gateway.jobs.inference import Task, Try
from depthface_gateway.triton import Triton
from depthface_render import CameraPath, Clip, Map, Timing, usual_path, video
from depthface_render.frames import fitting_size
from depthface_render.motion import STRENGTHS, strongest_zoom

__all__ = ["TASK", "check_photo", "clip_task", "depth_of", "frame_size", "path_of"]

TASK = "depthflow_clip"

MIN_SIDE_PX, MAX_SIDE_PX = 100, 8192
_LONGEST_PX = 2048

_PRESETS = {"orbit": "orbital", "zoom": "zoom", "dolly": "dolly", "static": "static"}
"""A movement to a preset of the renderer."""

AskDepth = Callable[[bytes, str | None, str], Any]


class _Stopped(DepthfaceError):
    """Nobody wants the clip any more."""


def check_photo(data: bytes) -> None:
    """Raise `InvalidInput` if a file is no photo of a size that is taken."""
    height, width = image.size_of(data)
    if not (min(height, width) >= MIN_SIDE_PX and max(height, width) <= MAX_SIDE_PX):
        raise InvalidInput(
            f"The photo is {width}×{height} pixels.", f"Send one of {MIN_SIDE_PX} to {MAX_SIDE_PX} a side."
        )


def frame_size(photo: tuple[int, int], resolution: int | None) -> tuple[tuple[int, int], list[str]]:
    """Return height and width of the frames, even and never more than was asked for, and what is to be said of them."""
    longest = max(photo)
    wanted = resolution or longest
    side = min(wanted, longest, _LONGEST_PX)
    notes = [] if side == wanted else [f"The long side is {side} pixels instead of {wanted}."]
    return fitting_size(photo, side), notes


def clip_task(ask: AskDepth, threads: Executor) -> Task:
    """Return what makes a clip.

    Args:
        ask: `ask(photo, model, request_id)` gives a photo's `Depth`, by the usual model for None.
        threads: where clips are rendered, each for minutes; not the event loop's own, for all else waits for those.
    """

    async def clip(attempt: Try) -> Mapping[str, Any]:
        started_s = time.monotonic()
        wanted = Parameters.model_validate(attempt.job.parameters["parameters"])
        model = None if wanted.depth_model == USUAL_MODEL else wanted.depth_model
        depth = await ask(attempt.photo, model, attempt.job.job_id)
        stopped = threading.Event()
        try:
            rendering = partial(_rendered, attempt, wanted, depth, stopped)
            made = await asyncio.get_running_loop().run_in_executor(threads, rendering)
        except asyncio.CancelledError:
            stopped.set()
            raise
        return {**made, "processing_time": round(time.monotonic() - started_s, 3)}

    return clip


def depth_of(triton: Triton) -> AskDepth:
    """Return what asks the servers behind the gateway."""

    async def ask(photo: bytes, model: str | None, request_id: str) -> Depth:
        return await triton.ask(lambda client: client.depth(photo, model=model, request_id=request_id))

    return ask


def _rendered(attempt: Try, wanted: Parameters, depth: Depth, stopped: threading.Event) -> Mapping[str, Any]:
    photo = image.size_of(attempt.photo)
    size, notes = frame_size(photo, wanted.resolution)
    out = attempt.folder / f"clip.{wanted.output_format}"
    fps = min(wanted.fps, video.format_of(out).max_fps)
    if fps < wanted.fps:
        notes.append(f"A {wanted.output_format.upper()} shows {fps} frames a second instead of {wanted.fps}.")
    notes += _notes_of_path(wanted)
    timing = Timing(seconds=wanted.animation_duration, fps=fps, loop=wanted.loop)
    made = Clip.of(attempt.photo, Map(depth.array, depth.weights), path_of(wanted), timing=timing, size=size)
    count = made.length
    made.write(out, watch=lambda frames: _told(frames, count, attempt, stopped))
    size_bytes = out.stat().st_size
    return {
        "width": size[1],
        "height": size[0],
        "frames": count,
        "fps": float(timing.rate),
        "duration": float(count / timing.rate),
        "output_size": size_bytes,
        "file_size": size_bytes,
        "weights": depth.weights,
        "notes": notes,
    }


def path_of(wanted: Parameters) -> CameraPath:
    """Return the camera's path."""
    return usual_path(_preset(wanted), wanted.depth_strength, loop=wanted.loop)


def _preset(wanted: Parameters) -> str:
    return _PRESETS[wanted.camera_movement or USUAL_MOVEMENT]


def _notes_of_path(wanted: Parameters) -> list[str]:
    """Return what is to be said of a camera that does not go as far as it was asked to."""
    most = strongest_zoom(wanted.loop) / STRENGTHS["zoom"]
    if _preset(wanted) != "zoom" or wanted.depth_strength <= most:
        return []
    return [f"The zoom has the strength {most:g} instead of {wanted.depth_strength:g}: nearer it cannot go."]


def _told(
    frames: Iterable[npt.NDArray[np.uint8]], count: int, attempt: Try, stopped: threading.Event
) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield the frames, with their progress; none after somebody has stopped it."""
    for number, frame in enumerate(frames):
        if stopped.is_set():
            raise _Stopped("Nobody wants the clip any more.")
        attempt.report(number / count)
        yield frame
