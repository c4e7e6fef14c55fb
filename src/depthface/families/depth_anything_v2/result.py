"""What the client hands back for depth. numpy and Pillow only."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from depthface import colormap
from depthface.resample import upsample_bicubic

__all__ = ["Depth"]


@dataclass(frozen=True, eq=False)
class Depth:
    """A depth map: relative inverse depth, without unit, larger is nearer.

    Attributes:
        array: `(h, w) float32`, read-only, at the network's grid (sides a multiple of 14).
        size: height and width of the upright photo, in pixels.
        weights: what the server says it serves, such as `depth-anything/Depth-Anything-V2-Small-hf@5426e4f…`, or
            `random, seed 0`, which makes the map meaningless.
    """

    array: npt.NDArray[np.float32]
    size: tuple[int, int]
    weights: str

    @property
    def is_meaningful(self) -> bool:
        """False if the server runs on random weights: fine for plumbing and speed, not for looking at."""
        return not self.weights.startswith("random")

    def resized(self) -> npt.NDArray[np.float32]:
        """The map at the photo's size, `(H, W) float32`, bicubic as the server's PNGs."""
        return upsample_bicubic(self.array, *self.size)

    def normalized(self) -> npt.NDArray[np.float32]:
        """`resized()` brought to 0…1, 1 the nearest; all zero where the depth is constant."""
        depth = self.resized()
        depth -= depth.min()
        span = depth.max()
        return depth / span if span > 0 else depth

    def png16(self) -> bytes:
        """A 16-bit grey PNG of the photo's size, 65535 the nearest; the same levels as the server's `png16`, ±1."""
        levels = (self.normalized() * np.float32(65535)).astype(np.uint16)
        buffer = BytesIO()
        Image.fromarray(levels).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()

    def preview(self, name: str = "spectral") -> Image.Image:
        """An RGB picture of the photo's size, coloured by one of `depthface.colormap.COLORMAPS`."""
        return Image.fromarray(colormap.apply(self.normalized(), name))
