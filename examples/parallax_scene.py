"""A drawn scene of known depth, and what `depthface_render` makes of it: the picture at the top of the README.

    python examples/parallax_scene.py demo

leaves in demo/: parallax_photo.png, parallax_depth.png, parallax.mp4, and parallax.webp, the three side by side.
Nothing is asked of a server: the depth is the drawing's own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from depthface import colormap
from depthface_render import PRESETS, Timing, parallax, video

HEIGHT, WIDTH = 720, 1080
SMOOTH = 2
"""The scene is drawn so many times as large, and averaged: its outlines are soft, its depth is not."""

PANEL = 280, 420
GAP_PX = 6


class Scene:
    """A picture that is painted from far to near, and the depth of what was painted last at each pixel."""

    def __init__(self, height: int, width: int, seed: int = 7) -> None:
        self.height, self.width = height * SMOOTH, width * SMOOTH
        self.photo = np.zeros((self.height, self.width, 3), np.float32)
        self.depth = np.zeros((self.height, self.width), np.float32)
        self.random = np.random.default_rng(seed)
        self.y = np.linspace(0, 1, self.height, dtype=np.float32)[:, None]  # 0 at the top
        self.x = np.linspace(0, width / height, self.width, dtype=np.float32)[None]

    def grain(self, cell: float, stretch: float = 1.0) -> np.ndarray:
        """Smooth noise, about −1…1; `cell` is the size of its grains in heights of the picture."""
        rows, columns = max(int(1 / cell), 2), max(int(self.width / self.height / cell / stretch), 2)
        noise = self.random.normal(0, 0.5, (rows, columns)).astype(np.float32)
        return np.asarray(Image.fromarray(noise).resize((self.width, self.height), Image.Resampling.BICUBIC))

    def paint(self, mask: np.ndarray, colour: np.ndarray, depth: np.ndarray | float) -> None:
        """Where the mask is true, `colour` `(H, W, 3)` or `(3,)` at `depth`."""
        self.photo = np.where(mask[..., None], colour, self.photo)
        self.depth = np.where(mask, np.float32(depth), self.depth)

    def drawn(self, strokes: Callable[[ImageDraw.ImageDraw], None]) -> np.ndarray:
        """The mask of some strokes; their coordinates are heights of the picture."""
        mask = Image.new("1", (self.width, self.height))
        strokes(ImageDraw.Draw(mask))
        return np.asarray(mask)

    def finished(self) -> tuple[np.ndarray, np.ndarray]:
        """The photo `(H, W, 3) uint8` and its depth `(H, W) float32`."""
        rows, columns = self.height // SMOOTH, self.width // SMOOTH
        photo = self.photo.reshape(rows, SMOOTH, columns, SMOOTH, 3).mean((1, 3))
        middle = SMOOTH // 2
        return np.clip(photo, 0, 255).astype(np.uint8), self.depth[middle::SMOOTH, middle::SMOOTH].copy()


def ridge(scene: Scene, level: float, rough: float, seed: int) -> np.ndarray:
    """The height of a ridge along x: a fractal of sines."""
    random = np.random.default_rng(seed)
    line = np.full(scene.x.shape, level, np.float32)
    for octave in range(9):
        line += rough * 0.55**octave * np.sin(scene.x * 2.3 * 1.9**octave + random.uniform(0, 7))
    return line


def pine(pen: ImageDraw.ImageDraw, scale: int, x: float, foot: float, tall: float, random: np.random.Generator) -> None:
    """One tree."""
    tiers = 9
    pen.rectangle([(x - 0.02 * tall) * scale, (foot - 0.2 * tall) * scale, (x + 0.02 * tall) * scale, foot * scale], 1)
    for tier in range(tiers):
        top = foot - tall * (1 - tier / tiers * 0.85)
        half = tall * 0.05 * (0.5 + tier * 0.45) * random.uniform(0.85, 1.15)
        bottom = top + tall * 0.2
        pen.polygon(
            [(x * scale, top * scale), ((x - half) * scale, bottom * scale), ((x + half) * scale, bottom * scale)], 1
        )


def draw(height: int = HEIGHT, width: int = WIDTH) -> tuple[np.ndarray, np.ndarray]:
    """A lake at dusk. Returns the photo `(H, W, 3) uint8 RGB` and its depth `(H, W) float32`, 0 far … 1 near."""
    scene = Scene(height, width)
    x, y, s = scene.x, scene.y, scene.height
    horizon = 0.58

    def between(top: tuple[int, ...], foot: tuple[int, ...], share: np.ndarray) -> np.ndarray:
        share = np.clip(share, 0, 1)[..., None]
        return np.array(top, np.float32) * (1 - share) + np.array(foot, np.float32) * share

    sky = between((38, 46, 104), (255, 176, 120), (y / horizon) ** 1.3 + 0 * x)
    sun = np.hypot(x - 1.02, y - 0.4)
    sky = sky + np.array((255, 190, 110), np.float32) * np.exp(-((sun / 0.22) ** 2))[..., None] * 0.55
    clouds = np.clip(scene.grain(0.12, 4) + 0.5 * scene.grain(0.04, 4) - 0.25, 0, 1) * np.clip(1.1 - y / horizon, 0, 1)
    sky = sky + clouds[..., None] * np.array((150, 70, 60), np.float32)
    scene.paint(np.ones((scene.height, scene.width), bool), sky, 0.0)
    scene.paint(sun < 0.06, np.array((255, 240, 205), np.float32), 0.0)

    for level, rough, seed, depth, dark, pale in (
        (0.36, 0.075, 3, 0.08, (92, 84, 138), (226, 150, 140)),
        (0.45, 0.05, 11, 0.18, (62, 62, 110), (170, 112, 122)),
        (0.53, 0.03, 5, 0.30, (36, 48, 78), (92, 84, 104)),
    ):
        line = ridge(scene, level, rough, seed)
        rock = between(dark, pale, (y - line) / (horizon - level + 0.06) + 0.16 * scene.grain(0.02))
        scene.paint((y > line) & (y < horizon + 0.02), rock, depth)

    # The lake: its far shore at depth 0.3, nearer with every row, and what it mirrors drawn out by ripples.
    below = (y - horizon) / (1 - horizon)
    mirrored = np.clip(2 * horizon - y + 0.012 * scene.grain(0.012, 8) * (1 + 3 * below), 0, 1)
    rows = (mirrored * (scene.height - 1)).astype(int)
    water = scene.photo[rows, np.broadcast_to(np.arange(scene.width), rows.shape)] * 0.72
    water += (scene.grain(0.012, 10) * 16 * (0.3 + below))[..., None] + np.array((4, 8, 22), np.float32)
    scene.paint(np.broadcast_to(y > horizon, scene.depth.shape), water, 0.3 + 0.4 * below + 0 * x)

    for count, foot, tall, depth, dark, seed in (
        (26, 0.60, 0.11, 0.36, (26, 42, 62), 1),
        (7, 0.67, 0.26, 0.52, (18, 34, 44), 2),
    ):
        random = np.random.default_rng(seed)
        places = [(random.uniform(0, 0.62) if seed == 1 else random.uniform(0.98, 1.5)) for _ in range(count)]
        shore = foot + 0.012 * np.sin(x * 9 + seed)
        thick = np.clip((0.72 - x if seed == 1 else x - 0.9) * 0.2, 0, 0.02)
        land = (y > shore - thick) & (y < shore + thick * 0.8)
        scene.paint(land, between(dark, (60, 62, 56), scene.grain(0.01) * 0.5), depth)

        def trees(
            pen: ImageDraw.ImageDraw,
            places=places,
            foot=foot,
            tall=tall,
            random=random,  # type: ignore[no-untyped-def]
        ) -> None:
            for place in places:
                pine(pen, s, place, foot, tall * random.uniform(0.7, 1.2), random)

        scene.paint(scene.drawn(trees), between(dark, (46, 66, 60), scene.grain(0.008) * 0.5 + 0.2), depth)

    def sail(pen: ImageDraw.ImageDraw) -> None:
        pen.polygon([(a * s, b * s) for a, b in ((0.62, 0.765), (0.86, 0.765), (0.82, 0.8), (0.66, 0.8))], 1)
        pen.line([(0.745 * s, 0.765 * s), (0.745 * s, 0.55 * s)], 1, int(0.006 * s))
        pen.polygon([(a * s, b * s) for a, b in ((0.752, 0.565), (0.752, 0.745), (0.84, 0.745))], 1)

    scene.paint(
        scene.drawn(sail), between((120, 44, 40), (236, 214, 190), (0.78 - y) * 5 + 0.1 * scene.grain(0.02)), 0.66
    )

    random = np.random.default_rng(4)

    def nearest(pen: ImageDraw.ImageDraw) -> None:
        pen.polygon([(a * s, b * s) for a, b in ((0.1, -0.1), (0.17, -0.1), (0.2, 1.1), (0.06, 1.1))], 1)
        for branch in range(8):
            foot, side = 0.03 + branch * 0.1, (-1) ** branch
            reach = random.uniform(0.16, 0.34) * (0.45 if side < 0 else 1)
            tip = (0.135 + side * reach, foot + random.uniform(-0.06, 0.05))
            pen.line([(0.135 * s, foot * s), (tip[0] * s, tip[1] * s)], 1, int(0.011 * s))
            for _ in range(60):
                share = random.uniform(0.2, 1)
                at = (0.135 + (tip[0] - 0.135) * share, foot + (tip[1] - foot) * share)
                far = (at[0] + random.uniform(-0.03, 0.03), at[1] + random.uniform(0.01, 0.06))
                pen.line([(at[0] * s, at[1] * s), (far[0] * s, far[1] * s)], 1, int(0.005 * s))

    scene.paint(scene.drawn(nearest), between((14, 14, 20), (70, 50, 44), scene.grain(0.015, 0.3) * 0.5 + 0.3), 0.9)

    def grass(pen: ImageDraw.ImageDraw) -> None:
        for _ in range(420):
            at, tall = random.uniform(-0.05, 1.55), random.uniform(0.03, 0.16)
            lean = random.uniform(-0.04, 0.04)
            pen.polygon(
                [((at - 0.006) * s, 1.01 * s), ((at + 0.006) * s, 1.01 * s), ((at + lean) * s, (1 - tall) * s)], 1
            )

    scene.paint(scene.drawn(grass), between((12, 20, 16), (84, 92, 40), (1 - y) * 5 + 0.3 * scene.grain(0.01)), 1.0)
    return scene.finished()


def beside(photo: np.ndarray, depth: np.ndarray, clip: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Photo, depth and each frame of the clip next to each other, on white."""
    height, width = PANEL
    coloured = colormap.apply(depth, "spectral")
    still = [np.asarray(Image.fromarray(picture).resize((width, height))) for picture in (photo, coloured)]
    for frame in clip:
        canvas = np.full((height, 3 * width + 2 * GAP_PX, 3), 255, np.uint8)
        for place, picture in enumerate((*still, frame)):
            left = place * (width + GAP_PX)
            canvas[:, left : left + width] = picture
        yield canvas


def make(out: Path) -> Path:
    """Draw the scene and leave its pictures and clips in `out`; return the one with all three."""
    out.mkdir(parents=True, exist_ok=True)
    photo, depth = draw()
    Image.fromarray(photo).save(out / "parallax_photo.png")
    Image.fromarray((depth * 65535).astype(np.uint16)).save(out / "parallax_depth.png")
    path, source = PRESETS["circle"](0.5), "depthface: a drawn scene, its own depth"
    for name, timing, size in (
        ("parallax.mp4", Timing(3, 24), (HEIGHT, WIDTH)),
        ("parallax.webp", Timing(3, 16), PANEL),
    ):
        is_small = size == PANEL
        frames = parallax(photo, depth, path, timing=timing, size=size, quality="high" if is_small else "normal")
        if is_small:
            frames = beside(photo, depth, frames)
        video.write(out / name, frames, rate=timing.rate, loop=True, source=source)
    return out / "parallax.webp"


if __name__ == "__main__":
    make(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))
