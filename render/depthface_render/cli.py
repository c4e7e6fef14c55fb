"""`depthface parallax`."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt

from depthface.cli import Number
from depthface.image import size_of
from depthface.photos import encoded
from depthface.weights import depth_label_of
from depthface_client import outputs
from depthface_client.cli import shared
from depthface_render import frames as framing
from depthface_render import sources, video
from depthface_render.frames import Timing
from depthface_render.motion import HIGHEST, PRESETS, CameraPath, Motion
from depthface_render.project import QUALITIES
from depthface_render.sources import Map

__all__ = ["parallax"]

Pixels = npt.NDArray[np.uint8]

_LONG_SIDE_PX = 1920
_PREVIEW_LONG_SIDE_PX, _PREVIEW_FPS = 480, 15.0
_FPS = {".gif": 25.0}

# Of a preset's own intensity, as DepthFlow's web service takes it for the strength that its users give.
_STRENGTH = {"zoom": 0.3, "dolly": 0.5}

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
    help="How far the near stands out; not for zoom, which goes by it. [default: the motion's]",
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
    help="A depth map that is there (PNG or .npy), instead of asking the server.",
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
    form = video.format_of(out)
    outs = [out] if mask is None else [out, mask]
    needs_even = any(video.format_of(name).is_subsampled for name in outs)
    default_fps = _PREVIEW_FPS if preview else _FPS.get(out.suffix.lower(), Timing.fps)
    timing = Timing(seconds, default_fps if fps is None else fps, loop, reverse)
    for name in outs:
        video.check_rate(name, timing.rate)
        video.check_place(name, len(timing.times))
    results = [result for name in outs for result in video.files_of(name, len(timing.times))]
    outputs.refuse_overwriting(results, [photo, *([depth_file] if depth_file else [])])
    data = encoded(photo)  # once: it may be a pipe
    shape = size_of(data)
    frame = _frame_size(shape, size, _PREVIEW_LONG_SIDE_PX if preview else _LONG_SIDE_PX, needs_even, form.name)
    framing.check_size(frame)
    pixels = sources.photo_at_least(data, frame)
    depth = sources.from_file(depth_file) if depth_file else sources.asked(data, url, timeout_s)
    del data  # of a large photo as much as all the rest
    if depth_file:
        _say_if_resized(depth, shape, depth_file)
    path = _path(motion, intensity, loop, height)
    quality = quality or ("draft" if preview else "normal")
    source = f"depthface: {depth.weights or 'unknown'}"
    kept: list[Path] = []
    try:
        frames = framing.parallax(pixels, depth.array, path, timing=timing, size=frame, quality=quality)
        _write(out, _labelled(frames, depth, frame), timing, source, kept)
        if mask is not None:
            pairs = framing.parallax_with_masks(pixels, depth.array, path, timing=timing, size=frame, quality=quality)
            masks = (_white(flags) for _, flags in pairs)
            _write(mask, masks, timing, source, kept)
    except KeyboardInterrupt:
        raise _Stopped(f"Stopped. {video.told(kept, 'the clip')}") from None
    count = len(timing.times)
    seconds = float(count / timing.rate)
    elapsed_s = time.monotonic() - started
    if as_json:
        facts: dict[str, object] = {
            "photo": str(photo),
            "out": str(out),
            "mask": mask and str(mask),
            "size": [frame[1], frame[0]],
        }
        facts |= {"frames": count, "fps": float(timing.rate), "seconds": seconds, "loop": loop, "reverse": reverse}
        facts |= {"motion": motion, "intensity": intensity, "quality": quality, "weights": depth.weights or None}
        shared.say_json(facts | {"elapsed_s": round(elapsed_s, 3)})
    else:
        made = f"{count} frames of {frame[1]}×{frame[0]}, {seconds:g} s, made in {elapsed_s:.1f} s"
        shared.say(f"{photo} → {out} ({made})")
    shared.warn(depth.weights)


class _Stopped(click.ClickException):
    exit_code = 130  # as a shell says it of SIGINT


def _path(motion: str, intensity: float, loop: bool, height: float | None) -> CameraPath:
    path = PRESETS[motion](intensity * _STRENGTH.get(motion, 1.0), base=Motion(), loop=loop)
    if height is None:
        return path
    return lambda time: replace(path(time), height=height)


def _frame_size(
    photo: tuple[int, int], asked: tuple[int, int] | None, long_side_px: int, needs_even: bool, form: str
) -> tuple[int, int]:
    """Height and width of the frames."""
    if asked is None or asked[1] == 0:
        longest = max(photo)
        side = asked[0] if asked else min(longest, long_side_px)
        height, width = (max(round(length * side / longest), 1) for length in photo)
    else:
        width, height = asked
    even = height - height % 2, width - width % 2
    if needs_even and even != (height, width):
        click.echo(f"{form} takes even sides: {width}×{height} becomes {even[1]}×{even[0]}.", err=True)
        return even
    return height, width


def _say_if_resized(depth: Map, photo: tuple[int, int], path: Path) -> None:
    if depth.array.ndim != 2 or not depth.array.size or depth.array.shape == photo:
        return  # what is no map is refused as it is used
    height, width = depth.array.shape
    stretch = (width / height) / (photo[1] / photo[0])
    doubt = "" if 0.95 < stretch < 1.05 else " Their proportions differ: is it the map of this photo?"
    click.echo(f"{path} is {width}×{height}, the photo {photo[1]}×{photo[0]}: the map was resized.{doubt}", err=True)


def _labelled(frames: Iterable[Pixels], depth: Map, size: tuple[int, int]) -> Iterator[Pixels]:
    """Yield the frames, and on each what its depth is worth if that is nothing."""
    label = depth_label_of(depth.weights)
    if label is None:
        yield from frames
        return
    foot = sources.banner(*size, label)
    for frame in frames:
        frame[-len(foot) :] = foot
        yield frame


def _white(flags: npt.NDArray[np.bool_]) -> Pixels:
    return np.repeat((flags * np.uint8(255))[..., None], 3, axis=2)


def _write(out: Path, frames: Iterable[Pixels], timing: Timing, source: str, kept: list[Path]) -> None:
    is_watched = sys.stderr is not None and sys.stderr.isatty()  # it is None where it was closed
    with click.progressbar(
        frames, length=len(timing.times), label=out.name, file=sys.stderr, hidden=not is_watched
    ) as shown:
        video.write(out, shown, rate=timing.rate, loop=timing.loop, source=source, kept=kept)
