"""A photo and its depth as two layers: what is seen, and the background as it goes on behind every foreground.

Made once for a clip. The order of the work:

1. The slopes by which a depth map climbs from background to foreground become steps.
2. The foreground grows over its soft outline, so that the outline moves with it and leaves no halo behind.
3. Beneath each step, as far as the camera will see, the background goes on: its depth smoothly, its colour with its
   texture (`fill`).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from depthface_render.fill import smooth, textured
from depthface_render.outline import matte, nearest

__all__ = ["BEHIND", "Layers", "Points", "build"]

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]

GROWN_SHARE = 1 / 360
"""How far the foreground grows, of the frame's shorter side: 2 pixels at 720."""

SLOPE_SHARE = 1 / 240
"""Half of the widest slope that is taken for a step, of the frame's shorter side: 3 pixels at 720."""

_TORN_PX = 2.0
"""A step of depth is one that would tear two neighbours this far apart."""

_AROUND_PX = 16
"""How much more of the background, beside twice what may be shown, is looked at for its continuation."""


BEHIND = np.float32(-2)
"""Added to the depth, 0…1, of what is of the layer behind, so that one number says both."""


@dataclass(frozen=True)
class Points:
    """Pixels of both layers, farthest first, each array `(N,) float32`.

    `x`, `y`: pixels from the photo's middle, y down. `code`: the depth, with `BEHIND` for a pixel of the layer behind.
    """

    x: Floats
    y: Floats
    depth: Floats
    code: Floats


@dataclass(frozen=True)
class Layers:
    """What `project` looks at. Arrays have a margin around the frame, in which the photo is mirrored.

    Attributes:
        size: height and width of the frame.
        margin_px: of the arrays, on every side.
        step: a greater difference of depth between neighbours is an edge.
        colour, depth: what is seen; `(h, w, 4) uint8`, RGB and a byte that fills up a word, and `(h, w) float32` 0…1.
        colour_behind, depth_behind: the same, where foreground covers it; elsewhere equal to what is seen.
        colour_front: the colour of the foreground alone, where its outline is mixed with what is behind.
        is_soft: `(h, w) uint8`, 1 in those outlines.
        opacity: `(h, w) float32`, there the share of the foreground; elsewhere 1, and 0 outside an outline.
        points: pixels of both, every second one of every second row.
    """

    size: tuple[int, int]
    margin_px: int
    step: float
    colour: Pixels
    depth: Floats
    colour_behind: Pixels
    depth_behind: Floats
    colour_front: Pixels
    is_soft: Pixels
    opacity: Floats
    points: Points


def build(photo: Pixels, depth: Floats, *, reach_px: float, margin_px: int) -> Layers:
    """Make the layers of a photo.

    Args:
        photo: `(H, W, 3) uint8 RGB`.
        depth: `(H, W) float32`, 0 far … 1 near.
        reach_px: how far the nearest moves against the farthest in the clip, at most.
        margin_px: how far the camera sees beyond the photo, at most.
    """
    height, width = depth.shape
    margin_px = min(margin_px, height - 1, width - 1)
    side = min(height, width)
    step = float(np.clip(_TORN_PX / max(reach_px, 1e-3), 0.02, 0.2))
    colour = np.asarray(_mirrored_around(photo, margin_px), np.uint8)
    sharp = _sharpened(
        np.asarray(_mirrored_around(depth, margin_px), np.float32), max(round(side * SLOPE_SHARE), 2), step
    )
    front, is_rim = _grown(sharp, max(round(side * GROWN_SHARE), 1), step)
    sides = _sides(front, step, reach_px)
    depth_behind = np.where(sides.covered, np.minimum(smooth(front, sides.known), front - step / 4), front)
    colour_behind = textured(colour, sides.known, sides.covered | sides.foot)
    colour_front, is_soft, opacity = matte(
        colour, colour_behind, inside=sides.covered & ~is_rim, rim=is_rim, outside=sides.foot
    )
    return Layers(
        size=(height, width),
        margin_px=margin_px,
        step=step,
        colour=_in_words(colour),
        depth=front,
        colour_behind=_in_words(colour_behind),
        depth_behind=depth_behind,
        colour_front=_in_words(colour_front),
        is_soft=is_soft.astype(np.uint8),
        opacity=opacity,
        points=_points(front, depth_behind, sides.covered, margin_px),
    )


