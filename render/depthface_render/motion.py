"""Where the camera is: `Motion`, and the paths that it takes over a clip.

Geometry, as DepthFlow's users know it: y runs up from −1 to 1 over the picture's height, x from −aspect to aspect. The
photo is a relief over its own plane z = 1: a surface of depth d, 0 (far) to 1 (near), stands at z = 1 − height · d.
The ray of the output point p meets that surface at the photo's point

    P(d) = zoom · p · [isometric + (1 − isometric) · (1 − height · d) / (1 − height · focus)]
         + offset · height · (d − steady) / (1 − height · steady)
         + (1 − height · d) · centre + height · d · origin

which is affine in d: `Motion.coefficients` gives them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

from depthface.errors import InvalidInput

__all__ = [
    "HIGHEST",
    "PRESETS",
    "STRENGTHS",
    "CameraPath",
    "Coefficients",
    "Motion",
    "Point",
    "circle",
    "dolly",
    "horizontal",
    "orbital",
    "static",
    "strongest_zoom",
    "usual_path",
    "vertical",
    "zoom",
]

Point = tuple[float, float]
"""x to the right and y up, in half heights of the picture."""

HIGHEST = 0.9
"""The greatest height that a preset takes: at 1 the nearest surface touches the camera."""


@dataclass(frozen=True)
class Coefficients:
    """Where rays meet depth: P(d) = p · (scale + d · scale_slope) + shift + d · shift_slope."""

    scale: float
    scale_slope: float
    shift: Point
    shift_slope: Point


@dataclass(frozen=True)
class Motion:
    """The camera at one moment.

    Attributes:
        height: how far the relief stands out of its plane, from 0 (flat) to below 1 (up to the camera).
        steady: the depth that an offset does not move, 0…1.
        focus: the depth that `isometric` does not scale, 0…1.
        isometric: 0 for full perspective, 1 for parallel rays.
        zoom: the share of the picture's height that is seen; below 1 is nearer.
        offset: how far the camera moves aside.
        centre: where the picture's plane is moved to.
        origin: where the camera's rays come from.
        phase: where a path begins, in turns, for x and for y. A `Motion` alone does not use it; presets do.

    Raises:
        InvalidInput: a value is not finite, or the nearest surface would be behind the camera.
    """

    height: float = 0.2
    steady: float = 0.05
    focus: float = 0.0
    isometric: float = 0.3
    zoom: float = 1.0
    offset: Point = (0.0, 0.0)
    centre: Point = (0.0, 0.0)
    origin: Point = (0.0, 0.0)
    phase: Point = (0.0, 0.0)

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not all(math.isfinite(number) for number in (value if isinstance(value, tuple) else (value,))):
                raise InvalidInput(f"The motion's {field.name} is {value}.", "Give a finite number.")
        if not 0 <= self.height < 1:
            raise InvalidInput(f"The motion's height is {self.height:g}.", "Give one from 0 (flat) to below 1.")
        for name in ("steady", "focus"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidInput(f"The motion's {name} is {getattr(self, name):g}.", "Give a depth from 0 to 1.")
        if not self.least_scale > 0.01:
            raise InvalidInput(
                "This motion turns the picture inside out: its zoom, height and isometric leave no ray going forward.",
                "Give a zoom above 0, and a smaller height or intensity.",
            )

    @property
    def least_scale(self) -> float:
        """The least by which P(d) scales p, over all depths d."""
        found = self.coefficients()
        return min(found.scale, found.scale + found.scale_slope)

    def coefficients(self) -> Coefficients:
        """Return those of P(d)."""
        height, spread = self.height, (1 - self.isometric) / (1 - self.height * self.focus)
        drift = height / (1 - height * self.steady)
        axes = list(zip(self.offset, self.centre, self.origin, strict=True))
        shift_x, shift_y = (centre - offset * drift * self.steady for offset, centre, _ in axes)
        slope_x, slope_y = (offset * drift + height * (origin - centre) for offset, centre, origin in axes)
        return Coefficients(
            self.zoom * (self.isometric + spread), -self.zoom * spread * height, (shift_x, shift_y), (slope_x, slope_y)
        )


CameraPath = Callable[[float], Motion]
"""From time τ, 0 at a clip's start and 1 at its end, to the camera."""


def static(intensity: float = 1.0, *, base: Motion = Motion(), loop: bool = True) -> CameraPath:
    """Stay: the photo as it is."""
    return lambda time: replace(base, height=0.0)


def horizontal(
    intensity: float = 1.0, *, base: Motion = Motion(), loop: bool = True, smooth: bool = True
) -> CameraPath:
    """Go from side to side: offset.x = 0.8 i · sin 2π(τ + phase); not looping −i · cos πτ; steady 0.3, isometric 0.6.

    Not `smooth`, the camera moves at one speed and turns at once: a triangle wave of the same reach.
    """
    base = replace(base, steady=0.3, isometric=0.6)
    return lambda time: replace(base, offset=(_swing(time, base.phase[0], intensity, loop, smooth), 0.0))


