"""How the networks of `synthetic` see: from pixels to pairs of eyes, in convolutions and a little arithmetic."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from depthface_standins.insightface import scenes
from depthface_standins.insightface.writer import GraphWriter, Row, Tensor

__all__ = ["CELL_PX", "EYE_DISTANCE", "cell_moments", "eyes", "gathering", "in_face", "masks_of", "merge_cells"]

EYE_DISTANCE = float(np.hypot(*(scenes.KEYPOINTS[1] - scenes.KEYPOINTS[0])))
"""Between the eyes' centres, in radii of the face."""

# Of the colour differences that make yellow, magenta and red, in grey levels: none below, fully above.
_MASK_RAMP = {"yellow": (50.0, 130.0), "magenta": (50.0, 130.0), "red": (15.0, 45.0)}

_MOMENTS = ("m", "x", "y", "q")  # of a mask over an area: Σ1, Σx, Σy, Σ(x² + y²)
_COLOURS = ("yellow", "magenta")

CELL_PX = 8


def masks_of(g: GraphWriter, image: Tensor) -> Tensor:
    """From normalised RGB to soft masks, each the difference of two ramps: `<mask>` − `<mask>+`."""
    level = 128 / 255  # R, G, B in 0…1 are level · x + ½
    primaries: dict[str, Row] = {c: {c: level, "": 0.5} for c in "RGB"}
    excesses: dict[str, Row] = {f"{a}-{b}": {a: level, b: -level} for a, b in ("GR", "BR", "BG")}
    colours = g.relu(g.linear(image, primaries | excesses, name="colours"))
    differences: dict[str, Row] = {
        "yellow": {"G": 1, "G-R": -1, "B": -1},  # min(R, G) − B
        "magenta": {"B": 1, "B-R": -1, "G": -1},  # min(R, B) − G
        "red": {"R": 1, "G": -1, "B-G": -1},  # R − max(G, B)
    }
    ramps: dict[str, Row] = {}
    for mask, row in differences.items():
        start, end = _MASK_RAMP[mask]
        slope = {channel: factor * 255 / (end - start) for channel, factor in row.items()}
        ramps[mask] = slope | {"": -start / (end - start)}
        ramps[f"{mask}+"] = slope | {"": -end / (end - start)}
    return g.relu(g.linear(colours, ramps, name="ramps"))


def cell_moments(g: GraphWriter, masks: Tensor) -> Tensor:
    """Moments of the masks over cells of 8×8 px; unit of length and area: the cell, its corner the origin."""
    middle = (np.arange(CELL_PX) + 0.5) / CELL_PX
    y, x = np.meshgrid(middle, middle, indexing="ij")
    kernels = dict(zip(_MOMENTS, np.stack([np.ones_like(x), x, y, x**2 + y**2]) / CELL_PX**2, strict=True))
    channels = [f"{colour}.{moment}" for colour in _COLOURS for moment in _MOMENTS] + ["red.m"]
    weight = np.zeros((len(channels), len(masks.channels), CELL_PX, CELL_PX), np.float32)
    for index, channel in enumerate(channels):
        colour, moment = channel.split(".")
        weight[index, masks.channels.index(colour)] = kernels[moment]
        weight[index, masks.channels.index(f"{colour}+")] = -kernels[moment]
    return g.conv(masks, weight, np.zeros(len(channels), np.float32), channels, name="cells", stride=CELL_PX)


def gathering(count: int, first: int, unit: float) -> npt.NDArray[np.float32]:
    """Return the kernel that sums the four moments of `count`×`count` cells round a new origin in a new unit of length.

    Args:
        first: where the first cell begins, seen from the new origin, in cells.
        unit: the new unit in cells.

    Returns:
        `(4, 4, count, count) float32`: new moment, old moment, row, column.
    """
    oy, ox = np.meshgrid(np.arange(count) + first, np.arange(count) + first, indexing="ij")
    kernel = np.zeros((4, 4, count, count), np.float32)
    kernel[0, 0] = 1
    kernel[1, 0], kernel[1, 1] = ox / unit, 1 / unit
    kernel[2, 0], kernel[2, 2] = oy / unit, 1 / unit
    kernel[3, 0], kernel[3, 1], kernel[3, 2], kernel[3, 3] = (
        (ox**2 + oy**2) / unit**2,
        2 * ox / unit**2,
        2 * oy / unit**2,
        1 / unit**2,
    )
    return kernel / np.float32(unit**2)


