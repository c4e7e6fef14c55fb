"""The stand-in pack, through InsightFace itself: does it see the drawn people as they were drawn?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from depthface_standins.insightface import scenes, synthetic
from depthface_standins.insightface.scenes import Person, Placed, Scene, draw_crowd, draw_scene

# insightface calls numpy and scikit-image in ways that they deprecate.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

# Faces in the scene → how many such scenes.
CROWDS = {0: 4, 1: 12, 2: 12, 6: 10, 33: 4, 200: 1}

FaceAnalysis = Any


@dataclass(frozen=True)
class Seen:
    """A drawn face and what InsightFace found there."""

    placed: Placed
    face: Any
    iou: float

    @property
    def keypoint_error(self) -> float:
        """The keypoints' mean distance from the truth, in radii of the face."""
        return float(np.linalg.norm(self.face.kps - self.placed.keypoints, axis=1).mean() / self.placed.radius_px)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FaceAnalysis:
    pytest.importorskip("insightface.app", reason="insightface is not installed")
    folder = tmp_path_factory.mktemp("synthetic")
    for name, model in synthetic.pack().items():
        onnx.save(model, str(folder / name))
    return load(folder)


@pytest.fixture(scope="module")
def seen(app: FaceAnalysis) -> dict[int, list[Seen]]:
    """Every face found, by the number of faces in the scene; every face drawn was found, and no other."""
    found: dict[int, list[Seen]] = {}
    for count, repeats in CROWDS.items():
        crowds = [look(app, draw_crowd(count, seed)) for seed in range(repeats)]
        found[count] = [face for crowd in crowds for face in crowd]
    return found


def load(folder: Path) -> FaceAnalysis:
    from insightface.app import FaceAnalysis
    from onnxruntime import SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = 1
    app = FaceAnalysis(name=str(folder), providers=["CPUExecutionProvider"], sess_options=options)
    app.prepare(ctx_id=0, det_size=(640, 640))
    return app


def look(app: FaceAnalysis, scene: Scene) -> list[Seen]:
    """Match what is found with what was drawn; fails where that is not one to one."""
    faces = app.get(np.ascontiguousarray(scene.image[:, :, ::-1]))
    assert len(faces) == len(scene.people)
    matched = []
    for placed in scene.people:
        overlaps = [iou(placed.box, face.bbox) for face in faces]
        best = int(np.argmax(overlaps))
        assert overlaps[best] > 0.5, f"missed: {placed}"
        matched.append(Seen(placed, faces.pop(best), overlaps[best]))
    return matched


def iou(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    sides = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)
    both = np.prod(sides)
    return float(both / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - both))


def everyone(seen: dict[int, list[Seen]]) -> Iterator[Seen]:
    for faces in seen.values():
        yield from faces


@pytest.mark.parametrize("count", CROWDS)
def test_the_detector_finds_every_drawn_face_and_no_other(seen: dict[int, list[Seen]], count: int) -> None:
    faces = seen[count]
    assert len(faces) == count * CROWDS[count]
    assert all(face.iou >= 0.9 for face in faces)
    assert all(face.keypoint_error <= 0.05 for face in faces)
    assert all(face.face.det_score > 0.6 for face in faces)


@pytest.mark.parametrize("radius_px", [10, 14, 20, 40, 80, 160, 300])
@pytest.mark.parametrize("rotation_deg", [-30, 0, 30])
def test_the_detector_finds_small_and_large_faces_turned(
    app: FaceAnalysis, radius_px: float, rotation_deg: float
) -> None:
    placed = Placed(Person(7), 321.3, 318.8, radius_px, rotation_deg)
    (face,) = look(app, draw_scene([placed]))
    assert face.iou >= 0.9
    assert face.keypoint_error <= 0.05


def test_the_detector_passes_over_what_is_not_quite_a_face(app: FaceAnalysis) -> None:
    upside_down = Placed(Person(1), 150, 150, 80, rotation_deg=180)
    lying = Placed(Person(2), 450, 150, 80, rotation_deg=90)
    blind = Placed(Person(3), 300, 450, 80)
    image = draw_scene([upside_down, lying, blind], background="plain").image.copy()
    image[380:460, 220:380] = (200, 65, 65)
    assert app.get(image[:, :, ::-1].copy()) == []


