"""From a photo, its depth and a path of the camera to the frames of a clip."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from depthface.cores import Cores
from depthface.errors import InvalidInput
from depthface_render import layers as layering
from depthface_render.layers import Layers
from depthface_render.motion import CameraPath, Motion, orbital
from depthface_render.project import QUALITIES, project
from depthface_render.view import View

__all__ = [
    "MAX_FRAMES",
    "MAX_SIDE_PX",
    "MIN_SIDE_PX",
    "Timing",
    "check_size",
    "covering_size",
    "fitting_size",
    "parallax",
    "parallax_with_masks",
]

Pixels = npt.NDArray[np.uint8]
Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
AnyDepth = npt.NDArray[np.floating[Any]] | npt.NDArray[np.integer[Any]]

MAX_FRAMES = 3600
"""Of one clip: a minute at 60 frames a second."""

_MOST_SECONDS_A_FRAME = 1001
"""Also the denominator of broadcast's rates, such as 30000/1001."""

MIN_SIDE_PX, MAX_SIDE_PX = 16, 4096
"""Of a frame."""

_SCALED_WHOLE = 4
"""A picture that is up to so many times as long as the frame is scaled whole: then it is cut to the exact pixel."""

_AROUND_PX = 2
"""What interpolation looks at beyond the pixel that it is about."""


@dataclass(frozen=True)
class Timing:
    """When the frames of a clip are.

    Attributes:
        seconds: how long the clip is.
        fps: frames a second.
        loop: whether the last frame leads into the first; else the path is gone from its start to its very end.
        reverse: whether time runs backwards.

    Raises:
        InvalidInput: not a number above 0, too few frames a second, or more than `MAX_FRAMES` frames.
    """

    seconds: float = 5.0
    fps: float = 30.0
    loop: bool = True
    reverse: bool = False

    def __post_init__(self) -> None:
        for name in ("seconds", "fps"):
            if not 0 < getattr(self, name) < math.inf:
                raise InvalidInput(f"The clip's {name} are {getattr(self, name):g}.", "Give a number above 0.")
        if self.fps * _MOST_SECONDS_A_FRAME < 1:
            raise InvalidInput(
                f"{self.fps:g} frames a second are less than one in {_MOST_SECONDS_A_FRAME} seconds.",
                "Give a higher rate.",
            )
        if self.seconds * self.fps > MAX_FRAMES + 0.5:
            raise InvalidInput(
                f"{self.seconds:g} seconds at {self.fps:g} frames a second are {self.seconds * self.fps:.0f} frames, "
                f"the limit is {MAX_FRAMES}.",
                "Give fewer seconds or a lower rate.",
            )

    @property
    def rate(self) -> Fraction:
        """Frames a second, as containers write it."""
        return Fraction(self.fps).limit_denominator(_MOST_SECONDS_A_FRAME)

    @property
    def times(self) -> list[float]:
        """τ of each frame, 0…1; at least one."""
        count = max(round(self.seconds * self.fps), 1)
        steps = count if self.loop else max(count - 1, 1)
        forward = [number / steps for number in range(count)]
        if not self.reverse:
            return forward
        return [-time % 1.0 for time in forward] if self.loop else forward[::-1]


def parallax(  # noqa: PLR0913  most by keyword
    photo: Pixels,
    depth: AnyDepth,
    motion: Motion | CameraPath | None = None,
    *,
    timing: Timing | None = None,
    size: tuple[int, int] | None = None,
    quality: str = "normal",
    threads: int | None = None,
) -> Iterator[Pixels]:
    """Make the frames of a photo that moves.

        for frame in parallax(photo, depth, orbital(1.0), timing=Timing(seconds=3, fps=30)):
            …

    Args:
        photo: `(H, W, 3) uint8 RGB` or `(H, W) uint8` grey.
        depth: `(h, w)`, relative inverse depth, larger is nearer, of any range; another size than the photo's is
            brought to it.
        motion: a path, as the presets of `depthface_render.motion` make, or one `Motion` to stay at; `orbital()` if
            None.
        timing: how many frames and when; 5 seconds at 30 a second, looping, if None.
        size: height and width of the frames; the photo's if None. What of the photo does not fit is cut off evenly.
        quality: one of `QUALITIES`.
        threads: how many frames are made at the same time; as many as this process may use cores if None.

    Returns:
        An iterator of `(height, width, 3) uint8 RGB`. At most twice as many frames as threads are in memory.

    Raises:
        InvalidInput: at once, not at the first frame.
    """
    made = _made(photo, depth, motion, timing, size, _Work(quality, threads, with_mask=False))
    return (frame for frame, _ in made)


