"""`depthface parallax`."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt

from depthface.cli import Number
from depthface.image import size_of
from depthface.photos import encoded
from depthface_client import outputs
from depthface_client.cli import shared
from depthface_render import frames as framing
from depthface_render import sources, video
from depthface_render.clip import Clip, Watch
from depthface_render.frames import Timing
from depthface_render.motion import HIGHEST, PRESETS, CameraPath, usual_path
from depthface_render.project import QUALITIES
from depthface_render.sources import Map

__all__ = ["parallax"]

Pixels = npt.NDArray[np.uint8]

_LONG_SIDE_PX = 1920
_PREVIEW_LONG_SIDE_PX, _PREVIEW_FPS = 480, 15.0
_FPS = {".gif": 25.0}

_GOES_BY_HEIGHT = "zoom"
"""The motion that is a course of the height itself: a height of its own would stop it."""


def _size(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """Width and height; height 0 for the photo's proportions."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d{1,5})(?:[x×](\d{1,5}))?", value)
    if not found:
        raise click.BadParameter(f"{value!r} is no size. Give WIDTHxHEIGHT, or the longer side alone.")
    return int(found[1]), int(found[2] or 0)


@click.command()
@click.argument("photo", type=click.Path(path_type=Path))
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="clip.mp4 (H.264), .webm (VP9), .gif, .webp, or a PNG a frame: frames/%04d.png.",
)
@click.option("--motion", type=click.Choice(list(PRESETS)), default="orbital", show_default=True)
@click.option("--intensity", type=Number(0, 5), default=1.0, show_default=True, help="How far it moves.")
@click.option(
    "--height",
    type=Number(0, HIGHEST),
    help="How far near things stand out; not for zoom, which changes the height itself. [default: the motion's]",
)
@click.option("--seconds", type=float, default=Timing.seconds, show_default=True)
@click.option("--fps", type=float, help=f"Frames a second.  [default: {Timing.fps:g}; for a GIF {_FPS['.gif']:g}]")
@click.option(
    "--size",
    callback=_size,
    metavar="WxH|SIDE",
    help="Of a frame; a number alone is the longer side.  [default: the photo's, the longer side at most 1920]",
)
@click.option("--loop/--no-loop", default=True, show_default=True, help="Whether the end leads into the start.")
@click.option("--reverse", is_flag=True, help="Run backwards.")
@click.option("--quality", type=click.Choice(list(QUALITIES)), help="[default: normal]")
@click.option("--preview", is_flag=True, help="Quick and small: draft quality, 480 pixels, 15 frames a second.")
@click.option(
    "--depth",
    "depth_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A file with the depth map (PNG or .npy); the server is then not asked.",
)
@click.option(
    "--mask", type=click.Path(path_type=Path), metavar="OUT", help="Also a clip of what was invented, in white."
)
@shared.as_json
@shared.timeout
@shared.url
def parallax(
    photo: Path,
    out: Path,
    motion: str,
    intensity: float,
    height: float | None,
    seconds: float,
    fps: float | None,
    size: tuple[int, int] | None,
    loop: bool,
    reverse: bool,
    quality: str | None,
    preview: bool,
    depth_file: Path | None,
    mask: Path | None,
    as_json: bool,
    timeout_s: float,
    url: str,
) -> None:
    """Turn a photo into a clip in which it moves, as if the camera did.

    The depth comes from a server, or from a file that `depthface depth` has written.

    Example: depthface parallax photo.jpg --out clip.mp4 --motion circle
    """
    if motion == _GOES_BY_HEIGHT and height is not None:
        raise click.UsageError(
            f"--motion {motion} moves by the height, so it takes no --height. Give an --intensity, or another motion."
        )
    started = time.monotonic()
    outs = [out] if mask is None else [out, mask]
    default_fps = _PREVIEW_FPS if preview else _FPS.get(out.suffix.lower(), Timing.fps)
    timing = Timing(seconds, default_fps if fps is None else fps, loop, reverse)
    _check_outs(outs, timing, [photo, *([depth_file] if depth_file else [])])
    data = encoded(photo)  # once: it may be a pipe
    frame = _frame_size(size_of(data), size, _PREVIEW_LONG_SIDE_PX if preview else _LONG_SIDE_PX, outs)
    quality = quality or ("draft" if preview else "normal")
    depth, path = _depth(data, depth_file, url, timeout_s), _path(motion, intensity, loop, height)
    clip = Clip.of(data, depth, path, timing=timing, size=frame, quality=quality)
    del data  # of a large photo as much as all the rest
    _make(clip, out, mask)
    elapsed_s = time.monotonic() - started
    if as_json:
        facts: dict[str, object] = {"photo": str(photo), "out": str(out), "mask": mask and str(mask)}
        facts |= _facts(clip) | {"motion": motion, "intensity": intensity, "elapsed_s": round(elapsed_s, 3)}
        shared.say_json(facts)
    else:
        shared.say(f"{photo} → {out} ({_told(clip)}, made in {elapsed_s:.1f} s)")
    shared.warn(clip.depth.weights)