def test_an_empty_scene_has_its_empty_truth() -> None:
    scene = draw_crowd(0)
    assert scene.boxes.shape == (0, 4)
    assert scene.keypoints.shape == (0, 5, 2)
    assert scene.identities.shape == (0,)


def test_a_scene_is_drawn_the_same_twice() -> None:
    assert np.array_equal(draw_crowd(6, seed=3).image, draw_crowd(6, seed=3).image)
    assert not np.array_equal(draw_crowd(6, seed=3).image, draw_crowd(6, seed=4).image)


def test_too_many_faces_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        scenes.place(50, (100, 100), (20, 20))


def test_embeddings_tell_people_apart(seen: dict[int, list[Seen]]) -> None:
    faces = list(everyone(seen))
    vectors = np.stack([face.face.normed_embedding for face in faces])
    assert vectors.shape[1] == 512
    who = np.array([face.placed.person.seed for face in faces])
    first, second = np.triu_indices(len(faces), k=1)
    cosines = (vectors @ vectors.T)[first, second]
    same = who[first] == who[second]
    assert same.sum() > 200
    assert cosines[same].min() >= 0.75  # the worst are faces of 25 px
    assert cosines[same].mean() >= 0.95
    assert np.percentile(cosines[~same], 99.9) <= 0.5
    assert cosines[~same].max() <= cosines[same].min() - 0.1


def test_embeddings_have_the_length_asked_for(tmp_path: Path) -> None:
    from onnxruntime import InferenceSession

    session = InferenceSession(synthetic.recognizer(128).SerializeToString())
    crops = np.zeros((3, 3, 112, 112), np.float32)
    assert session.run(None, {"input.1": crops})[0].shape == (3, 128)
    with pytest.raises(ValueError, match="at least"):
        synthetic.recognizer(16)


def test_landmarks_lie_on_the_face(seen: dict[int, list[Seen]]) -> None:
    for face in everyone(seen):
        placed = face.placed
        turn = np.deg2rad(placed.rotation_deg)
        matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        for answer, points in (
            (face.face.landmark_2d_106, scenes.points_106()),
            (face.face.landmark_3d_68[:, :2], scenes.points_68()[:, :2]),
        ):
            truth = points @ matrix.T * placed.radius_px + (placed.x_px, placed.y_px)
            assert np.linalg.norm(answer - truth, axis=1).mean() <= 0.06 * placed.radius_px


def test_pose_is_the_rotation_in_the_picture(seen: dict[int, list[Seen]]) -> None:
    for face in everyone(seen):
        pitch, yaw, roll = face.face.pose
        assert abs(pitch) < 3
        assert abs(yaw) < 3
        assert abs(roll - face.placed.rotation_deg) < 4


def test_gender_and_age_are_those_of_the_person(seen: dict[int, list[Seen]]) -> None:
    faces = list(everyone(seen))
    assert all(face.face.gender == face.placed.person.gender for face in faces)
    assert {face.face.gender for face in faces} == {0, 1}
    assert np.mean([abs(face.face.age - face.placed.person.age) for face in faces]) <= 4


def test_insightface_reads_the_ranges_off_the_node_names(app: FaceAnalysis) -> None:
    ranges = {task: (model.input_mean, model.input_std) for task, model in app.models.items()}
    assert ranges == {
        "detection": (127.5, 128.0),
        "recognition": (127.5, 127.5),
        "landmark_2d_106": (0.0, 1.0),
        "landmark_3d_68": (0.0, 1.0),
        "genderage": (0.0, 1.0),
    }


def test_the_files_are_valid_and_small() -> None:
    for name, model in synthetic.pack().items():
        onnx.checker.check_model(model, full_check=name != "det_synthetic.onnx")  # wrong on purpose: its output shapes
        assert model.ByteSize() < 2**21, name
        assert model.opset_import[0].version == 11
