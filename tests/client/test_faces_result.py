"""Faces and their pictures, without a server."""

from __future__ import annotations

import dataclasses
import json
from io import BytesIO

import numpy as np
import pytest
from fixtures.photos import photo, with_orientation
from PIL import Image

from depthface.errors import InvalidInput, ModelUnavailable
from depthface_client import SAME_PERSON_SIMILARITY, Comparison, Face, NoFaceFound, _faces, draw

OFFERED = {"boxes", "scores", "keypoints", "size", "embeddings", "landmarks_106", "gender", "age", "crops"}
OFFERED_PARTS = ["embedding", "landmarks_106", "attributes", "crop"]


def face(x: float = 10, y: float = 20, side: float = 40, **parts: object) -> Face:
    keypoints = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]], np.float32)
    return Face(
        box=np.array([x, y, x + side, y + side], np.float32), score=0.9, keypoints=keypoints * side + (x, y), **parts
    )


def with_embedding(*values: float) -> Face:
    return face(embedding=np.array(values, np.float32))


def test_a_face_is_frozen_and_its_arrays_are_read_only():
    mine = np.ones((106, 2), np.float32)
    found = face(landmarks_106=mine)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.score = 1.0
    for array in (found.box, found.keypoints, found.landmarks_106):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    mine[0] = 2  # the caller's own array stays as it was


def test_the_area_of_a_box_is_never_negative():
    assert face(side=40).area == 1600
    assert Face(np.array([5, 5, 1, 9], np.float32), 0.5, np.zeros((5, 2), np.float32)).area == 0


def test_similarity_is_the_cosine():
    assert with_embedding(1, 0).similarity(with_embedding(0, 1)) == 0
    assert with_embedding(3, 4).similarity(with_embedding(6, 8)) == 1
    assert with_embedding(1, 0).similarity(with_embedding(-2, 0)) == -1
    assert with_embedding(0, 0).similarity(with_embedding(1, 0)) == 0


def test_faces_that_cannot_be_compared_say_why():
    with pytest.raises(InvalidInput, match=r"parts=\['embedding'\]"):
        face().similarity(with_embedding(1, 0))
    with pytest.raises(InvalidInput, match="3 and 2 numbers"):
        with_embedding(1, 0, 0).similarity(with_embedding(1, 0))


def test_the_verdict_turns_at_the_threshold():
    one, other = with_embedding(1, 0), with_embedding(0.6, 0.8)
    assert Comparison.of(one, other, 0.5) == Comparison(pytest.approx(0.6), True, 0.5)
    assert not Comparison.of(one, other, 0.7).same
    assert Comparison.of(one, other).threshold == SAME_PERSON_SIMILARITY
    with pytest.raises(InvalidInput, match="no cosine"):
        Comparison.of(one, other, 1.5)


def test_the_crop_is_a_picture_or_a_sentence():
    crop = face(aligned=np.full((112, 112, 3), 7, np.uint8)).crop()
    assert (crop.mode, crop.size, crop.getpixel((0, 0))) == ("RGB", (112, 112), (7, 7, 7))
    with pytest.raises(InvalidInput, match=r"parts=\['crop'\]"):
        face().crop()


def test_a_face_survives_json():
    found = face(10.12345, pose=np.array([1, 2, 3], np.float32), gender="male", age=40)
    back = json.loads(json.dumps(found.as_dict()))
    assert back["box"] == [10.123, 20, 50.123, 60]
    assert (back["score"], back["gender"], back["age"], back["pose"]) == (0.9, "male", 40, [1, 2, 3])
    assert np.shape(back["keypoints"]) == (5, 2)
    assert back["embedding"] is None
    assert set(back) == {field.name for field in dataclasses.fields(Face)} - {"aligned"}


def test_what_is_asked_for():
    always = ["boxes", "scores", "keypoints"]
    everything = [*always, "embeddings", "landmarks_106", "gender", "age"]
    assert _faces.outputs_of("m", None, OFFERED) == everything
    assert _faces.outputs_of("m", OFFERED_PARTS, OFFERED) == [*everything, "crops"]
    assert _faces.outputs_of("m", (), OFFERED) == always
    assert _faces.outputs_of("m", "crop", OFFERED) == [*always, "crops"]
    assert _faces.outputs_of("m", None, set(always)) == always


