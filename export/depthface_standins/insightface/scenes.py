"""Drawn people in drawn scenes, with the truth about them: what the stand-in networks of `synthetic` see.

A drawn face is a red disc with a yellow left eye, a magenta right eye, a nose and a mouth. Its five keypoints are a
similar copy of the ArcFace template, so five-point alignment brings every face to the same place of the crop. Who it
is, is a soft texture on the disc: a random sign at every node of a coarse grid, once in red and once in green and
blue together. Those two leave the colours that the detector looks for, yellow and magenta, alone. The nose grows with
age, and the lips of gender 1 are cyan like it.

Coordinates are continuous: a pixel covers `[x, x + 1) × [y, y + 1)`, x to the right, y down; the whole picture is the
box 0, 0, W, H. "Left" is left in the picture, as in InsightFace's keypoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from depthface.families.insightface.facts import TEMPLATE_112_PX

__all__ = [
    "BACKGROUNDS",
    "CODE_LENGTH",
    "CROP_CENTRE_PX",
    "CROP_RADIUS_PX",
    "EYE_RADIUS",
    "KEYPOINTS",
    "MOUTH_RADIUS",
    "Background",
    "Person",
    "Placed",
    "Scene",
    "draw_crowd",
    "draw_scene",
    "nose_radius",
    "paint",
    "place",
    "points_68",
    "points_106",
]

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Background = Literal["plain", "gradient", "shapes"]

BACKGROUNDS: tuple[Background, ...] = ("plain", "gradient", "shapes")

CROP_CENTRE_PX = (56.0, 68.0)
CROP_RADIUS_PX = 44.0
"""Where the disc lies in the aligned 112×112 crop; chosen so that it fits in and the template's mouth is on it."""

KEYPOINTS: Floats = ((np.asarray(TEMPLATE_112_PX) - CROP_CENTRE_PX) / CROP_RADIUS_PX).astype(np.float32)
"""The five keypoints in the frame of an upright face: `(5, 2) float32`, centre 0, radius 1."""

EYE_RADIUS = 0.2
MOUTH_RADIUS = 0.05

# RGB, 0…255, at brightness 1.
_SKIN = np.array([200, 65, 65], np.float32)
_TEXTURE = np.array([[30, 0, 0], [0, 30, 30]], np.float32)  # what a sign of +1 adds, for each of the two codes
_LEFT_EYE = np.array([240, 225, 25], np.float32)
_RIGHT_EYE = np.array([240, 25, 225], np.float32)
_NOSE = np.array([30, 190, 190], np.float32)
_LIPS = np.array([[110, 20, 20], [30, 190, 190]], np.float32)  # of gender 0 and 1


def _grid_nodes() -> Floats:
    """Return the nodes of the 6×6 grid that lie well on the disc and are not hidden by an eye: `(K, 2) float32`."""
    steps = np.linspace(-0.8, 0.8, 6)
    nodes = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    on_disc = np.hypot(nodes[:, 0], nodes[:, 1]) < 0.95
    from_eyes = np.linalg.norm(nodes[:, None] - KEYPOINTS[None, :2], axis=-1).min(axis=1)
    return np.asarray(nodes[on_disc & (from_eyes > 0.1)], np.float32)


_NODES = _grid_nodes()
_NODE_SPACING = 0.32

CODE_LENGTH = 2 * len(_NODES)
"""Signs that make an identity. Two random ones have a cosine of 0 ± 1/√CODE_LENGTH."""


@dataclass(frozen=True)
class Person:
    """Somebody, told from everybody else by a number."""

    seed: int

    @property
    def code(self) -> Floats:
        """`(CODE_LENGTH,) float32`, each −1 or 1: first what the texture adds in red, then in green and blue."""
        signs = np.random.default_rng((self.seed, 112)).integers(0, 2, CODE_LENGTH)
        code: Floats = (2 * signs - 1).astype(np.float32)
        return code

    @property
    def gender(self) -> int:
        """0 or 1, as InsightFace numbers them."""
        return int(np.random.default_rng((self.seed, 2)).integers(0, 2))

    @property
    def age(self) -> int:
        """10…80 years."""
        return int(np.random.default_rng((self.seed, 80)).integers(10, 81))


