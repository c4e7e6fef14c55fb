"""What InsightFace Server calls the quality of a face."""

from __future__ import annotations

import numpy as np
import pytest

from depthface_client import Face
from depthface_gateway.faces.quality import qualities

FRONTAL = np.array([[30, 50], [80, 50], [55, 70], [40, 90], [70, 90]], np.float32)


def face(aligned: np.ndarray, keypoints: np.ndarray = FRONTAL, score: float = 0.8) -> Face:
    return Face(box=np.array([0, 0, 9, 9], np.float32), score=score, keypoints=keypoints, aligned=aligned)


def noise(sigma: float) -> np.ndarray:
    return np.random.default_rng(3).normal(100, sigma, (112, 112, 3)).clip(0, 255).astype(np.uint8)


def test_a_flat_frontal_face_of_half_brightness():
    (quality,) = qualities([face(np.full((112, 112, 3), 128, np.uint8))])
    assert quality["sharpness"] == 0
    assert quality["pose"] == 1
    assert quality["brightness"] == pytest.approx(128 / 255, abs=1e-6)
    assert quality["score"] == pytest.approx((0.8 + 0 + (1 - abs(2 * 128 / 255 - 1)) + 1) / 4, abs=1e-6)


def test_sharpness_is_of_the_laplacians_variance():
    grey = np.zeros((112, 112), np.uint8)
    grey[::2] = 4  # rows in turn: the Laplacian is +8 and −8
    (quality,) = qualities([face(np.repeat(grey[..., None], 3, 2))])
    assert quality["sharpness"] == pytest.approx(1 - np.exp(-64 / 100), abs=1e-3)


def test_a_turned_or_tilted_face_looks_less_into_the_camera():
    turned, tilted = FRONTAL.copy(), FRONTAL.copy()
    turned[2, 0] += 20  # of the 50 between the eyes
    tilted[1, 1] += 50  # 45 degrees
    poses = [each["pose"] for each in qualities([face(noise(5), turned), face(noise(5), tilted)])]
    assert poses == pytest.approx([0.6, 0.5], abs=1e-6)


def test_each_of_several_faces_has_the_same_as_alone():
    faces = [face(noise(sigma), FRONTAL + sigma, score=sigma / 30) for sigma in (2, 9, 25)]
    assert qualities(faces) == [qualities([each])[0] for each in faces]
    assert qualities([]) == []