def _facts(clip: Clip) -> dict[str, object]:
    """Return what programs are told of a clip."""
    (height, width), timing = clip.size, clip.timing
    return {
        "size": [width, height],
        "frames": clip.length,
        "fps": float(timing.rate),
        "seconds": float(clip.length / timing.rate),
        "loop": timing.loop,
        "reverse": timing.reverse,
        "quality": clip.quality,
        "weights": clip.depth.weights or None,
    }


def _told(clip: Clip) -> str:
    height, width = clip.size
    return f"{clip.length} frames of {width}×{height}, {float(clip.length / clip.timing.rate):g} s"


class _Stopped(click.ClickException):
    exit_code = 130  # as a shell says it of SIGINT


def _path(motion: str, intensity: float, loop: bool, height: float | None) -> CameraPath:
    path = usual_path(motion, intensity, loop=loop)
    if height is None:
        return path
    return lambda time: replace(path(time), height=height)


def _check_outs(outs: Sequence[Path], timing: Timing, inputs: Sequence[Path]) -> None:
    """Raise what `video` and `outputs` say of a clip that cannot be made, or not be put where it is asked for."""
    for name in outs:
        video.check_rate(name, timing.rate)
        video.check_place(name, len(timing.times))
    outputs.refuse_overwriting([path for name in outs for path in video.files_of(name, len(timing.times))], inputs)


def _frame_size(
    photo: tuple[int, int], asked: tuple[int, int] | None, long_side_px: int, outs: Sequence[Path]
) -> tuple[int, int]:
    """Return height and width of the frames; raise `InvalidInput` if there can be none of that size."""
    if asked is None or asked[1] == 0:
        longest = max(photo)
        side = asked[0] if asked else min(longest, long_side_px)
        height, width = (max(round(length * side / longest), 1) for length in photo)
    else:
        width, height = asked
    even = height - height % 2, width - width % 2
    subsampled = [form for form in map(video.format_of, outs) if form.is_subsampled]
    if subsampled and even != (height, width):
        click.echo(f"{subsampled[0].name} takes even sides: {width}×{height} becomes {even[1]}×{even[0]}.", err=True)
        height, width = even
    framing.check_size((height, width))
    return height, width


def _depth(photo: bytes, path: Path | None, url: str, timeout_s: float) -> Map:
    """Return the depth of a photo: from its file, if there is one, or from the server."""
    if path is None:
        return sources.asked(photo, url, timeout_s)
    depth = sources.from_file(path)
    _say_if_resized(depth, size_of(photo), path)
    return depth


def _say_if_resized(depth: Map, photo: tuple[int, int], path: Path) -> None:
    if depth.array.ndim != 2 or not depth.array.size or depth.array.shape == photo:
        return  # what is no map is refused as it is used
    height, width = depth.array.shape
    stretch = (width / height) / (photo[1] / photo[0])
    doubt = "" if 0.95 < stretch < 1.05 else " Their proportions differ: is it the map of this photo?"
    click.echo(f"{path} is {width}×{height}, the photo {photo[1]}×{photo[0]}: the map was resized.{doubt}", err=True)


def _make(clip: Clip, out: Path, mask: Path | None) -> None:
    """Write a clip, and then its mask, if there is to be one; raise `_Stopped` with what was kept on Ctrl-C."""
    kept: list[Path] = []
    try:
        clip.write(out, watch=_watch(clip, out), kept=kept)
        if mask is not None:
            clip.write_mask(mask, watch=_watch(clip, mask), kept=kept)
    except KeyboardInterrupt:
        raise _Stopped(f"Stopped. {video.told(kept, 'the clip')}") from None


def _watch(clip: Clip, out: Path) -> Watch:
    def shown(frames: Iterable[Pixels]) -> Iterator[Pixels]:
        is_watched = sys.stderr is not None and sys.stderr.isatty()  # it is None where it was closed
        with click.progressbar(
            frames, length=clip.length, label=out.name, file=sys.stderr, hidden=not is_watched
        ) as watched:
            yield from watched

    return shown
