"""The camera in pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from depthface_render.motion import Motion

__all__ = ["View"]

Floats = npt.NDArray[np.float32]


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
        found = motion.coefficients()
        axes = []
        for side, up, axis in ((width, 1, 0), (height, -1, 1)):
            middle, half = (side - 1) / 2, up * height / 2
            from_middle = np.arange(side) - middle
            axes.append((from_middle * found.scale + found.shift[axis] * half + middle + margin_px).astype(np.float32))
            axes.append((from_middle * found.scale_slope + found.shift_slope[axis] * half).astype(np.float32))
        return cls(*axes)

    @property
    def reach_px(self) -> float:
        """The longest way of a ray over the photo, from d = 0 to 1."""
        return float(np.hypot(np.abs(self.x_slope).max(), np.abs(self.y_slope).max()))

    @property
    def margin_px(self) -> float:
        """How far rays leave the layers, to any side."""
        return float(max(_beyond(self.x, self.x_slope), _beyond(self.y, self.y_slope)))


def _beyond(start: Floats, slope: Floats) -> float:
    ends = np.concatenate([start, start + slope])
    return float(max(-ends.min(), ends.max() - (len(start) - 1), 0))
