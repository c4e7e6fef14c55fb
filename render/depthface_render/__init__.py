"""What people look at: clips in which a photo moves."""

from depthface_render.frames import Timing, parallax, parallax_with_masks
from depthface_render.motion import (
    PRESETS,
    CameraPath,
    Motion,
    circle,
    dolly,
    horizontal,
    orbital,
    static,
    vertical,
    zoom,
)
from depthface_render.project import QUALITIES

__all__ = [
    "PRESETS",
    "QUALITIES",
    "CameraPath",
    "Motion",
    "Timing",
    "circle",
    "dolly",
    "horizontal",
    "orbital",
    "parallax",
    "parallax_with_masks",
    "static",
    "vertical",
    "zoom",
]
