"""Pictures for people to look at."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from depthface.photos import Photo, upright
from depthface.tasks.faces import Face
from depthface.weights import source_of

__all__ = ["banner", "beside", "faces", "labelled"]

_GAP_PX = 8

_Rectangle = tuple[int, int, int, int]
_Colour = tuple[int, int, int]

# One for each face in turn: bright enough for dark photos, and cased in _INK for light ones.
_COLOURS: tuple[_Colour, ...] = ((0, 214, 170), (255, 190, 11), (90, 170, 255), (255, 112, 150), (190, 140, 255))
_INK: _Colour = (16, 18, 24)
_POINT: _Colour = (255, 255, 255)


def beside(left: Image.Image, right: Image.Image, height_px: int = 518) -> Image.Image:
    """Two pictures side by side, `height_px` high, on white."""
    scaled = [
        picture.resize((round(picture.width * height_px / picture.height), height_px)) for picture in (left, right)
    ]
    canvas = Image.new("RGB", (scaled[0].width + _GAP_PX + scaled[1].width, height_px), "white")
    canvas.paste(scaled[0], (0, 0))
    canvas.paste(scaled[1], (scaled[0].width + _GAP_PX, 0))
    return canvas


def banner(picture: Image.Image, text: str) -> Image.Image:
    """Return a copy with `text` in white on a red bar along its foot."""
    picture = picture.convert("RGB")
    size_px = max(picture.width // 24, 10)
    draw = ImageDraw.Draw(picture)
    bar = (0, picture.height - 2 * size_px, picture.width, picture.height)
    draw.rectangle(bar, fill=(176, 0, 32))
    centre = (picture.width / 2, picture.height - size_px)
    draw.text(centre, text, fill="white", anchor="mm", font=ImageFont.load_default(size_px))
    return picture


def faces(photo: Photo, found: Sequence[Face]) -> Image.Image:
    """Return the photo, upright, with each face's box, landmarks (the 106, or else the 68), five keypoints and label.

    A label is the face's number in `found`, its score, and its gender and age as far as they are known.
    """
    picture = upright(photo)
    draw = ImageDraw.Draw(picture)
    line_px = max(round(max(picture.size) / 500), 2)
    order = sorted(range(len(found)), key=lambda index: -found[index].area)  # the small ones on top
    for index in order:
        face, colour = found[index], _COLOURS[index % len(_COLOURS)]
        _box(draw, face, colour, line_px)
        width_px = float(face.box[2] - face.box[0])
        landmarks = face.landmarks_106 if face.landmarks_106 is not None else face.landmarks_68
        if landmarks is not None:
            _dots(picture, landmarks, _POINT, min(width_px / 150, line_px * 0.8))
        _dots(picture, face.keypoints, colour, min(width_px / 40, line_px * 1.8))
    boxes = [_rounded(face) for face in found]
    labels: list[_Rectangle] = []
    for index in order:
        labels.append(_label(draw, found[index], index, line_px, labels, boxes))
    return picture


def labelled(png: bytes, weights: str) -> bytes:
    """Return the PNG with a text chunk `Source` that says which weights made it (PNG specification, 11.3.4.3 tEXt)."""
    end_of_header = 8 + 25  # signature, IHDR
    chunk = b"tEXt" + f"Source\0{source_of(weights)}".encode("latin-1", "replace")
    framed = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return png[:end_of_header] + framed + png[end_of_header:]


def _box(draw: ImageDraw.ImageDraw, face: Face, colour: _Colour, line_px: int) -> None:
    x1, y1, x2, y2 = _rounded(face)
    line_px = max(min(line_px, (x2 - x1) // 16), 1)
    casing_px = max(line_px // 3, 1)
    for outset, ink, width in ((casing_px, _INK, line_px + 2 * casing_px), (0, colour, line_px)):
        corners = (x1 - outset, y1 - outset, max(x2, x1) + outset, max(y2, y1) + outset)
        draw.rounded_rectangle(corners, max((x2 - x1) // 16, 1), outline=ink, width=width)


def _dots(picture: Image.Image, points: npt.NDArray[np.float32], colour: _Colour, radius_px: float) -> None:
    """Draw a cased, smooth dot at each point; `points` is `(N, 2 or more)`."""
    radius_px = max(radius_px, 0.7)
    outer_px = radius_px + max(radius_px / 3, 0.5)
    smooth, half = 8, round(outer_px) + 1
    sprite = Image.new("RGBA", (2 * half * smooth, 2 * half * smooth), (*_INK, 0))
    draw = ImageDraw.Draw(sprite)
    for radius, ink in ((outer_px, _INK), (radius_px, colour)):
        draw.circle((half * smooth, half * smooth), radius * smooth, fill=(*ink, 255))
    dot = sprite.resize((2 * half, 2 * half), Image.Resampling.BOX)
    for point in points:
        picture.paste(dot, (round(float(point[0])) - half, round(float(point[1])) - half), dot)


def _label(
    draw: ImageDraw.ImageDraw,
    face: Face,
    index: int,
    line_px: int,
    labels: Sequence[_Rectangle],
    boxes: Sequence[_Rectangle],
) -> _Rectangle:
    """Write a face's label inside the picture, clear of other labels and of faces if it can be; return where it is."""
    x1, y1, x2, y2 = _rounded(face)
    size_px = max(min(line_px * 8, (x2 - x1) / 6), 11)
    font = ImageFont.load_default(size_px)
    facts = (f"{face.score:.2f}", face.gender, face.age)
    text = " · ".join([f"{index + 1}", *(str(fact) for fact in facts if fact is not None)])
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    pad = round(size_px / 3)
    width, height = round(right - left) + 2 * pad, round(bottom - top) + 2 * pad
    room_x, room_y = max(draw.im.size[0] - width, 0), max(draw.im.size[1] - height, 0)
    above, below, gap = y1 - height, y2, line_px + 1
    wished = ((x1, above - gap), (x1, below + gap), (x2 - width, above - gap), (x2 - width, below + gap), (x1, y1))
    places = []
    for wished_x, wished_y in wished:
        x, y = min(max(wished_x, 0), room_x), min(max(wished_y, 0), room_y)
        places.append((x, y, x + width, y + height))
    place = min(places, key=lambda place: (_met(place, labels), _met(place, boxes)))
    draw.rounded_rectangle(place, pad, fill=_INK, outline=_COLOURS[index % len(_COLOURS)], width=max(line_px // 2, 1))
    draw.text((place[0] + pad - left, place[1] + pad - top), text, fill="white", font=font)
    return place


def _rounded(face: Face) -> _Rectangle:
    x1, y1, x2, y2 = (round(float(side)) for side in face.box)
    return x1, y1, x2, y2


def _met(one: _Rectangle, others: Sequence[_Rectangle]) -> int:
    """How many of the others a rectangle overlaps."""
    return sum(one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3] for other in others)