@dataclass(frozen=True)
class Placed:
    """A person in a scene.

    Attributes:
        person: who.
        x_px, y_px: the disc's centre.
        radius_px: the disc's radius.
        rotation_deg: clockwise as seen; the detector finds −30…30.
        brightness: factor on all the face's colours, 0.7…1.05.
    """

    person: Person
    x_px: float
    y_px: float
    radius_px: float
    rotation_deg: float = 0.0
    brightness: float = 1.0

    @property
    def box(self) -> Floats:
        """x1, y1, x2, y2 in pixels: `(4,) float32`."""
        x, y, r = self.x_px, self.y_px, self.radius_px
        return np.array([x - r, y - r, x + r, y + r], np.float32)

    @property
    def keypoints(self) -> Floats:
        """Left eye, right eye, nose, left and right corner of the mouth, in pixels: `(5, 2) float32`."""
        points = KEYPOINTS @ _rotation(self.rotation_deg).T * self.radius_px + (self.x_px, self.y_px)
        return points.astype(np.float32)


@dataclass(frozen=True)
class Scene:
    """A picture and the truth about it; row i of each array is the i-th person.

    Attributes:
        image: `(H, W, 3) uint8 RGB`.
        people: who is where.
        boxes: `(F, 4) float32`, x1, y1, x2, y2 in pixels.
        keypoints: `(F, 5, 2) float32`, x, y in pixels.
        identities: the persons' seeds, `(F,) int64`.
    """

    image: Pixels
    people: tuple[Placed, ...]
    boxes: Floats
    keypoints: Floats
    identities: npt.NDArray[np.int64]


def draw_scene(
    people: Sequence[Placed],
    size: tuple[int, int] = (640, 640),
    background: Background = "shapes",
    seed: int = 0,
    noise: float = 3.0,
) -> Scene:
    """Draw people before a background.

    Args:
        people: any number of them, none included; later ones cover earlier ones.
        size: height and width in pixels.
        background: `plain` grey, a `gradient` of two colours, or a gradient with `shapes`, red ones among them.
        seed: of background and noise.
        noise: standard deviation of what is added to every channel, in grey levels.
    """
    rng = np.random.default_rng(seed)
    canvas = _background(background, size, rng)
    for placed in people:
        _draw_face(canvas, placed)
    if noise:
        canvas += noise * rng.standard_normal(canvas.shape, dtype=np.float32)
    return Scene(
        image=np.clip(np.rint(canvas), 0, 255).astype(np.uint8),
        people=tuple(people),
        boxes=np.array([p.box for p in people], np.float32).reshape(-1, 4),
        keypoints=np.array([p.keypoints for p in people], np.float32).reshape(-1, 5, 2),
        identities=np.array([p.person.seed for p in people], np.int64),
    )


def place(
    count: int, size: tuple[int, int], radius_px: tuple[float, float], seed: int = 0, max_rotation_deg: float = 30.0
) -> list[Placed]:
    """Place the persons `0 … count − 1` at random, whole, with gaps of at least a quarter of two neighbours' radii.

    Args:
        size: height and width of the scene.
        radius_px: smallest and largest radius.

    Raises:
        ValueError: so many faces of that size do not fit.
    """
    rng = np.random.default_rng((seed, count))
    height, width = size
    discs = np.empty((0, 3))
    for radius in np.sort(rng.uniform(*radius_px, count))[::-1]:  # large ones first: small ones still find a gap
        for _ in range(3000):
            x, y = rng.uniform(radius, width - radius), rng.uniform(radius, height - radius)
            if np.all(np.hypot(discs[:, 0] - x, discs[:, 1] - y) >= 1.25 * (discs[:, 2] + radius)):
                discs = np.vstack([discs, (x, y, radius)])
                break
        else:
            raise ValueError(f"{count} faces of radius {radius_px} px do not fit in {width}×{height}.")
    turns = rng.uniform(-max_rotation_deg, max_rotation_deg, count)
    lights = rng.uniform(0.75, 1.05, count)
    return [
        Placed(Person(index), float(x), float(y), float(radius), float(turn), float(light))
        for index, ((x, y, radius), turn, light) in enumerate(zip(discs, turns, lights, strict=True))
    ]


def draw_crowd(count: int, seed: int = 0, size: tuple[int, int] | None = None) -> Scene:
    """Return a scene of `count` faces which the detector finds at 640×640: 0, 1, 2, 6, 33, 200 and what lies between.

    Args:
        count: how many; up to 230 fit.
        seed: of places, background and noise.
        size: height and width; without it 480×640 for up to 12 faces, 960×1280 up to 60, 2400×3200 above.
    """
    height, width = size or ((480, 640) if count <= 12 else (960, 1280) if count <= 60 else (2400, 3200))
    shrink = max(height, width) / 640  # a radius in the detector's picture is this many times larger in the scene
    share = np.sqrt(height * width / max(count, 1)) / shrink  # side of the square that is each face's own
    smallest, largest = 11.0, float(np.clip(0.26 * share, 12.0, 0.45 * min(height, width) / shrink))
    people = place(count, (height, width), (smallest * shrink, largest * shrink), seed)
    return draw_scene(people, (height, width), BACKGROUNDS[seed % len(BACKGROUNDS)], seed)


