"""Frames against rays cast at planes in space: where each pixel was sampled, and which surface it shows."""

from __future__ import annotations

import numpy as np
import pytest
from fixtures import traced

from depthface_render import PRESETS, Motion, Timing, parallax_with_masks
from depthface_render.view import View

HEIGHT, WIDTH = 360, 640
PERIOD_PX = 16.0
STEP = 50
"""Of grey between the sheets, in the photo that tells them apart."""


def coded(places_px: np.ndarray, sheet: np.ndarray) -> np.ndarray:
    """A photo that says where it was sampled: the sine and the cosine of a place (x + y, so that to be off along
    either of them counts in full), and the sheet."""
    phase = 2 * np.pi * places_px / PERIOD_PX
    return np.stack([128 + 120 * np.sin(phase), 128 + 120 * np.cos(phase), sheet * STEP], -1).round().astype(np.uint8)


def off_px(frame: np.ndarray, expected_px: np.ndarray) -> np.ndarray:
    """How far from `expected_px` each pixel was sampled, up to half a period."""
    red, green = frame[..., 0].astype(float) - 128, frame[..., 1].astype(float) - 128
    turns = np.arctan2(red, green) / (2 * np.pi) - expected_px / PERIOD_PX
    return np.abs(turns - np.round(turns)) * PERIOD_PX


def errors(motion: Motion, quality: str) -> tuple[float, float, float]:
    """Mean error in pixels where nothing is hidden; the share of pixels that show the right sheet; and that of
    invented pixels that show the right one."""
    depth, sheet = traced.photo_of(traced.SCENE, HEIGHT, WIDTH)
    assert (depth.min() >= 0) and depth.max() <= 1
    photo = coded(np.add.outer(np.arange(HEIGHT), np.arange(WIDTH)), sheet)
    made = parallax_with_masks(photo, scaled(depth), motion, timing=Timing(1, 1), quality=quality)
    frame, mask = next(made)
    x, y, seen = traced.seen(traced.SCENE, motion, HEIGHT, WIDTH)
    column, row = (x * HEIGHT + WIDTH - 1) / 2, (HEIGHT - 1 - y * HEIGHT) / 2
    is_inside = (column > 0) & (column < WIDTH - 1) & (row > 0) & (row < HEIGHT - 1)
    at = np.clip(np.rint(row), 0, HEIGHT - 1).astype(int), np.clip(np.rint(column), 0, WIDTH - 1).astype(int)
    is_open = is_inside & (sheet[at] == seen)
    off = off_px(frame, column + row)
    is_right = np.abs(frame[..., 2] / STEP - seen) < 0.5
    invented = is_inside & mask
    return float(off[is_open].mean()), float(is_right[is_inside].mean()), float(is_right[invented].mean())


def scaled(depth: np.ndarray) -> np.ndarray:
    """With a far and a near pixel in the corners, so that depths 0…1 stay what they are."""
    depth = depth.copy()
    depth[0, 0], depth[0, -1] = 0, 1
    return depth


AT_THE_FARTHEST = {
    "orbital": 0.25, "zoom": 0.25, "dolly": 0.5, "horizontal": 0.25, "vertical": 0.75, "circle": 0.12,
}  # fmt: skip


@pytest.mark.parametrize("name", AT_THE_FARTHEST)
def test_every_preset_against_rays_in_space(name):
    motion = PRESETS[name]({"zoom": 0.3, "dolly": 0.5}.get(name, 1.0))(AT_THE_FARTHEST[name])
    off_px, right, right_of_invented = errors(motion, "normal")
    assert off_px <= 0.1
    assert right >= 0.99
    assert right_of_invented >= 0.7  # what is behind a foreground is background


@pytest.mark.parametrize(("quality", "most_px"), [("draft", 0.2), ("normal", 0.1), ("high", 0.15)])
def test_every_parameter_at_once(quality, most_px):
    motion = Motion(0.3, 0.2, 0.4, 0.5, 0.9, offset=(0.3, 0.2), centre=(0.05, -0.02), origin=(0.1, 0.05))
    off_px, right, _ = errors(motion, quality)
    assert off_px <= most_px
    assert right >= 0.98  # so strong a motion in so small a frame: edges are a larger share of it


def test_the_measure_sees_plain_shifting_of_pixels():
    """Moving pixels by the depth that they have themselves, as is often done, misses both bounds."""
    motion = PRESETS["horizontal"](1.0)(0.25)
    depth, sheet = traced.photo_of(traced.SCENE, HEIGHT, WIDTH)
    view = View.of(motion, HEIGHT, WIDTH, 0)
    columns = np.rint(view.x + scaled(depth) * view.x_slope).clip(0, WIDTH - 1).astype(int)
    rows = np.rint(view.y[:, None] + scaled(depth) * view.y_slope[:, None]).clip(0, HEIGHT - 1).astype(int)
    x, _, seen = traced.seen(traced.SCENE, motion, HEIGHT, WIDTH)
    is_inside = np.abs(x) < WIDTH / HEIGHT
    assert (sheet[rows, columns] == seen)[is_inside].mean() < 0.97
    off = np.abs(columns - (x * HEIGHT + WIDTH - 1) / 2)
    assert off[is_inside & (sheet[rows, columns] == seen)].mean() > 0.5
