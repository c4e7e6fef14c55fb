"""Colour maps for looking at depth: values in 0…1 to `(…, 3) uint8 RGB`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from depthface.errors import InvalidInput

__all__ = ["COLORMAPS", "apply"]

# Evenly spaced colours, joined linearly. `spectral`: ColorBrewer's 11-class Spectral (colorbrewer2.org, Apache-2.0)
# reversed, as matplotlib's Spectral_r: near is red, far is blue, the map of Depth Anything's own pictures.
# `inferno`: samples of matplotlib's (CC0). `grey`: what the PNGs hold.
COLORMAPS: dict[str, tuple[str, ...]] = {
    "spectral": (
        "5e4fa2", "3288bd", "66c2a5", "abdda4", "e6f598", "ffffbf", "fee08b", "fdae61", "f46d43", "d53e4f", "9e0142",
    ),
    "inferno": (
        "000004", "160b39", "420a68", "6a176e", "932667", "bc3754", "dd513a", "f37819", "fca50a", "f6d746", "fcffa4",
    ),
    "grey": ("000000", "ffffff"),
}  # fmt: skip


def apply(values: npt.NDArray[np.float32], name: str) -> npt.NDArray[np.uint8]:
    """Colour `values`, 0…1 of any shape, by the map `name`; raises `InvalidInput` if there is no such map."""
    if name not in COLORMAPS:
        raise InvalidInput(f"There is no colour map {name!r}.", f"Choose one of: {', '.join(COLORMAPS)}.")
    anchors = np.array([list(bytes.fromhex(colour)) for colour in COLORMAPS[name]], np.float32)
    levels = np.linspace(0, len(anchors) - 1, 256)
    table = np.stack([np.interp(levels, np.arange(len(anchors)), anchors[:, c]) for c in range(3)], axis=1)
    indices = np.clip(values * 255, 0, 255).astype(np.uint8)
    return table.round().astype(np.uint8)[indices]
