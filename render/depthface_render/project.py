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

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from depthface_render.layers import BEHIND, Layers
from depthface_render.look import Rays, in_rows, look, mix, sampled
from depthface_render.motion import Motion
from depthface_render.view import View

__all__ = ["QUALITIES", "Quality", "project"]

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]

_EMPTY = np.float32(-9)
_CHUNK = 1 << 15
"""So many points or pixels at a time: what is computed of them stays in the processor's cache."""

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
    cell_px = max(quality.cell_px, int(np.ceil(1.9 / motion.least_scale)))
    cells = _nearest_in_cells(layers, motion, cell_px)
    behind = cells < BEHIND / 2 + 0.5
    guess = np.where(behind, cells - BEHIND, cells)
    depth = _met(layers.depth, view, guess, cell_px)
    is_edge, near, far = _edges(guess, depth, behind, max(_EDGE_PX * cell_px / 2 / max(view.reach_px, 1e-3), 0.01))
    for _ in range(quality.rounds - 1):
        depth = _met(layers.depth, view, depth, cell_px)

    x, y = _places(depth, view, cell_px, height, width)
    parts = []
    for edge in _EdgePixels.in_parts(is_edge, cell_px, height, width):
        surfaces = tuple(edge.of_cells(surface) for surface in (near, depth, far))
        seen = look(layers, edge.rays(view), surfaces, has_soft_edges=quality.has_soft_edges)
        x.ravel()[edge.index], y.ravel()[edge.index] = seen.x, seen.y
        parts.append((edge.index.ravel()[seen.mixed], seen))

    frame = sampled(layers.colour, x, y, quality.interpolation)
    colours = frame.view(np.uint32).ravel()
    for at, seen in parts:
        colours[at] = mix(layers, seen, colours[at], quality.interpolation)
    pixels = np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGBA2RGB), np.uint8)
    if not with_mask:
        return pixels, None
    invented = _outside(x, layers.margin_px, width) | _outside(y, layers.margin_px, height)
    for at, seen in parts:
        invented.ravel()[at[(seen.opacity < 0.5) & ~seen.is_behind_seen]] = True
    return pixels, invented


@dataclass(frozen=True)
class _EdgePixels:
    """The pixels of some cells.

    Attributes:
        cells: flat indices of the cells, `(n, 1024)`.
        rows, columns: of their pixels, `(cell_px, n, 1024)`; a cell that the frame's border cuts repeats its last ones.
        index: flat indices of the pixels, `(cell_px² · n, 1024)`.
    """

    cells: Indices
    rows: Indices
    columns: Indices
    index: Indices

    @classmethod
    def in_parts(cls, is_wanted: Flags, cell_px: int, height: int, width: int) -> Iterator[_EdgePixels]:
        """Yield those of the cells that are wanted, about `_CHUNK` at a time."""
        every = in_rows(np.flatnonzero(is_wanted))
        inside, count = np.arange(cell_px)[:, None, None], max(_CHUNK // (every.shape[1] * cell_px**2), 1)
        for start in range(0, len(every), count):
            cells = every[start : start + count]
            row, column = np.divmod(cells, is_wanted.shape[1])
            rows = np.minimum(row * cell_px + inside, height - 1)
            columns = np.minimum(column * cell_px + inside, width - 1)
            yield cls(cells, rows, columns, (rows[:, None] * width + columns).reshape(-1, cells.shape[1]))

    def rays(self, view: View) -> Rays:
        """Return the rays of the pixels."""
        along_x = (self._each(line[self.columns]) for line in (view.x, view.x_slope))
        along_y = (self._each(line[self.rows][:, None]) for line in (view.y, view.y_slope))
        return Rays(*along_x, *along_y)

    def of_cells(self, grid: Floats) -> Floats:
        """Return what `grid` has for the cell of each pixel."""
        return self._each(grid.ravel()[self.cells])

    def _each(self, values: Floats) -> Floats:
        return np.broadcast_to(values, (len(self.rows), *self.columns.shape)).reshape(self.index.shape)


def _nearest_in_cells(layers: Layers, motion: Motion, cell_px: int) -> Floats:
    """Return the nearest depth in each cell, `BEHIND` added where it is of the layer behind."""
    height, width = layers.size
    known, points = motion.coefficients(), layers.points
    rows, columns = -(-height // cell_px), -(-width // cell_px)
    cells = np.full((rows + 2, columns + 2), _EMPTY)  # around them, what falls out of the frame
    for start in range(0, len(points.depth), _CHUNK):
        some = slice(start, start + _CHUNK)
        depth = points.depth[some]
        index: Indices = np.zeros(len(depth), np.intp)
        magnified = np.float32(1 / cell_px) / (np.float32(known.scale) + depth * np.float32(known.scale_slope))
        for at, side, up, axis, last in ((points.y[some], height, -1, 1, rows), (points.x[some], width, 1, 0, columns)):
            shift = np.float32(up * height / 2)
            place = depth * (-shift * np.float32(known.shift_slope[axis]))
            place += at - shift * np.float32(known.shift[axis])
            place *= magnified
            place += np.float32(side / 2 / cell_px + 1)
            index = index * (columns + 2) + np.clip(place, 0, last + 1, out=place).astype(np.intp)
        cells.ravel()[index] = points.code[some]  # of several the last stays, and they come in the order of depth
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
    (the hole in a foreground may be smaller than a cell; its neighbours must not take depth from it).
    """
    kernel = np.ones((3, 3), np.uint8)
    near, far = cv2.dilate(guess, kernel), cv2.erode(guess, kernel)
    is_other = (np.abs(met - guess) > threshold).astype(np.uint8)
    is_edge = (near - far > threshold) | behind | (cv2.dilate(is_other, kernel) == 1)
    far = np.minimum(far, met)
    return is_edge, np.asarray(cv2.dilate(near, kernel), np.float32), np.asarray(cv2.erode(far, kernel), np.float32)


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


def _places(cells: Floats, view: View, cell_px: int, height: int, width: int) -> tuple[Floats, Floats]:
    """Return the column and row that each pixel of the frame shows if depth runs evenly from cell to cell."""
    rows, columns = cells.shape
    depth = cv2.resize(cells, (columns * cell_px, rows * cell_px), interpolation=cv2.INTER_LINEAR)[:height, :width]
    x: Floats = depth * view.x_slope
    y: Floats = depth * view.y_slope[:, None]
    x += view.x
    y += view.y[:, None]
    return x, y


def _outside(place: Floats, margin_px: int, side: int) -> Flags:
    return (place < margin_px - 0.5) | (place > margin_px + side - 0.5)
