"""What InsightFace's networks take and give: sides, columns, counts. Line numbers are those of insightface 2.1."""

from __future__ import annotations

import re

__all__ = [
    "ATTRIBUTE_COLUMNS",
    "ATTRIBUTE_CROP_PX",
    "DETECTOR_MEAN",
    "DETECTOR_SIDE_PX",
    "DETECTOR_SMALL_SIDE_PX",
    "DETECTOR_STD",
    "DETECTOR_STRIDES_PX",
    "LANDMARKS_68_COLUMNS",
    "LANDMARKS_106_COLUMNS",
    "LANDMARK_CROP_PX",
    "MAX_BATCH_SIZE",
    "MAX_PHOTOS",
    "PACK_NAME",
    "PACK_NAME_RULE",
    "RECOGNITION_CROP_PX",
    "SWAP_CROP_PX",
    "SWAP_EMBEDDING_COLUMNS",
    "TEMPLATE_112_PX",
    "USUAL_BATCH_SIZE",
]

PACK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
PACK_NAME_RULE = "letters, digits, '_', '-' and '.', starting with a letter or digit, at most 64"
"""What a pack may be called: its models are named after it."""

MAX_BATCH_SIZE = 32
"""Faces that go through a network at once; more are asked for in several requests."""

USUAL_BATCH_SIZE = 8
"""Faces that an engine is tuned for."""

MAX_PHOTOS = 8
"""Photos that go through a detector at once."""

DETECTOR_SIDE_PX = 640
"""Side of the square that the detector sees (scrfd.py:20 `DEFAULT_DET_SIZES`)."""

DETECTOR_SMALL_SIDE_PX = 128
"""Side of the second, smaller one, for faces that fill the photo (scrfd.py:20)."""

DETECTOR_STRIDES_PX = (8, 16, 32)
"""Pixels between the anchors' centres in its three feature maps (scrfd.py:605-613)."""

DETECTOR_MEAN, DETECTOR_STD = 127.5, 128.0
"""What a detector is fed is `(pixels − mean) / std` (scrfd.py:600-601)."""

RECOGNITION_CROP_PX = 112
"""Side of an aligned face, for recognition and for people to look at (arcface_onnx.py:79)."""

LANDMARK_CROP_PX = 192
ATTRIBUTE_CROP_PX = 96
"""Sides of a box with its surroundings, for landmarks and for gender and age."""

SWAP_CROP_PX = 128
"""Side of an aligned face, for swapping."""

LANDMARKS_106_COLUMNS = 212
"""Columns of 2d106det's output: x and y of 106 points."""

LANDMARKS_68_COLUMNS = 3309
"""Columns of 1k3d68's output: x, y and z of 1103 points, of which the last 68 are used (landmark.py:65, 100)."""

ATTRIBUTE_COLUMNS = 3
"""Columns of genderage's output: female, male, age in centuries (attribute.py:65, 86)."""

SWAP_EMBEDDING_COLUMNS = 512
"""Length of the embedding that a swapper takes."""

TEMPLATE_112_PX = ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))
"""Left eye, right eye, nose, left and right corner of the mouth in an aligned face (face_align.py:6-9)."""
