"""What people look at: clips in which a photo moves."""

from depthface_render.clip import Clip
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
    usual_path,
    vertical,
    zoom,
)
from depthface_render.project import QUALITIES
from depthface_render.sources import Map

__all__ = [
    "PRESETS",
    "QUALITIES",
    "CameraPath",
    "Clip",
    "Map",
    "Motion",
    "Timing",
    "circle",
    "dolly",
    "horizontal",
    "orbital",
    "parallax",
    "parallax_with_masks",
    "static",
    "usual_path",
    "vertical",
    "zoom",
]
