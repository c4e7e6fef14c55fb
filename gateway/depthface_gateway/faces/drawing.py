"""Photos with the faces drawn on them, as InsightFace-REST shows them for a look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

from PIL import Image, ImageDraw

from depthface.photos import upright
from depthface_client import Face

__all__ = ["Look", "drawn"]

_GREEN = (0, 255, 0)
_POINTS = ((255, 0, 0), (255, 255, 0), (255, 0, 255), (0, 255, 0), (0, 0, 255))


@dataclass(frozen=True)
class Look:
    """What is drawn besides the boxes."""

    landmarks: bool = True
    scores: bool = True
    sizes: bool = True


def drawn(photo: bytes, faces: Sequence[Face], look: Look, kind: str) -> bytes:
    """Return the photo, upright, with its faces, as a `PNG` or `JPEG`."""
    picture: Image.Image = upright(photo)
    draw = ImageDraw.Draw(picture)
    for face in faces:
        x1, y1, x2, y2 = (int(side) for side in face.box)
        draw.rectangle((x1, y1, max(x2, x1), max(y2, y1)), outline=_GREEN)
        if look.landmarks:
            radius = max((x2 - x1) * 0.025, 1.0)
            for (x, y), colour in zip(face.keypoints.tolist(), _POINTS, strict=True):
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
        if look.scores:
            draw.text((x1 + 3, y1 - 12), f"{face.score:.3f}", fill=_GREEN, stroke_width=1, stroke_fill=(0, 0, 0))
        if look.sizes:
            draw.text((x1 + 3, y2 - 12), f"w:{x2 - x1}", fill=_GREEN, stroke_width=1, stroke_fill=(0, 0, 0))
    total = f"faces: {len(faces)}"
    draw.text((5, picture.height - 14), total, fill=_GREEN, stroke_width=1, stroke_fill=(0, 0, 0))
    buffer = BytesIO()
    picture.save(buffer, kind, **({"quality": 90} if kind == "JPEG" else {"compress_level": 1}))
    return buffer.getvalue()