def test_what_cannot_be_asked_for():
    with pytest.raises(InvalidInput, match=r"m does not offer pose.*embedding, landmarks_106, attributes, crop"):
        _faces.outputs_of("m", ["pose"], OFFERED)
    with pytest.raises(InvalidInput, match="boxes, scores and keypoints alone"):
        _faces.outputs_of("m", ["pose"], {"boxes"})
    with pytest.raises(InvalidInput, match=r"'teeth' is no part.*embedding"):
        _faces.outputs_of("m", ["teeth"], OFFERED)


@pytest.mark.parametrize(
    "options", [{"min_score": 1.1}, {"min_score": float("nan")}, {"max_faces": -1}, {"det_size": 2**31}]
)
def test_options_out_of_range(options):
    with pytest.raises(InvalidInput, match=next(iter(options))):
        _faces.request(b"", **options)


def test_only_the_options_that_are_given_travel():
    assert [tensor.name() for tensor in _faces.request(b"")] == ["image"]
    sent = _faces.request(b"", min_score=0.25, max_faces=0, det_size=640)
    assert [(tensor.name(), tensor.datatype(), tensor.shape()) for tensor in sent[1:]] == [
        ("min_score", "FP32", [1, 1]),
        ("max_faces", "INT32", [1, 1]),
        ("det_size", "INT32", [1, 1]),
    ]


def serving(*names: str) -> dict[str, list[dict[str, str]]]:
    """Triton's statistics of a server that serves these."""
    return {"model_stats": [{"name": name, "version": "1"} for name in names]}


def test_the_one_face_model_is_found():
    networks = ("face_a_detector", "face_a_recognizer")
    detection, analysis = "face_detection_a", "face_analysis_a"
    assert _faces.only_served("h", serving(*networks, detection, analysis)) == "face_analysis_a"
    assert _faces.only_served("h", serving(*networks, detection)) == "face_detection_a"
    with pytest.raises(ModelUnavailable, match="depthface export"):
        _faces.only_served("h", serving(*networks))
    with pytest.raises(InvalidInput, match="model=: face_analysis_a, face_analysis_b"):
        _faces.only_served("h", serving(analysis, "face_analysis_b"))


def test_the_largest_face():
    small, large = face(side=10), face(side=50)
    assert _faces.largest([small, large, small], b"", "first") is large
    with pytest.raises(NoFaceFound, match=r"second photo \(b.jpg\)"):
        _faces.largest([], "b.jpg", "second")
    assert issubclass(NoFaceFound, InvalidInput)


def test_a_drawing_leaves_the_photo_and_stays_inside_it():
    picture = photo("chelsea.png")
    before = picture.tobytes()
    found = [face(-20, -20, 80, gender="female", age=30), face(420, 250, 60), face(100, 100, 0)]
    drawn = draw.faces(picture, found)
    assert picture.tobytes() == before
    assert (drawn.mode, drawn.size) == ("RGB", picture.size)
    assert drawn.tobytes() != before
    assert draw.faces(picture, []).tobytes() == before


def test_landmarks_and_keypoints_are_where_they_are_drawn():
    grey = Image.new("RGB", (300, 300), (128, 128, 128))
    points = np.full((106, 2), 150, np.float32)
    drawn = draw.faces(grey, [face(50, 50, 200, landmarks_106=points)])
    assert drawn.getpixel((150, 150)) == (255, 255, 255)
    assert drawn.getpixel((110, 130)) == draw.faces(grey, [face(50, 50, 200)]).getpixel((190, 130))  # the two eyes
    points_68 = np.full((68, 3), 150, np.float32)
    assert draw.faces(grey, [face(50, 50, 200, landmarks_68=points_68)]).getpixel((150, 150)) == (255, 255, 255)


@pytest.mark.parametrize("size", [(1, 1), (20, 10), (3000, 40)])
def test_photos_of_any_size_can_be_drawn_on(size):
    assert draw.faces(Image.new("L", size), [face(age=3), face(age=4)]).size == size


def test_drawings_are_upright_and_take_photos_in_every_form():
    turned = with_orientation(6)
    upright = draw.faces(turned, [])
    assert upright.size == draw.faces(Image.open(BytesIO(turned)), []).size == (300, 451)
    assert draw.faces(np.asarray(upright), []).tobytes() == upright.tobytes()
    with pytest.raises(InvalidInput, match="not an image"):
        draw.faces(b"hello", [])
