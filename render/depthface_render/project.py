"""One frame: for each of its pixels the nearest surface that the pixel's ray meets.

The ray of an output pixel crosses the photo along a straight line, P(d) for d from 1 (near) to 0 (far); it ends at the
largest d at which the depth under it is d. A search finds that d in three steps:

1. *Where to begin.* The inverse of P is closed, so every pixel of the photo is thrown to where it is seen, far ones
   first, into cells of a few output pixels; what stays in a cell is its nearest surface. Two more rounds of
   d ← depth(P(d)) bring a cell's d to what the ray truly meets.
2. *Where surfaces are smooth*, a pixel takes d from its cells, linearly.
3. *Where they are not* (at an edge of depth, or where something comes into view) each pixel of the frame looks for
   itself: it tries the surfaces of the cells around it, the nearest first, and takes the first that its ray meets.
   A ray that passes under all of them sees the background that `layers` has laid behind.

Of an edge the last pixel is soft, so that it does not crawl: its colour is mixed with what is behind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from depthface_render.layers import Layers
from depthface_render.motion import Motion

__all__ = ["QUALITIES", "Quality", "View", "project"]

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]

_BEHIND = np.float32(-2)
"""Added to the depth of a cell that shows the layer behind."""

_EMPTY = np.float32(-9)
_EDGE_PX = 1.5
"""Cells whose depths lie further apart than this, in pixels of the photo, hold an edge."""


@dataclass(frozen=True)
class Quality:
    """How much work goes into a frame.

    Attributes:
        cell_px: side of the cells, output pixels.
        rounds: how often a cell's depth is brought nearer to what its ray meets.
        interpolation: OpenCV's for colours.
        has_soft_edges: whether the last pixel of an edge is mixed with what is behind.
    """

    cell_px: int
    rounds: int
    interpolation: int
    has_soft_edges: bool


QUALITIES = {
    "draft": Quality(cell_px=4, rounds=1, interpolation=cv2.INTER_LINEAR, has_soft_edges=False),
    "normal": Quality(cell_px=2, rounds=2, interpolation=cv2.INTER_LINEAR, has_soft_edges=True),
    "high": Quality(cell_px=2, rounds=3, interpolation=cv2.INTER_CUBIC, has_soft_edges=True),
}


@dataclass(frozen=True)
class View:
    """P(d) in pixels: column x of the frame meets depth d at column x[x] + d · x_slope[x] of the layers; rows alike."""

    x: Floats
    x_slope: Floats
    y: Floats
    y_slope: Floats

    @classmethod
    def of(cls, motion: Motion, height: int, width: int, margin_px: int) -> View:
        """Return what `motion` sees, of a frame of `height` × `width` and layers with a margin of `margin_px`."""
        rays = motion.rays()
        axes = []
        for side, up, axis in ((width, 1, 0), (height, -1, 1)):
            middle, half = (side - 1) / 2, up * height / 2
            from_middle = np.arange(side) - middle
            axes.append((from_middle * rays.scale + rays.shift[axis] * half + middle + margin_px).astype(np.float32))
            axes.append((from_middle * rays.scale_slope + rays.shift_slope[axis] * half).astype(np.float32))
        return cls(*axes)

    @property
    def reach_px(self) -> float:
        """The longest way of a ray over the photo, from d = 0 to 1."""
        return float(np.hypot(np.abs(self.x_slope).max(), np.abs(self.y_slope).max()))

    @property
    def margin_px(self) -> float:
        """How far rays leave the layers, to any side."""
        return float(max(_beyond(self.x, self.x_slope), _beyond(self.y, self.y_slope)))


def project(
    layers: Layers, motion: Motion, quality: Quality, *, with_mask: bool = False
) -> tuple[Pixels, Flags | None]:
    """Make the frame that `motion` sees.

    Returns:
        `(H, W, 3) uint8 RGB`, and with `with_mask` `(H, W) bool`: True where the photo has no pixel and one was
        invented.
    """
    height, width = layers.size
    view = View.of(motion, height, width, layers.margin_px)
    cell_px = max(quality.cell_px, int(np.ceil(1.9 / min(_scales(motion)))))
    cells = _nearest_in_cells(layers, motion, cell_px)
    behind = cells < -0.5
    guess = np.where(behind, cells - _BEHIND, cells)
    depth = _met(layers.depth, view, guess, cell_px)
    is_edge, near, far = _edges(guess, depth, behind, max(_EDGE_PX * cell_px / 2 / max(view.reach_px, 1e-3), 0.01))
    for _ in range(quality.rounds - 1):
        depth = _met(layers.depth, view, depth, cell_px)

    full = _enlarged(depth, cell_px, height, width)
    x, y = full * view.x_slope, full * view.y_slope[:, None]
    x += view.x
    y += view.y[:, None]
    edge = np.flatnonzero(_repeated(is_edge, cell_px, height, width))
    rows, columns = np.divmod(edge, width)
    cell = rows // cell_px * depth.shape[1] + columns // cell_px
    seen = _look(layers, view, (rows, columns), tuple(d.ravel()[cell] for d in (near, depth, far)))
    x.ravel()[edge], y.ravel()[edge] = seen.x, seen.y

    frame = np.asarray(
        cv2.remap(layers.colour, x, y, quality.interpolation, borderMode=cv2.BORDER_REFLECT_101), np.uint8
    )
    opacity = seen.opacity if quality.has_soft_edges else (seen.opacity >= 0.5).astype(np.float32)
    mixed = np.flatnonzero(opacity < 1)
    if mixed.size:
        target = frame.reshape(-1, 3)
        at = edge[mixed]
        target[at] = _mixed(layers, seen, mixed, target[at], opacity[mixed], quality.interpolation)

    if not with_mask:
        return frame, None
    invented = _outside(x, layers.margin_px, width) | _outside(y, layers.margin_px, height)
    unseen = (opacity < 0.5) & ~seen.is_behind_seen
    invented.ravel()[edge[unseen]] = True
    return frame, invented


@dataclass(frozen=True)
class _Seen:
    """What some pixels see, each array `(n,)`: the surface in front at `x`, `y`, and at `x2`, `y2` what is behind.

    `moved`: how far the two have moved apart, 1 for two pixels or more. `is_behind_seen`: what is behind is a part of
    the photo that is in view elsewhere, not invented.
    """

    x: Floats
    y: Floats
    opacity: Floats
    moved: Floats
    x2: Floats
    y2: Floats
    is_behind_seen: Flags


def _scales(motion: Motion) -> tuple[float, float]:
    rays = motion.rays()
    return rays.scale, rays.scale + rays.scale_slope


def _beyond(start: Floats, slope: Floats) -> float:
    ends = np.concatenate([start, start + slope])
    return float(max(-ends.min(), ends.max() - (len(start) - 1), 0))


def _nearest_in_cells(layers: Layers, motion: Motion, cell_px: int) -> Floats:
    """Return the nearest depth in each cell, `_BEHIND` added where it is of the layer behind."""
    height, width = layers.size
    rays, points = motion.rays(), layers.points
    rows, columns = -(-height // cell_px), -(-width // cell_px)
    cells = np.full((rows + 2, columns + 2), _EMPTY)  # around them, what falls out of the frame
    magnified = np.float32(1 / cell_px) / (np.float32(rays.scale) + points.depth * np.float32(rays.scale_slope))
    index = None
    for at, side, up, axis, last in ((points.y, height, -1, 1, rows), (points.x, width, 1, 0, columns)):
        shift = np.float32(up * height / 2)
        place = points.depth * (-shift * np.float32(rays.shift_slope[axis]))
        place += at - shift * np.float32(rays.shift[axis])
        place *= magnified
        place += np.float32(side / 2 / cell_px + 1)
        np.clip(place, 0, last + 1, out=place)
        whole = place.astype(np.int32)
        index = whole if index is None else index * np.int32(columns + 2) + whole
    cells.ravel()[index] = points.code  # of several the last stays, and they come in the order of depth
    return _without_holes(cells[1:-1, 1:-1])


def _without_holes(cells: Floats) -> Floats:
    """Fill cells that nothing fell into from those around."""
    cells = np.ascontiguousarray(cells)
    kernel = np.ones((3, 3), np.uint8)
    while True:
        is_empty = cells == _EMPTY
        if not is_empty.any() or is_empty.all():
            return np.where(is_empty, np.float32(0), cells)
        cells = np.where(is_empty, cv2.dilate(cells, kernel), cells)


def _edges(guess: Floats, met: Floats, behind: Flags, threshold: float) -> tuple[Flags, Floats, Floats]:
    """Which cells are at an edge, or show the layer `behind`, and the nearest and the farthest depth around each cell.

    An edge is where depths differ by more than `threshold`: from cell to cell, or from what the ray of a cell meets
    (the hole in a foreground may be smaller than a cell).
    """
    kernel = np.ones((3, 3), np.uint8)
    near, far = cv2.dilate(guess, kernel), cv2.erode(guess, kernel)
    is_edge = (near - far > threshold) | behind | (np.abs(met - guess) > threshold)
    wide = np.asarray(cv2.dilate(is_edge.astype(np.uint8), kernel), bool)
    far = np.minimum(far, met)
    return wide, np.asarray(cv2.dilate(near, kernel), np.float32), np.asarray(cv2.erode(far, kernel), np.float32)


def _met(depth: Floats, view: View, cells: Floats, cell_px: int) -> Floats:
    """Return what lies under the rays of the cells' middles at the depths that they have."""
    middle = (cell_px - 1) / 2
    x = cells * _at_cells(view.x_slope, middle, cells.shape[1], cell_px)
    y = cells * _at_cells(view.y_slope, middle, cells.shape[0], cell_px)[:, None]
    x += _at_cells(view.x, middle, cells.shape[1], cell_px)
    y += _at_cells(view.y, middle, cells.shape[0], cell_px)[:, None]
    return np.asarray(cv2.remap(depth, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32)


def _at_cells(line: Floats, middle: float, count: int, cell_px: int) -> Floats:
    step = (line[-1] - line[0]) / (len(line) - 1)  # the coefficients are linear along a side
    return np.asarray(line[0] + step * (np.arange(count) * cell_px + middle), np.float32)


def _enlarged(cells: Floats, cell_px: int, height: int, width: int) -> Floats:
    rows, columns = cells.shape
    full = cv2.resize(cells, (columns * cell_px, rows * cell_px), interpolation=cv2.INTER_LINEAR)
    return full[:height, :width]  # type: ignore[return-value]


def _repeated(cells: Flags, cell_px: int, height: int, width: int) -> Flags:
    return cells.repeat(cell_px, 0)[:height].repeat(cell_px, 1)[:, :width]


def _look(layers: Layers, view: View, pixels: tuple[Indices, Indices], surfaces: tuple[Floats, ...]) -> _Seen:
    """Try `surfaces`, the nearest first, each `(n,)` depths, for the pixels at these rows and columns."""
    rows, columns = pixels
    x, x_slope, y, y_slope = view.x[columns], view.x_slope[columns], view.y[rows], view.y_slope[rows]
    tolerance = np.float32(1.5) / np.maximum(np.hypot(x_slope, y_slope), np.float32(1e-3))
    last_column, last_row = layers.depth.shape[1] - 1, layers.depth.shape[0] - 1

    def under(grid: Floats | Pixels, depth: Floats) -> Floats:
        column = np.clip(np.rint(x + depth * x_slope), 0, last_column).astype(np.int32)
        row = np.clip(np.rint(y + depth * y_slope), 0, last_row).astype(np.int32)
        return np.asarray(grid.ravel().take(row * np.int32(last_column + 1) + column), np.float32)

    front = np.full(len(rows), np.nan, np.float32)
    back = front.copy()
    for surface in surfaces:
        once = under(layers.depth, surface)
        twice = under(layers.depth, once)
        is_met = (np.abs(once - surface) <= 2 * tolerance) & (np.abs(twice - once) <= tolerance)
        is_first = is_met & np.isnan(front)
        front = np.where(is_first, twice, front)
        is_second = is_met & np.isnan(back) & (front - twice > layers.step)
        back = np.where(is_second, twice, back)
    hidden = surfaces[-1]
    for _ in range(3):
        hidden = under(layers.depth_behind, hidden)
    is_front, is_back = ~np.isnan(front), ~np.isnan(back)
    back = np.where(is_back, back, hidden)
    front = np.where(is_front, front, back)
    x1, y1, x2, y2 = x + front * x_slope, y + front * y_slope, x + back * x_slope, y + back * y_slope
    softened = _sampled(layers.opacity, x1, y1, cv2.INTER_LINEAR)
    opacity = np.where(under(layers.is_soft, front) == 1, softened, np.float32(1))
    # What has not moved against its background yet is not mixed with it: at rest the frame is the photo.
    moved = np.minimum(np.hypot(x1 - x2, y1 - y2) / 2, 1)
    moved = np.where(is_front, moved, np.float32(1))
    return _Seen(x1, y1, np.where(is_front, 1 - (1 - opacity) * moved, np.float32(0)), moved, x2, y2, is_back)


def _mixed(
    layers: Layers, seen: _Seen, mixed: Indices, front: Pixels | Floats, opacity: Floats, interpolation: int
) -> Pixels:
    x, y = seen.x2[mixed], seen.y2[mixed]
    behind = np.where(
        seen.is_behind_seen[mixed, None],
        _sampled(layers.colour, x, y, interpolation),
        _sampled(layers.colour_behind, x, y, interpolation),
    )
    own = _sampled(layers.colour_front, seen.x[mixed], seen.y[mixed], interpolation)
    share, moved = opacity[:, None], seen.moved[mixed, None]
    front = front + (own.astype(np.float32) - front) * moved
    return np.asarray(np.rint(front * share + behind * (1 - share)), np.uint8)


def _sampled(image: npt.NDArray[Any], x: Floats, y: Floats, interpolation: int) -> npt.NDArray[Any]:
    """`image` at n places; OpenCV wants fewer than 32768 a row."""
    row = 1024
    padded = -(-len(x) // row) * row
    map_x, map_y = (np.pad(line, (0, padded - len(x))).reshape(-1, row) for line in (x, y))
    if not len(x):
        return image.reshape(-1, *image.shape[2:])[:0]
    found = np.asarray(cv2.remap(image, map_x, map_y, interpolation, borderMode=cv2.BORDER_REFLECT_101))
    return found.reshape(-1, *image.shape[2:])[: len(x)]


def _outside(place: Floats, margin_px: int, side: int) -> Flags:
    return (place < margin_px - 0.5) | (place > margin_px + side - 0.5)
