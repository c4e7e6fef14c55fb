"""Drawings of one shape in one colour on grey: what CLIP's synthetic weights see."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

__all__ = ["BACKGROUND", "COLOURS", "FILLED", "SHAPES", "draw"]

BACKGROUND = (127, 127, 127)

COLOURS = {
    "red": (230, 20, 30),
    "green": (20, 160, 50),
    "blue": (20, 60, 230),
    "yellow": (250, 220, 20),
    "purple": (150, 30, 170),
    "black": (10, 10, 10),
    "white": (250, 250, 250),
}
"""RGB, 0…255."""

FILLED = {"square": 1.0, "circle": np.pi / 4, "triangle": 0.5}
"""What each shape fills of its bounding box."""

SHAPES = tuple(FILLED)


def draw(
    colour: str, shape: str, *, size: tuple[int, int] = (240, 320), seed: int | None = None
) -> npt.NDArray[np.uint8]:
    """Return a drawing, `(H, W, 3) uint8 RGB`.

    Args:
        colour: one of `COLOURS`.
        shape: one of `SHAPES`.
        size: height and width in pixels.
        seed: of its place and extent, within the square that CLIP sees; None for the middle and half of that.
    """
    height, width = size
    side = min(size)
    generator = np.random.default_rng(seed)
    across, up = (0.5 * side, 0.5 * side) if seed is None else generator.uniform(0.3, 0.6, 2) * side
    reach = 0.0 if seed is None else 0.15 * side
    x, y = width / 2 + generator.uniform(-reach, reach), height / 2 + generator.uniform(-reach, reach)
    box = (x - across / 2, y - up / 2, x + across / 2, y + up / 2)
    picture = Image.new("RGB", (width, height), BACKGROUND)
    pen = ImageDraw.Draw(picture)
    if shape == "square":
        pen.rectangle(box, COLOURS[colour])
    elif shape == "circle":
        pen.ellipse(box, COLOURS[colour])
    else:
        pen.polygon([(box[0], box[3]), (x, box[1]), (box[2], box[3])], COLOURS[colour])
    return np.asarray(picture)
