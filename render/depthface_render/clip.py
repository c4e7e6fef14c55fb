"""A clip of one photo: frames that say what their depth is worth, in a file that says where it comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from depthface.weights import depth_label_of, source_of
from depthface_render import frames as framing
from depthface_render import sources, video
from depthface_render.frames import Timing
from depthface_render.motion import CameraPath
from depthface_render.sources import Map

__all__ = ["Clip", "Watch"]

Pixels = npt.NDArray[np.uint8]

Watch = Callable[[Iterable[Pixels]], Iterable[Pixels]]
"""Hands on each frame as it is made: to show how far the clip is, or to end it."""


@dataclass(frozen=True, eq=False)
class Clip:
    """All that the frames of a clip, and of its mask, are made of.

    Attributes:
        pixels: the photo, `(H, W, 3) uint8 RGB`.
        depth: its depth, of any size.
        path: of the camera.
        timing: of the frames.
        size: height and width of a frame.
        quality: one of `QUALITIES`.
    """

    pixels: Pixels
    depth: Map
    path: CameraPath
    timing: Timing
    size: tuple[int, int]
    quality: str = "normal"

    @classmethod
    def of(
        cls,
        photo: bytes,
        depth: Map,
        path: CameraPath,
        *,
        timing: Timing,
        size: tuple[int, int],
        quality: str = "normal",
    ) -> Clip:
        """Make one of an encoded photo, which is held no finer than the frames need it."""
        return cls(sources.photo_at_least(photo, size), depth, path, timing, size, quality)

    @property
    def length(self) -> int:
        """How many frames there are."""
        return len(self.timing.times)

    def write(self, out: Path, *, watch: Watch | None = None, kept: list[Path] | None = None) -> None:
        """Write the clip; on frames whose depth means nothing stands a label. Arguments and errors: `video.write`."""
        frames = framing.parallax(
            self.pixels, self.depth.array, self.path, timing=self.timing, size=self.size, quality=self.quality
        )
        self._write(out, self._labelled(frames), watch, kept)

    def write_mask(self, out: Path, *, watch: Watch | None = None, kept: list[Path] | None = None) -> None:
        """Write a clip of what was invented, in white on black; as `write`."""
        pairs = framing.parallax_with_masks(
            self.pixels, self.depth.array, self.path, timing=self.timing, size=self.size, quality=self.quality
        )
        self._write(out, (_white(flags) for _, flags in pairs), watch, kept)

    def _labelled(self, frames: Iterable[Pixels]) -> Iterator[Pixels]:
        label = depth_label_of(self.depth.weights)
        if label is None:
            yield from frames
            return
        foot = sources.banner(*self.size, label)
        for frame in frames:
            frame[-len(foot) :] = foot
            yield frame

    def _write(self, out: Path, frames: Iterable[Pixels], watch: Watch | None, kept: list[Path] | None) -> None:
        shown = frames if watch is None else watch(frames)
        timing, source = self.timing, source_of(self.depth.weights)
        video.write(out, shown, rate=timing.rate, loop=timing.loop, source=source, kept=kept)


def _white(flags: npt.NDArray[np.bool_]) -> Pixels:
    return np.repeat((flags * np.uint8(255))[..., None], 3, axis=2)
