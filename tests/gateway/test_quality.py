"""What InsightFace Server calls the quality of a face."""

from __future__ import annotations

import numpy as np
import pytest

from depthface.errors import InvalidInput
from depthface_client import Face
from depthface_gateway.faces.quality import qualities

FRONTAL = np.array([[30, 50], [80, 50], [55, 68], [40, 90], [70, 90]], np.float32)


def face(aligned: np.ndarray, keypoints: np.ndarray = FRONTAL, score: float = 0.8, width: float = 20) -> Face:
    return Face(box=np.array([0, 0, width, 120], np.float32), score=score, keypoints=keypoints, aligned=aligned)


def quality(of: Face) -> dict[str, float]:
    (found,) = qualities([of])
    return found


def noise(sigma: float) -> np.ndarray:
    return np.random.default_rng(3).normal(100, sigma, (112, 112, 3)).clip(0, 255).astype(np.uint8)


def test_a_flat_frontal_face_of_half_brightness():
    found = quality(face(np.full((112, 112, 3), 128, np.uint8)))
    assert found["sharpness"] == 0
    assert found["pose"] == 1
    assert found["brightness"] == pytest.approx(128 / 255, abs=1e-6)
    bright = 1 - abs(2 * 128 / 255 - 1)
    assert found["score"] == pytest.approx(0.35 * 0.8 + 0.15 * bright + 0.15 * 20 / 80 + 0.1, abs=1e-6)


def test_sharpness_is_of_the_laplacians_variance():
    grey = np.zeros((112, 112), np.uint8)
    grey[::2] = 4  # rows in turn: the Laplacian is +8 and −8
    found = quality(face(np.repeat(grey[..., None], 3, 2)))
    assert found["sharpness"] == pytest.approx(1 - np.exp(-64 / 100), abs=1e-3)


# A point that is moved, and the degrees of yaw, pitch and roll that it tells: the server's own formula, by hand.
@pytest.mark.parametrize(
    ("moved", "degrees"),
    [
        ((2, (75, 68)), (36, 0, 0)),  # the nose by 20 of the 50 between the eyes
        ((2, (55, 88)), (0, 45, 0)),  # the nose at 38 of the 40 from the eyes to the mouth
    ],
)
def test_a_turned_face_looks_less_into_the_camera(moved, degrees):
    index, place = moved
    keypoints = FRONTAL.copy()
    keypoints[index] = place
    straight, turned = (quality(face(noise(5), points)) for points in (FRONTAL, keypoints))
    assert straight["pose"] == 1
    assert turned["pose"] == pytest.approx(1 - sum(degrees) / 135, abs=1e-6)
    assert straight["score"] - turned["score"] == pytest.approx(0.1 * max(degrees) / 90, abs=2e-6)


def test_a_tilted_face_is_tilted_by_the_line_of_its_eyes():
    tilted = np.array([[30, 25], [80, 75], [55, 68], [40, 90], [70, 90]], np.float32)
    assert quality(face(noise(5), tilted))["pose"] == pytest.approx(1 - (45 + 90 * (18 / 40 - 0.45)) / 135, abs=1e-6)


def test_a_face_that_is_turned_all_round_is_not_below_nothing():
    upside_down = np.array([[80, 50], [30, 50], [300, 500], [70, 10], [40, 10]], np.float32)
    found = quality(face(noise(5), upside_down))
    assert found["pose"] == 0
    assert 0 < found["score"] < 1


@pytest.mark.parametrize(("width", "size"), [(20, 0.25), (80, 1), (500, 1)])
def test_a_larger_face_is_better_up_to_eighty_pixels(width, size):
    nothing = quality(face(noise(5), width=0))["score"]
    assert quality(face(noise(5), width=width))["score"] - nothing == pytest.approx(0.15 * size, abs=2e-6)


def test_it_is_as_numpy_computes_it_by_the_formula():
    aligned = noise(2)
    grey = (aligned.astype(float) @ [0.299, 0.587, 0.114]).round()
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * grey[1:-1, 1:-1]
    found = quality(face(aligned))
    assert found["brightness"] == pytest.approx(grey.mean() / 255, abs=1e-4)
    assert found["sharpness"] == pytest.approx(1 - np.exp(-laplacian.var() / 100), abs=5e-3)


def test_a_face_without_its_crop_is_refused():
    with pytest.raises(InvalidInput, match="crop"):
        quality(Face(box=np.zeros(4, np.float32), score=0.5, keypoints=FRONTAL))


def test_faces_together_are_what_each_is_alone():
    some = [face(noise(sigma), FRONTAL + sigma, 0.1 * sigma) for sigma in (1, 5, 9)]
    assert qualities(some) == [quality(each) for each in some]
    assert qualities([]) == []
