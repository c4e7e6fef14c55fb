"""Faces and their pictures, without a server."""

from __future__ import annotations

import dataclasses
import json
from io import BytesIO

import numpy as np
import pytest
from fixtures.photos import photo, with_orientation
from PIL import Image

from depthface.asking import Asker, Blocking, Describe, Description, Served
from depthface.contract import Parameters
from depthface.errors import InvalidInput, ModelUnavailable
from depthface.tasks import faces as task
from depthface.tasks.embedding import Embedding
from depthface_client import SAME_PERSON_SIMILARITY, Comparison, Face, NoFaceFound, draw

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


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_like_nothing_and_is_nobody_else(value):
    whole, broken = with_embedding(1, 0), with_embedding(value, 0)
    for one, other in ((whole, broken), (broken, whole), (broken, broken)):
        with pytest.raises(InvalidInput, match="finite"):
            one.similarity(other)
        with pytest.raises(InvalidInput, match="finite"):
            Comparison.of(one, other)
    seen, lost = (Embedding(one.embedding, "m", "w", "s") for one in (whole, broken))
    assert seen.similarity(seen) == 1
    with pytest.raises(InvalidInput, match="finite"):
        seen.similarity(lost)
    with pytest.raises(InvalidInput, match="finite"):
        lost.similarity(seen)


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
    with pytest.raises(InvalidInput, match="cosine"):
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


def model(*outputs: str) -> Description:
    return Description("m", ("image",), outputs, 1, Parameters(task="faces"))


def test_what_is_asked_for():
    always = ["boxes", "scores", "keypoints"]
    everything = [*always, "embeddings", "landmarks_106", "gender", "age"]
    assert task._outputs_of(model(*OFFERED), None) == everything
    assert task._outputs_of(model(*OFFERED), OFFERED_PARTS) == [*everything, "crops"]
    assert task._outputs_of(model(*OFFERED), ()) == always
    assert task._outputs_of(model(*OFFERED), "crop") == [*always, "crops"]
    assert task._outputs_of(model(*always), None) == always


def test_what_cannot_be_asked_for():
    with pytest.raises(InvalidInput, match=r"m does not offer pose.*embedding, landmarks_106, attributes, crop"):
        task._outputs_of(model(*OFFERED), ["pose"])
    with pytest.raises(InvalidInput, match="boxes, scores and keypoints alone"):
        task._outputs_of(model("boxes"), ["pose"])
    with pytest.raises(InvalidInput, match=r"'teeth' is no part.*embedding"):
        task._outputs_of(model(*OFFERED), ["teeth"])


def test_only_the_options_that_are_given_travel():
    assert task.Options.of(None, None, None).tensors() == {}
    sent = task.Options.of(0.25, 3, 640).tensors()
    assert {name: (tensor.dtype, tensor.shape, tensor.item()) for name, tensor in sent.items()} == {
        "min_score": (np.float32, (1, 1), 0.25),
        "max_faces": (np.int32, (1, 1), 3),
        "det_size": (np.int32, (1, 1), 640),
    }
    back = task.Options.of_tensors(*(tensor[0] for tensor in sent.values()))
    assert back == task.Options(0.25, 3, 640)


class Told(task.FaceMethods, Blocking, Asker):
    """A client whose server is a list of what it serves: a name, its task and its rank."""

    def __init__(self, *served: tuple[str, str, str]) -> None:
        super().__init__("h", 1.0, 0)
        self._configs = {
            name: {"name": name, "parameters": {key: {"string_value": value} for key, value in
                                                (("task", kind), ("rank", rank)) if value}}
            for name, kind, rank in served
        }  # fmt: skip

    def _go(self, way):
        step = next(way)
        while True:
            answer = list(self._configs) if isinstance(step, Served) else None
            if isinstance(step, Describe):
                answer = self._configs[step.model]
            try:
                step = way.send(answer)
            except StopIteration as end:
                return end.value


def test_the_one_face_model_is_found():
    networks = (("a_detector", "", ""), ("a_recognizer", "", ""), ("depth", "depth", ""))
    detection, analysis = ("detection_a", "faces", "1"), ("analysis_a", "faces", "")
    assert Told(*networks, detection, analysis).face_model() == "analysis_a"
    assert Told(*networks, detection).face_model() == "detection_a"
    with pytest.raises(ModelUnavailable, match="depthface export"):
        Told(*networks).face_model()
    with pytest.raises(InvalidInput, match="model=: analysis_a, analysis_b"):
        Told(analysis, ("analysis_b", "faces", "")).face_model()


def test_the_largest_face():
    small, large = face(side=10), face(side=50)
    assert task._largest([small, large, small], b"", "first") is large
    with pytest.raises(NoFaceFound, match=r"second photo \(b.jpg\)"):
        task._largest([], "b.jpg", "second")
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


def test_a_model_that_takes_no_options_has_the_defaults():
    assert task.Options.of_tensors() == task.Options.of_tensors(None, None, None) == task.Options()
