"""How good photos of faces are, as InsightFace Server tells its users.

As that server says of its own, these are local signals and no standard.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from depthface.errors import InvalidInput
from depthface_client import Face

__all__ = ["qualities"]

_WEIGHTS = {"score": 0.35, "sharpness": 0.25, "brightness": 0.15, "size": 0.15, "pose": 0.10}
_SIDE_PX = 80
"""A box whose shorter side is so long is large enough."""


def qualities(faces: Sequence[Face]) -> list[dict[str, float]]:
    """Return four values of 0…1 for each face: from its aligned crop, its five keypoints, its box and its score.

    `brightness` is the mean; `sharpness` 1 − exp(−v/100) of the variance v of a Laplacian. `pose` and `score` are as
    that server has them, so that thresholds stay right: `pose` 1 − (|yaw| + |pitch| + |roll|) / 135°; `score` the
    weighted mean of five (`_WEIGHTS`).

    Raises:
        InvalidInput: a face came without its crop.
    """
    crops = [face.aligned for face in faces if face.aligned is not None]
    if len(crops) < len(faces):
        raise InvalidInput("The face came without its crop.", "Ask for it: faces(photo, parts=['crop']).")
    if not crops:
        return []
    # As one tall picture: OpenCV takes longer to begin than for a crop.
    grey = cv2.cvtColor(np.concatenate(crops), cv2.COLOR_RGB2GRAY)
    laplacian = cv2.Laplacian(grey, cv2.CV_16S)
    side = len(crops[0])
    return [
        _quality(face, grey[top : top + side], laplacian[top + 1 : top + side - 1, 1:-1])
        for face, top in zip(faces, range(0, len(grey), side), strict=True)
    ]


def _quality(face: Face, grey: npt.NDArray[Any], laplacian: npt.NDArray[Any]) -> dict[str, float]:
    """Return it of a grey crop, and of its Laplacian without the outermost pixels, which have no neighbours outside."""
    brightness = cv2.mean(grey)[0] / 255
    # meanStdDev takes three times as long as these two.
    mean = cv2.sumElems(laplacian)[0] / laplacian.size
    variance = cv2.norm(laplacian, cv2.NORM_L2SQR) / laplacian.size - mean**2
    sharpness = 1 - math.exp(-variance / 100)
    angles = _angles(face.keypoints)
    x1, y1, x2, y2 = face.box.tolist()
    parts = {
        "score": face.score,
        "sharpness": sharpness,
        "brightness": 1 - abs(2 * brightness - 1),  # half bright is best
        "size": min(x2 - x1, y2 - y1) / _SIDE_PX,
        "pose": 1 - max(angles) / 90,
    }
    score = sum(weight * _within(parts[name]) for name, weight in _WEIGHTS.items())
    pose = 1 - sum(angles) / 135
    values = {"score": score, "sharpness": sharpness, "brightness": brightness, "pose": pose}
    return {name: round(_within(value), 6) for name, value in values.items()}


def _within(value: float) -> float:
    return min(max(value, 0.0), 1.0)


def _angles(keypoints: npt.NDArray[np.float32]) -> tuple[float, float, float]:
    """Return how far a face is turned, in degrees from 0: yaw, pitch and roll, as five points tell.

    The nose is beside the middle of the eyes, or nearer to them or to the mouth than at 0.45 of the way, by so much of
    a right angle as it is off in spans of the eyes, or in ways from eyes to mouth; the roll is the eyes' own.

    Args:
        keypoints: eyes, nose and corners of the mouth, [5, 2].
    """
    (left_x, left_y), (right_x, right_y), (nose_x, nose_y), (_, first_y), (_, second_y) = keypoints.tolist()
    x, y = right_x - left_x, right_y - left_y
    span = max(math.hypot(x, y), 1e-6)
    eyes_y = (left_y + right_y) / 2
    way = max((first_y + second_y) / 2 - eyes_y, 1e-6)
    yaw = (nose_x - (left_x + right_x) / 2) / span * 90
    pitch = ((nose_y - eyes_y) / way - 0.45) * 90
    return abs(yaw), abs(pitch), abs(math.degrees(math.atan2(y, x)))
