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


def qualities(faces: Sequence[Face]) -> list[dict[str, float]]:
    """Return four values of 0…1 for each face, from its aligned crop and its five keypoints.

    `brightness` is the mean; `sharpness` 1 − exp(−v/100) of the variance v of a Laplacian; `pose` how far the face
    looks into the camera; `score` the mean of the detector's and of these, where half bright is best.

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
    pose = _frontality(face.keypoints)
    score = (face.score + sharpness + (1 - abs(2 * brightness - 1)) + pose) / 4
    values = {"score": score, "sharpness": sharpness, "brightness": brightness, "pose": pose}
    return {name: round(min(max(value, 0.0), 1.0), 6) for name, value in values.items()}


def _frontality(keypoints: npt.NDArray[np.float32]) -> float:
    """Return 1 for a face that looks into the camera, down to 0: by the line of its eyes, and its nose beside it.

    Args:
        keypoints: eyes, nose and corners of the mouth, [5, 2].
    """
    (left_x, left_y), (right_x, right_y), (nose_x, nose_y) = keypoints[:3].tolist()
    x, y = right_x - left_x, right_y - left_y
    span = max(math.hypot(x, y), 1e-6)
    roll = abs(math.degrees(math.atan2(y, x))) / 90
    yaw = abs((nose_x - (left_x + right_x) / 2) * x + (nose_y - (left_y + right_y) / 2) * y) / span**2
    return float(max(0.0, 1 - max(roll, yaw)))