def nose_radius(age: float) -> float:
    """How large the nose is at an age, in radii of the face: its area grows evenly with the years."""
    return float(np.sqrt(0.002 + 0.0002 * age))


def points_106() -> Floats:
    """106 points on the upright face of radius 1, roughly in the order of InsightFace's 2d106: `(106, 2) float32`.

    The chin's line 0–32, left eye 33–42, left brow 43–51, mouth 52–71, nose 72–86, right eye 87–96, right brow 97–105.
    """
    left, right, nose, mouth_left, mouth_right = KEYPOINTS
    mouth = (mouth_left + mouth_right) / 2
    jaw = _arc((0, 0), 1, 1, 33, -170, -370)
    left_eye, right_eye = (_arc(eye, EYE_RADIUS, EYE_RADIUS, 10, 0, 324) for eye in (left, right))
    left_brow, right_brow = (_arc(eye, 0.3, 0.3, 9, 220, 320) for eye in (left, right))
    lips = _arc(mouth, (mouth_right - mouth_left)[0] / 2, MOUTH_RADIUS, 20, 180, 522)
    bridge = np.stack([np.zeros(8), np.linspace(left[1], nose[1], 8)], axis=1)
    nostrils = _arc(nose, 0.15, 0.1, 7, 180, 0)
    parts = [jaw, left_eye, left_brow, lips, bridge, nostrils, right_eye, right_brow]
    return np.asarray(np.concatenate(parts), np.float32)


def points_68() -> Floats:
    """68 points on the upright face in the usual order (iBUG 300-W), with depth: `(68, 3) float32`, z to the viewer.

    Jaw 0–16, brows 17–26, nose 27–35, eyes 36–47, mouth 48–67. The face is half a ball.
    """
    left, right, nose, mouth_left, mouth_right = KEYPOINTS
    mouth = (mouth_left + mouth_right) / 2
    half_mouth = (mouth_right - mouth_left)[0] / 2
    flat = np.concatenate(
        [
            _arc((0, 0), 0.95, 0.95, 17, 190, -10),
            _arc(left, 0.3, 0.3, 5, 220, 320),
            _arc(right, 0.3, 0.3, 5, 220, 320),
            np.stack([np.zeros(4), np.linspace(left[1], nose[1], 4)], axis=1),
            _arc(nose, 0.15, 0.1, 5, 180, 0),
            _arc(left, EYE_RADIUS, EYE_RADIUS, 6, 180, 480),
            _arc(right, EYE_RADIUS, EYE_RADIUS, 6, 180, 480),
            _arc(mouth, half_mouth, MOUTH_RADIUS, 12, 180, 510),
            _arc(mouth, 0.8 * half_mouth, 0.4 * MOUTH_RADIUS, 8, 180, 495),
        ]
    )
    depth = np.sqrt(np.maximum(0, 1 - (flat**2).sum(axis=1)))
    return np.column_stack([flat, depth]).astype(np.float32)


def _arc(
    centre: npt.ArrayLike, half_width: float, half_height: float, count: int, from_deg: float, to_deg: float
) -> npt.NDArray[np.float64]:
    """Points on an ellipse, `(count, 2)`; angles clockwise as seen, 0 to the right."""
    turns = np.deg2rad(np.linspace(from_deg, to_deg, count))
    offsets = np.stack([half_width * np.cos(turns), half_height * np.sin(turns)], axis=1)
    return np.asarray(offsets + np.asarray(centre))


