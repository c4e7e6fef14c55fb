"""What single pixels see, where depth has an edge or something comes into view: the third step of `project`.

A pixel tries the surfaces around it, the nearest first, and takes the first that its ray meets. A ray that passes under
all of them sees the background that `layers` has laid behind. What is behind is asked for only where it shows: under
such rays, and in the soft outline of a foreground.

Pixels are `(n, 1024)` arrays, because OpenCV takes no rows of any length. The last pixel fills up the last row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from depthface_render.layers import Layers

__all__ = ["Rays", "Seen", "Words", "in_rows", "look", "mix", "sampled"]

Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]
Values = npt.NDArray[Any]
Words = npt.NDArray[np.uint32]
"""Colours of `Layers`, four bytes as one: numpy moves them ten times as fast."""

_ROW = 1024


@dataclass(frozen=True)
class Rays:
    """Where the rays of some pixels run: at depth d over column x + d · x_slope and row y + d · y_slope."""

    x: Floats
    x_slope: Floats
    y: Floats
    y_slope: Floats

    def some(self, which: Indices) -> Rays:
        """Return those at these flat indices."""
        return Rays(*(line.ravel()[which] for line in (self.x, self.x_slope, self.y, self.y_slope)))

    def at(self, depth: Floats) -> tuple[Floats, Floats]:
        """Return column and row of each at its `depth`."""
        return self.x + depth * self.x_slope, self.y + depth * self.y_slope

    def under(self, grid: Values, depth: Floats) -> Values:
        """Return the value of `grid` in the pixel that lies under each at its `depth`."""
        return _remapped(grid, *self.at(depth), cv2.INTER_NEAREST, cv2.BORDER_REPLICATE)


@dataclass(frozen=True)
class Seen:
    """What pixels see.

    Attributes:
        x, y: where of the layers the surface in front is.
        mixed: flat indices of those pixels in which what is behind shows. All else is of these.
        opacity: of the surface in front, below 1; 0 where the ray meets none.
        moved: how far front and back have moved apart, 1 for two pixels or more.
        x_behind, y_behind: where what is behind is.
        is_behind_seen: whether that is a part of the photo that is in view elsewhere, not invented.
    """

    x: Floats
    y: Floats
    mixed: Indices
    opacity: Floats
    moved: Floats
    x_behind: Floats
    y_behind: Floats
    is_behind_seen: Flags


def in_rows(index: Indices) -> Indices:
    """Bring flat indices to the shape in which this module computes."""
    whole: Indices = np.concatenate([index, np.repeat(index[-1:], -len(index) % _ROW)])
    return whole.reshape(-1, _ROW)


def look(layers: Layers, rays: Rays, surfaces: tuple[Floats, ...], *, has_soft_edges: bool) -> Seen:
    """Try `surfaces`, the nearest first, each the depths of one surface at the rays."""
    front = _front(layers.depth, rays, surfaces)
    is_hidden = np.isnan(front)
    np.copyto(front, surfaces[-1], where=is_hidden)
    x, y = rays.at(front)

    mixed = in_rows(np.flatnonzero(is_hidden | (rays.under(layers.is_soft, front) == 1)))
    some, is_hidden, front = rays.some(mixed), is_hidden.ravel()[mixed], front.ravel()[mixed]
    surfaces = tuple(surface.ravel()[mixed] for surface in surfaces)
    back = _back(layers, some, surfaces[1:], np.where(is_hidden, np.float32(np.nan), front))
    is_behind_seen = ~np.isnan(back)
    unseen = in_rows(np.flatnonzero(~is_behind_seen))
    back.ravel()[unseen] = _hidden(layers.depth_behind, some.some(unseen), surfaces[-1].ravel()[unseen])
    x_behind, y_behind = some.at(back)
    x_front, y_front = x.ravel()[mixed], y.ravel()[mixed]
    # What has not moved against its background yet is not mixed with it: at rest the frame is the photo.
    moved = np.minimum(np.sqrt((x_front - x_behind) ** 2 + (y_front - y_behind) ** 2) / 2, 1)
    opacity = 1 - (1 - sampled(layers.opacity, x_front, y_front, cv2.INTER_LINEAR)) * moved
    opacity[is_hidden] = 0
    if not has_soft_edges:
        opacity = np.where(opacity < 0.5, np.float32(0), np.float32(1))
    x.ravel()[mixed] = np.where(is_hidden, x_behind, x_front)
    y.ravel()[mixed] = np.where(is_hidden, y_behind, y_front)

    shown = in_rows(np.flatnonzero(opacity < 1))
    return Seen(
        x,
        y,
        mixed=mixed.ravel()[shown],
        opacity=opacity.ravel()[shown],
        moved=moved.ravel()[shown],
        x_behind=x_behind.ravel()[shown],
        y_behind=y_behind.ravel()[shown],
        is_behind_seen=is_behind_seen.ravel()[shown],
    )


def mix(layers: Layers, seen: Seen, front: Words, interpolation: int) -> Words:
    """Return the colours of `seen.mixed`, `(n, 1024)`, of which `front` is what the frame has there."""
    mixed = sampled(layers.colour_behind, seen.x_behind, seen.y_behind, interpolation).view(np.uint32)[..., 0]
    photo = in_rows(np.flatnonzero(seen.is_behind_seen))
    at = seen.x_behind.ravel()[photo], seen.y_behind.ravel()[photo]
    mixed.ravel()[photo] = sampled(layers.colour, *at, interpolation).view(np.uint32)[..., 0]

    soft = in_rows(np.flatnonzero(seen.opacity))
    at = seen.x.ravel()[seen.mixed.ravel()[soft]], seen.y.ravel()[seen.mixed.ravel()[soft]]
    colour = front.ravel()[soft][..., None].view(np.uint8).astype(np.float32)
    colour += (sampled(layers.colour_front, *at, interpolation) - colour) * seen.moved.ravel()[soft][..., None]
    behind = mixed.ravel()[soft][..., None].view(np.uint8)
    colour -= behind
    colour *= seen.opacity.ravel()[soft][..., None]
    colour += behind
    mixed.ravel()[soft] = np.rint(colour).astype(np.uint8).view(np.uint32)[..., 0]
    return mixed


def sampled(grid: Values, x: Floats, y: Floats, interpolation: int) -> Values:
    """Return `grid` at these columns and rows; beyond its borders it is mirrored."""
    return _remapped(grid, x, y, interpolation, cv2.BORDER_REFLECT_101)


def _front(depth: Floats, rays: Rays, surfaces: tuple[Floats, ...]) -> Floats:
    """Return the depth of the first surface that each ray meets, NaN where it meets none."""
    front = _met(depth, rays, surfaces[0])
    for surface in surfaces[1:]:
        rest = in_rows(np.flatnonzero(np.isnan(front)))
        front.ravel()[rest] = _met(depth, rays.some(rest), surface.ravel()[rest])
    return front


def _back(layers: Layers, rays: Rays, surfaces: tuple[Floats, ...], front: Floats) -> Floats:
    """Return the depth of the first surface that each ray meets behind `front`, NaN where it meets none."""
    back = np.full(front.shape, np.nan, np.float32)
    for surface in surfaces:
        rest = in_rows(np.flatnonzero(np.isnan(back) & (front - surface > layers.step / 2)))
        met = _met(layers.depth, rays.some(rest), surface.ravel()[rest])
        back.ravel()[rest] = np.where(front.ravel()[rest] - met > layers.step, met, np.float32(np.nan))
    return back


def _hidden(depth_behind: Floats, rays: Rays, start: Floats) -> Floats:
    """Return the depth at which rays that pass under all that is seen meet the layer behind."""
    depth = start
    for _ in range(3):
        depth = rays.under(depth_behind, depth)
    return depth


def _met(depth: Floats, rays: Rays, surface: Floats) -> Floats:
    """Return the depth at which each ray meets `surface`, NaN where it does not."""
    tolerance = np.float32(1.5) / np.maximum(np.sqrt(rays.x_slope**2 + rays.y_slope**2), np.float32(1e-3))
    once = rays.under(depth, surface)
    twice = rays.under(depth, once)
    is_met = (np.abs(once - surface) <= 2 * tolerance) & (np.abs(twice - once) <= tolerance)
    return np.where(is_met, twice, np.float32(np.nan))


def _remapped(grid: Values, x: Floats, y: Floats, interpolation: int, border: int) -> Values:
    if not x.size:  # OpenCV refuses it
        return np.empty((*x.shape, *grid.shape[2:]), grid.dtype)
    return np.asarray(cv2.remap(grid, x, y, interpolation, borderMode=border), grid.dtype)