def merge_cells(g: GraphWriter, cells: Tensor) -> Tensor:
    """Moments over cells of twice the size."""
    weight = np.zeros((9, 9, 2, 2), np.float32)
    weight[0:4, 0:4] = weight[4:8, 4:8] = gathering(2, 0, 2.0)
    weight[8, 8] = 0.25
    return g.conv(cells, weight, np.zeros(9, np.float32), cells.channels, stride=2)


def eyes(g: GraphWriter, windows: Tensor, prefixes: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """From the windows' moments to pairs of eyes, all in units of the window's half width.

    Returns:
        `pairs`: per prefix the eyes `xl`, `yl`, `xr`, `yr` and the vector between them `dx`, `dy`, of length `d`;
        `checks`: per prefix what is to be 1 for a true pair: the masses `ml`, `mr` and spreads `vl`, `vr` of the eyes
        over what their distance lets expect, and the cosine `cos` of their slant.
    """
    sides = tuple(zip("lr", _COLOURS, strict=True))
    sums: dict[str, Row] = {f"{p}{m}{s}": {f"{p}{c}.{m}": 1} for p in prefixes for s, c in sides for m in "xyq"}
    masses: dict[str, Row] = {f"{p}{m}{s}": {f"{p}{c}.m": 1} for p in prefixes for s, c in sides for m in "xyq"}
    means = g.binary("Div", g.linear(windows, sums), g.at_least(g.linear(windows, masses), 1e-3))

    points: dict[str, Row] = {}
    for p in prefixes:
        points |= {f"{p}{a}{s}": {f"{p}{a}{s}": 1} for s in "lr" for a in "xy"}
        points |= {f"{p}d{a}": {f"{p}{a}r": 1, f"{p}{a}l": -1} for a in "xy"}
    vectors = g.linear(means, points)
    squares = g.binary("Mul", vectors, vectors)
    squared = Tensor(squares.name, tuple(f"{channel}²" for channel in squares.channels))

    known = g.concat(windows, means, vectors, squared)
    eye = scenes.EYE_RADIUS / EYE_DISTANCE  # in eye distances
    numerators: dict[str, Row] = {}
    denominators: dict[str, Row] = {}
    for p in prefixes:
        distance: Row = {f"{p}dx²": 1, f"{p}dy²": 1}
        for s, c in sides:
            numerators[f"{p}m{s}"] = {f"{p}{c}.m": 1 / (np.pi * eye**2)}
            spread = 2 / eye**2  # a disc's mean squared distance from its centre is half its radius squared
            numerators[f"{p}v{s}"] = {f"{p}q{s}": spread, f"{p}x{s}²": -spread, f"{p}y{s}²": -spread}
            denominators |= {f"{p}m{s}": distance, f"{p}v{s}": distance}
    d2 = g.at_least(g.linear(known, {f"{p}d": {f"{p}dx²": 1, f"{p}dy²": 1} for p in prefixes}), 1e-3)
    d = Tensor(g.node("Sqrt", [d2.name]), d2.channels)
    over = g.at_least(g.linear(known, denominators), 1e-3)
    ratios = g.binary("Div", g.linear(known, numerators), over)
    slants = g.binary("Div", g.linear(vectors, {f"{p}cos": {f"{p}dx": 1} for p in prefixes}), d)
    return g.concat(vectors, d), g.concat(ratios, slants)


def in_face(prefix: str, axis: str, point: tuple[float, ...], scale: float) -> dict[str, float]:
    """Where a point of the upright face (centre 0, radius 1) is, given where the eyes are: a similarity transform."""
    left, right = (complex(*eye) for eye in scenes.KEYPOINTS[:2].tolist())
    turn = (complex(*point) - left) / (right - left)  # along and across the vector between the eyes
    if axis == "x":
        row = {f"{prefix}xl": 1.0, f"{prefix}dx": turn.real, f"{prefix}dy": -turn.imag}
    else:
        row = {f"{prefix}yl": 1.0, f"{prefix}dx": turn.imag, f"{prefix}dy": turn.real}
    return {channel: scale * factor for channel, factor in row.items()}