def vertical(intensity: float = 1.0, *, base: Motion = Motion(), loop: bool = True, smooth: bool = True) -> CameraPath:
    """Go up and down, as `horizontal`."""
    base = replace(base, steady=0.3, isometric=0.6)
    return lambda time: replace(base, offset=(0.0, _swing(time, base.phase[1], intensity, loop, smooth)))


def circle(
    intensity: float = 1.0, *, base: Motion = Motion(), loop: bool = True, reach: Point = (1.0, 1.0)
) -> CameraPath:
    """Go around: offset = ½ i · (a_x sin 2π(τ + ¼ + p_x), a_y sin 2π(τ + p_y)), a = `reach`.

    Steady 0.3, isometric 0.6.
    """
    base = replace(base, steady=0.3, isometric=0.6)

    def at(time: float) -> Motion:
        x = reach[0] * _sine(time + 0.25 + base.phase[0])
        return replace(base, offset=(intensity / 2 * x, intensity / 2 * reach[1] * _sine(time + base.phase[1])))

    return at


def strongest_zoom(loop: bool) -> float:
    """Return the intensity at which `zoom` comes to `HIGHEST`."""
    return HIGHEST if loop else HIGHEST / 2


def zoom(intensity: float = 1.0, *, base: Motion = Motion(), loop: bool = True) -> CameraPath:
    """Go nearer: height = ½ i · (1 + sin 2π(τ + phase)), not looping 2 i · sin ½πτ; i is at most `strongest_zoom`.

    Isometric 0.8.
    """
    intensity = min(intensity, strongest_zoom(loop))  # cut at its top instead, the path would stand still there

    def at(time: float) -> Motion:
        if loop:
            height = intensity / 2 * (1 + _sine(time + base.phase[0]))
        else:
            height = 2 * intensity * math.sin(math.pi * time / 2)
        return replace(base, isometric=0.8, height=height)

    return at


def dolly(intensity: float = 1.0, *, base: Motion = Motion(), loop: bool = True) -> CameraPath:
    """Widen the view while going nearer: isometric = ½ i · (1 + cos 2π(τ + phase)); not looping ½ i · (1 − cos πτ).

    Height i / 3, at most `HIGHEST`; steady and focus 0.35.
    """
    base = replace(base, height=min(intensity / 3, HIGHEST), steady=0.35, focus=0.35)

    def at(time: float) -> Motion:
        swing = 1 + _sine(time + base.phase[0] + 0.25) if loop else 1 - math.cos(math.pi * time)
        return replace(base, isometric=intensity / 2 * swing)

    return at


def orbital(intensity: float = 1.0, *, base: Motion = Motion(), loop: bool = True) -> CameraPath:
    """Circle depth 0.3: isometric = ½ + ½ i + ¼ i · cos 2π(τ + phase), offset.x = ¼ i · sin 2π(τ + phase).

    Steady and focus 0.3, zoom 0.98.
    """
    base = replace(base, steady=0.3, focus=0.3, zoom=0.98)

    def at(time: float) -> Motion:
        isometric = 0.5 + intensity / 2 + intensity / 4 * _sine(time + base.phase[0] + 0.25)
        return replace(base, isometric=isometric, offset=(intensity / 4 * _sine(time + base.phase[0]), 0.0))

    return at


PRESETS: dict[str, Callable[..., CameraPath]] = {
    preset.__name__: preset for preset in (orbital, zoom, dolly, horizontal, vertical, circle, static)
}
"""Each is called with an intensity i, and optionally a `base` (what the preset leaves alone, and the phase) and
`loop`. The paths are those of DepthFlow 0.9's presets."""

STRENGTHS = {"zoom": 0.3, "dolly": 0.5}
"""What a preset's intensity is for a strength of 1, if not 1: as DepthFlow's web service takes what its users give."""


def usual_path(name: str, strength: float = 1.0, *, loop: bool = True) -> CameraPath:
    """Return the path of a preset at a strength that is as strong for one preset as for another."""
    return PRESETS[name](strength * STRENGTHS.get(name, 1.0), loop=loop)


def _sine(turns: float) -> float:
    return math.sin(2 * math.pi * turns)


def _swing(time: float, phase: float, intensity: float, loop: bool, smooth: bool) -> float:
    if not loop:
        return intensity * (-math.cos(math.pi * time) if smooth else 2 * time - 1)
    sine = _sine(time + phase)
    return 0.8 * intensity * (sine if smooth else 2 / math.pi * math.asin(sine))