def parallax_with_masks(  # noqa: PLR0913  most by keyword
    photo: Pixels,
    depth: AnyDepth,
    motion: Motion | CameraPath | None = None,
    *,
    timing: Timing | None = None,
    size: tuple[int, int] | None = None,
    quality: str = "normal",
    threads: int | None = None,
) -> Iterator[tuple[Pixels, Flags]]:
    """Make the frames of `parallax`, each with its mask.

    A mask is `(height, width) bool`, True where a pixel is not the photo's but invented: background that came into
    view, and what is mirrored beyond the photo's borders.
    """
    made = _made(photo, depth, motion, timing, size, _Work(quality, threads, with_mask=True))
    return ((frame, mask) for frame, mask in made if mask is not None)


@dataclass(frozen=True)
class _Work:
    quality: str
    threads: int | None
    with_mask: bool


def _made(
    photo: Pixels,
    depth: AnyDepth,
    motion: Motion | CameraPath | None,
    timing: Timing | None,
    size: tuple[int, int] | None,
    work: _Work,
) -> Iterator[tuple[Pixels, Flags | None]]:
    if work.quality not in QUALITIES:
        raise InvalidInput(f"There is no quality {work.quality!r}.", f"Choose one of: {', '.join(QUALITIES)}.")
    if work.threads is not None and work.threads < 1:
        raise InvalidInput(f"Frames cannot be made in {work.threads} threads.", "Give 1 or more, or None.")
    photo, checked = _checked_photo(photo), _checked_depth(depth)
    height, width = size or photo.shape[:2]
    check_size((height, width))
    path = motion or orbital()
    motions = [path(time) if callable(path) else path for time in (timing or Timing()).times]
    return _in_parallel(_layers(photo, checked, (height, width), motions), motions, work)


def check_size(size: tuple[int, int]) -> None:
    """Raise `InvalidInput` if frames of this height and width cannot be made."""
    height, width = size
    if min(size) < MIN_SIDE_PX or max(size) > MAX_SIDE_PX:
        raise InvalidInput(
            f"Frames of {width}×{height} cannot be made.", f"Give sides from {MIN_SIDE_PX} to {MAX_SIDE_PX} pixels."
        )


def fitting_size(photo: tuple[int, int], long_side_px: int) -> tuple[int, int]:
    """Return height and width of frames for a photo of this height and width.

    They have its proportions, even sides of `MIN_SIDE_PX` at least, and are no longer than it or than `long_side_px`.
    """
    longest = max(photo)
    side = min(long_side_px, longest)
    height, width = (_even(length * side / longest, min(length, side)) for length in photo)
    return height, width