def paint(
    u: Floats, v: Floats, code: Floats, softness: float, gender: int = 0, age: float = 40
) -> tuple[Floats, Floats]:
    """Paint an upright face of centre 0 and radius 1 at the points `u`, `v`.

    Args:
        u, v: `(h, w) float32`, to the right and down.
        code: `(CODE_LENGTH,) float32`; the colours are linear in it.
        softness: width of the edges: one pixel, in radii.
        gender: 0 or 1.
        age: in years.

    Returns:
        The colours at brightness 1, `(h, w, 3) float32 RGB` 0…255, and how far they cover what was there before,
        `(h, w) float32` 0…1.
    """
    hats_u = [np.maximum(0, 1 - np.abs(u - node) / _NODE_SPACING) for node in _NODES[:, 0]]
    hats_v = [np.maximum(0, 1 - np.abs(v - node) / _NODE_SPACING) for node in _NODES[:, 1]]
    texture = np.zeros((*u.shape, 2), np.float32)
    for hat_u, hat_v, signs in zip(hats_u, hats_v, code.reshape(2, -1).T, strict=True):
        texture += (hat_u * hat_v)[..., None] * signs
    colours = _SKIN + texture @ _TEXTURE

    def cover(distance: Floats, radius: float, colour: Floats) -> None:
        nonlocal colours
        share = np.clip((radius - distance) / softness + 0.5, 0, 1)[..., None]
        colours = colours + share * (colour - colours)

    left, right, nose, mouth_left, mouth_right = KEYPOINTS
    along_mouth = np.clip(u, mouth_left[0], mouth_right[0])
    cover(np.hypot(u - left[0], v - left[1]), EYE_RADIUS, _LEFT_EYE)
    cover(np.hypot(u - right[0], v - right[1]), EYE_RADIUS, _RIGHT_EYE)
    cover(np.hypot(u - nose[0], v - nose[1]), nose_radius(age), _NOSE)
    cover(np.hypot(u - along_mouth, v - mouth_left[1]), MOUTH_RADIUS, _LIPS[gender])
    return colours.astype(np.float32), np.clip((1 - np.hypot(u, v)) / softness + 0.5, 0, 1).astype(np.float32)


def _draw_face(canvas: Floats, placed: Placed) -> None:
    """Draw a face onto `canvas`, `(H, W, 3) float32 RGB` 0…255; what lies outside of it is cut off."""
    height, width = canvas.shape[:2]
    reach = placed.radius_px + 1
    x0, x1 = (int(np.clip(edge, 0, width)) for edge in (placed.x_px - reach, placed.x_px + reach + 1))
    y0, y1 = (int(np.clip(edge, 0, height)) for edge in (placed.y_px - reach, placed.y_px + reach + 1))
    y, x = np.mgrid[y0:y1, x0:x1] + 0.5
    offsets = np.stack([x - placed.x_px, y - placed.y_px], axis=-1) / placed.radius_px
    upright = (offsets @ _rotation(placed.rotation_deg)).astype(np.float32)
    who = placed.person
    colours, cover = paint(upright[..., 0], upright[..., 1], who.code, 1 / placed.radius_px, who.gender, who.age)
    patch = canvas[y0:y1, x0:x1]
    patch += cover[..., None] * (placed.brightness * colours - patch)


def _background(kind: Background, size: tuple[int, int], rng: np.random.Generator) -> Floats:
    """`(H, W, 3) float32 RGB` 0…255 without yellow or magenta: those are the eyes'."""
    height, width = size
    if kind == "plain":
        return np.full((height, width, 3), 118, np.float32)
    corners = np.stack([_cool_colour(rng) for _ in range(4)]).reshape(2, 2, 3)
    down, along = np.linspace(0, 1, height, dtype=np.float32), np.linspace(0, 1, width, dtype=np.float32)
    rows = corners[0][None] + down[:, None, None] * (corners[1] - corners[0])[None]
    gradient: Floats = (rows[:, :1] + along[None, :, None] * (rows[:, 1:] - rows[:, :1])).astype(np.float32)
    if kind == "gradient":
        return gradient
    image = Image.fromarray(np.rint(gradient).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    side = min(height, width)
    for index in range(24):
        x, y, half_w, half_h = rng.uniform((0, 0, 0.02 * side, 0.02 * side), (width, height, 0.15 * side, 0.15 * side))
        colour = (190, 60, 60) if index % 6 == 0 else tuple(int(c) for c in _cool_colour(rng))
        shape = draw.ellipse if index % 2 else draw.rectangle
        shape((x - half_w, y - half_h, x + half_w, y + half_h), fill=colour)
    return np.asarray(image).astype(np.float32)


def _cool_colour(rng: np.random.Generator) -> Floats:
    """Return a grey, blue, green or cyan: red never exceeds green or blue.

    Neither green nor blue is pure, since an edge between it and a red face is yellow or magenta.
    """
    green = rng.uniform(40, 220)
    blue = rng.uniform(max(40, green - 90), min(220, green + 90))
    return np.array([rng.uniform(20, min(green, blue)), green, blue], np.float32)


def _rotation(clockwise_deg: float) -> npt.NDArray[np.float64]:
    """Return the matrix that turns a column (x, y), y down, clockwise."""
    turn = np.deg2rad(clockwise_deg)
    return np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
