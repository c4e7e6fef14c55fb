"""Frames against rays cast at planes in space: where each pixel was sampled, and which surface it shows."""

from __future__ import annotations

import numpy as np
from fixtures import traced

from depthface_render import Motion, Timing, parallax_with_masks

HEIGHT, WIDTH = 270, 480
PERIOD_PX = 16.0
STEP = 50
"""Of grey between the sheets, in the photo that tells them apart."""


def coded(places_px: np.ndarray, sheet: np.ndarray) -> np.ndarray:
    """A photo that says where it was sampled: the sine and the cosine of a place, and the sheet."""
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
    columns, rows = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    still = Timing(1, 1)
    frames = [
        next(parallax_with_masks(coded(places, sheet), scaled(depth), motion, timing=still, quality=quality))
        for places in (columns, rows)
    ]
    x, y, seen = traced.seen(traced.SCENE, motion, HEIGHT, WIDTH)
    column, row = (x * HEIGHT + WIDTH - 1) / 2, (HEIGHT - 1 - y * HEIGHT) / 2
    is_inside = (column > 0) & (column < WIDTH - 1) & (row > 0) & (row < HEIGHT - 1)
    at = np.clip(np.rint(row), 0, HEIGHT - 1).astype(int), np.clip(np.rint(column), 0, WIDTH - 1).astype(int)
    is_open = is_inside & (sheet[at] == seen)
    off = np.hypot(off_px(frames[0][0], column), off_px(frames[1][0], row))
    is_right = np.abs(frames[0][0][..., 2] / STEP - seen) < 0.5
    return (
        float(off[is_open].mean()),
        float(is_right[is_inside].mean()),
        float(is_right[is_inside & frames[0][1]].mean()),
    )


def scaled(depth: np.ndarray) -> np.ndarray:
    """With a far and a near pixel in the corners, so that depths 0…1 stay what they are."""
    depth = depth.copy()
    depth[0, 0], depth[0, -1] = 0, 1
    return depth