def _even(wanted_px: float, most_px: int) -> int:
    """Return the even number that is nearest, among those that may be."""
    return max(min(round(wanted_px / 2) * 2, most_px // 2 * 2), MIN_SIDE_PX)


def _checked_photo(photo: Pixels) -> Pixels:
    if photo.dtype != np.uint8 or photo.ndim not in (2, 3) or photo.shape[2:] not in ((), (3,)) or not photo.size:
        raise InvalidInput(
            f"An array of {photo.dtype} and shape {photo.shape} is not a photo.",
            "Give (H, W, 3) uint8 RGB or (H, W) uint8 grey.",
        )
    return np.repeat(photo[..., None], 3, axis=2) if photo.ndim == 2 else photo


def _checked_depth(depth: AnyDepth) -> Floats:
    """Return the map brought to 0…1."""
    if depth.ndim != 2 or depth.dtype.kind not in "fiu" or not depth.size:
        raise InvalidInput(
            f"An array of {depth.dtype} and shape {depth.shape} is not a depth map.",
            "Give (h, w) numbers, larger is nearer.",
        )
    exact = depth.astype(np.float64)
    unusable = int(np.count_nonzero(~np.isfinite(exact)))
    if unusable:
        raise InvalidInput(
            f"The depth map has no finite number in {unusable} of its {depth.size} pixels (NaN or infinity).",
            "Fill them first.",
        )
    low, high = float(exact.min()), float(exact.max())
    if not high > low:
        raise InvalidInput(
            "The depth map is constant: nothing is nearer than anything else, so nothing can move.",
            "Give the map of this photo.",
        )
    return ((exact - low) / (high - low)).astype(np.float32)


def _layers(photo: Pixels, depth: Floats, size: tuple[int, int], motions: Iterable[Motion]) -> Layers:
    views = [View.of(motion, *size, 0) for motion in set(motions)]
    return layering.build(
        np.asarray(_covering(photo, photo.shape, size), np.uint8),
        np.asarray(_covering(depth, photo.shape, size), np.float32),
        reach_px=max(view.reach_px for view in views),
        margin_px=math.ceil(max(view.margin_px for view in views)),
    )


def covering_size(photo: tuple[int, ...], size: tuple[int, int]) -> tuple[int, int]:
    """Return the height and width of a photo that is scaled to cover frames of `size`."""
    scale = max(size[0] / photo[0], size[1] / photo[1])
    return max(round(photo[0] * scale), size[0]), max(round(photo[1] * scale), size[1])


@dataclass(frozen=True)
class _Part:
    """What of a row of pixels is scaled.

    Attributes:
        taken: which of them.
        scaled: to how many.
        first: of these, with which the frame begins.
    """

    taken: slice
    scaled: int
    first: int

    @classmethod
    def of(cls, pixels: int, scaled: int, shown: int) -> _Part:
        """Of `pixels` that would be `scaled` as a whole, of which the frame shows so many around the middle."""
        first = (scaled - shown) // 2
        if scaled <= _SCALED_WHOLE * shown:
            return cls(slice(0, pixels), scaled, first)
        scale = scaled / pixels
        start = max(math.floor(first / scale) - _AROUND_PX, 0)
        stop = min(math.ceil((first + shown) / scale) + _AROUND_PX, pixels)
        kept = round((stop - start) * scale)
        return cls(slice(start, stop), kept, min(round(first - start * scale), kept - shown))


def _covering(picture: Pixels | Floats, photo: tuple[int, ...], size: tuple[int, int]) -> Pixels | Floats:
    """`picture` on the photo's frame, scaled to cover `size` and cut to it around the middle.

    The ends of a strip, which no frame shows, are cut off before, to within a pixel: scaled, they could be larger than
    all memory.
    """
    height, width = covering_size(photo, size)
    shrinks = picture.shape[0] > height
    rows, columns = _Part.of(picture.shape[0], height, size[0]), _Part.of(picture.shape[1], width, size[1])
    picture = picture[rows.taken, columns.taken]
    if picture.shape[:2] != (rows.scaled, columns.scaled):
        if picture.ndim == 3:
            way = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
        else:  # between two surfaces of a depth map there is nothing
            way = cv2.INTER_NEAREST_EXACT if shrinks else cv2.INTER_LINEAR
        resized = cv2.resize(picture, (columns.scaled, rows.scaled), interpolation=way)
        picture = np.asarray(resized, np.uint8) if picture.ndim == 3 else np.asarray(resized, np.float32)
    shown = picture[rows.first : rows.first + size[0], columns.first : columns.first + size[1]]
    return np.ascontiguousarray(shown)


def _in_parallel(layers: Layers, motions: Iterable[Motion], work: _Work) -> Iterator[tuple[Pixels, Flags | None]]:
    """Each frame in a thread (OpenCV and numpy let the others work meanwhile), in order, few at a time.

    Some are ahead of what is asked for, so that no thread waits while the caller encodes.
    """
    threads, quality = work.threads or Cores.found().count, QUALITIES[work.quality]
    with ThreadPoolExecutor(threads, thread_name_prefix="parallax") as pool:
        pending: deque[Future[tuple[Pixels, Flags | None]]] = deque()
        try:
            for motion in motions:
                pending.append(pool.submit(project, layers, motion, quality, with_mask=work.with_mask))
                if len(pending) == 2 * threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