def _mirrored_around(array: Pixels | Floats, margin_px: int) -> Pixels | Floats:
    around = cv2.copyMakeBorder(array, margin_px, margin_px, margin_px, margin_px, cv2.BORDER_REFLECT_101)
    return np.asarray(around, np.uint8) if array.dtype == np.uint8 else np.asarray(around, np.float32)


def _in_words(colour: Pixels) -> Pixels:
    return np.asarray(cv2.cvtColor(colour, cv2.COLOR_RGB2RGBA), np.uint8)


def _disc(radius_px: int) -> Pixels:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius_px + 1, 2 * radius_px + 1))  # type: ignore[return-value]


def _sharpened(depth: Floats, radius_px: int, step: float) -> Floats:
    """Let a pixel on a slope between two surfaces belong to the one whose depth is nearer to its own.

    On a slope both neighbours differ; a surface that stands between two others is level, and stays.
    """
    beside = np.ones((3, 3), np.uint8)
    for _ in range(2):
        low, high = cv2.erode(depth, _disc(radius_px)), cv2.dilate(depth, _disc(radius_px))
        is_between = (depth - low > step / 2) & (high - depth > step / 2)
        is_slope = (depth - cv2.erode(depth, beside) > step / 8) & (cv2.dilate(depth, beside) - depth > step / 8)
        depth = np.where(is_between & is_slope, np.where(depth - low < high - depth, low, high), depth)
    return depth


def _grown(depth: Floats, radius_px: int, step: float) -> tuple[Floats, Flags]:
    """Let near surfaces grow over what is beyond their edges, and there alone; return also where they did."""
    grown = cv2.dilate(depth, _disc(radius_px))
    is_rim = grown - depth > step
    return np.where(is_rim, grown, depth), is_rim


@dataclass(frozen=True)
class _Sides:
    """Of the edges of a depth map, each `(h, w) bool`.

    Attributes:
        covered: foreground behind which background may come into view.
        foot: background right at an edge.
        known: the background around that tells how it goes on behind.
    """

    covered: Flags
    foot: Flags
    known: Flags


def _sides(depth: Floats, step: float, reach_px: float) -> _Sides:
    kernel = np.ones((3, 3), np.uint8)
    low = cv2.erode(depth, kernel)
    is_brink = depth - low > step
    is_foot = np.asarray(cv2.dilate(depth, kernel) - depth > step)
    if not is_brink.any():
        nowhere = np.zeros(depth.shape, bool)
        return _Sides(nowhere, nowhere, nowhere)
    away_px, brink = nearest(is_brink)
    middle = ((depth + low) / 2).ravel()[brink]
    # A step moves against its background by its share of the whole reach; its rows and columns may lie a pixel apart.
    shown_px = (depth - low).ravel()[brink] * reach_px + 2
    is_near_side = depth > middle
    covered = (away_px <= shown_px) & is_near_side
    return _Sides(covered, is_foot, (away_px <= 2 * shown_px + _AROUND_PX) & ~is_near_side & ~is_foot)


def _points(depth: Floats, depth_behind: Floats, covered: Flags, margin_px: int) -> Points:
    """Both layers' pixels in the order of their depth; of every square of four one, which is enough."""
    height, width = (side - 2 * margin_px for side in depth.shape)
    is_taken = np.zeros(depth.shape, bool)
    is_taken[::2, ::2] = True
    seen, behind = np.flatnonzero(is_taken), np.flatnonzero(covered & is_taken)
    at = np.concatenate([seen, behind])
    depths = np.concatenate([depth.ravel()[seen], depth_behind.ravel()[behind]])
    codes = depths.copy()
    codes[len(seen) :] += BEHIND
    order = np.argsort(depths, kind="stable")
    rows, columns = np.divmod(at[order], depth.shape[1])
    return Points(
        (columns - (margin_px + (width - 1) / 2)).astype(np.float32),
        (rows - (margin_px + (height - 1) / 2)).astype(np.float32),
        depths[order],
        codes[order],
    )
