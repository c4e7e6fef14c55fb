"""The analysing pipeline with its networks stood in for: crops, batches and answers stay with their face."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from fixtures.photos import encoded
from PIL import Image

from depthface.contract import Parameters
from depthface.families.insightface import pipeline, processing
from depthface_standins.insightface import scenes

KINDS = ("detector", "recognizer", "landmarks_106", "landmarks_68", "attributes")
PARAMETERS = Parameters(networks={kind: kind for kind in KINDS}, facts={"embedding_size": "512"})


def scene(count: int) -> tuple[bytes, np.ndarray, np.ndarray]:
    """A grey photo with a square of its own colour for each face: the photo, boxes and keypoints."""
    side_px, across = 60, 10
    photo = np.full((-(-count // across) * side_px, across * side_px, 3), 255, np.uint8)
    boxes, keypoints = [], []
    for index in range(count):
        x, y = side_px * (index % across), side_px * (index // across)
        photo[y : y + side_px, x : x + side_px] = (index, index + 50, index + 100)
        boxes.append([x + 18, y + 18, x + 42, y + 42])
        keypoints.append(scenes.KEYPOINTS * 12 + (x + 30, y + 30))
    return encoded(Image.fromarray(photo), "PNG"), np.array(boxes, np.float32), np.array(keypoints, np.float32)


class Networks:
    """Each gives the red of the crop's middle, by which a face is known."""

    def __init__(self, boxes: np.ndarray, keypoints: np.ndarray) -> None:
        self.boxes, self.keypoints = boxes, keypoints
        self.batches: dict[str, list[int]] = {}

    async def infer(self, model: str, inputs: dict, outputs: tuple[str, ...]) -> dict[str, np.ndarray]:
        if model == "detector":
            room = {"boxes": (512, 4), "scores": (512,), "keypoints": (512, 5, 2)}
            found = {name: np.full((1, *shape), 7e6, np.float32) for name, shape in room.items()}
            count = len(self.boxes)
            found["boxes"][0, :count], found["keypoints"][0, :count] = self.boxes, self.keypoints
            found["scores"][0, :count] = np.linspace(0.9, 0.6, count)
            return found | {"count": np.array([[count]], np.int32)}
        faces = inputs["faces"]
        self.batches.setdefault(model, []).append(len(faces))
        await asyncio.sleep(0.02 / len(self.batches[model]))  # the later batch answers first
        middle = faces[:, faces.shape[1] // 2, faces.shape[2] // 2, 0].astype(np.float32)
        columns = {"recognizer": 512, "landmarks_106": 212, "landmarks_68": 3309, "attributes": 3}[model]
        return {outputs[0]: np.repeat(middle[:, None] / 100, columns, axis=1)}


def in_order(options: dict[str, np.ndarray]) -> list[np.ndarray | None]:
    """The optional inputs as a pipeline gets them."""
    return [options.get(name) for name in ("min_score", "max_faces", "det_size")]


def analysed(count: int, wanted: tuple[str, ...], **options: np.ndarray) -> tuple[dict, Networks, np.ndarray]:
    photo, boxes, keypoints = scene(count)
    networks = Networks(boxes, keypoints)
    answer = asyncio.run(pipeline.analyse(wanted, networks.infer, PARAMETERS, photo, *in_order(options)))
    return answer, networks, boxes


@pytest.mark.parametrize("count", [1, 31, 32, 33, 64, 65, 97])
def test_every_answer_is_its_own_faces_in_however_many_batches(count):
    answer, networks, boxes = analysed(count, ("boxes", "embeddings", "age", "landmarks_106", "pose", "crops"))
    np.testing.assert_array_equal(answer["boxes"], boxes)
    levels = np.arange(count)
    np.testing.assert_allclose(answer["embeddings"][:, 0], levels / 100, atol=1e-6)
    np.testing.assert_array_equal(answer["age"], levels)
    np.testing.assert_array_equal(answer["crops"][:, 56, 56], levels[:, None] + (0, 50, 100))
    # The raw landmark is `level / 100` right of and below the middle of a crop that is 1.5 boxes wide.
    expected = (boxes[:, :2] + boxes[:, 2:]) / 2 + 18 * levels[:, None] / 100
    np.testing.assert_allclose(answer["landmarks_106"], np.repeat(expected[:, None], 106, axis=1), atol=0.01)
    assert answer["pose"].shape == (count, 3)
    for sizes in networks.batches.values():
        assert (sum(sizes), max(sizes)) == (count, min(count, 32))


@pytest.mark.parametrize("limit", [1, 2, 5, 32, 40])
def test_of_a_limited_answer_each_part_is_of_the_faces_kept(limit):
    parts = ("boxes", "scores", "keypoints", "age", "crops")
    answer, networks, boxes = analysed(40, parts, max_faces=np.array([limit], np.int32))
    kept = processing.select(boxes, (240, 600), limit)
    assert len(kept) == limit
    np.testing.assert_array_equal(answer["age"], kept)
    np.testing.assert_array_equal(answer["boxes"], boxes[kept])
    np.testing.assert_array_equal(answer["keypoints"], networks.keypoints[kept])
    np.testing.assert_array_equal(answer["scores"], np.linspace(0.9, 0.6, 40).astype(np.float32)[kept])
    np.testing.assert_array_equal(answer["crops"][:, 56, 56, 0], kept)
    assert sum(networks.batches["attributes"]) == limit


def test_a_detector_is_given_what_was_asked():
    photo, boxes, keypoints = scene(1)
    networks, fed = Networks(boxes, keypoints), []

    async def infer(model, inputs, outputs):
        fed.append({name: value.copy() for name, value in inputs.items()})
        return await networks.infer(model, inputs, outputs)

    def ask(**options: float) -> dict[str, np.ndarray]:
        types = {"min_score": np.float32, "det_size": np.int32}
        arrays = {name: np.array([value], types[name]) for name, value in options.items()}
        asyncio.run(pipeline.analyse(("boxes",), infer, PARAMETERS, photo, *in_order(arrays)))
        return fed[-1]

    plain = ask()
    assert (plain["pixels"].shape, plain["pixels_small"].shape) == ((1, 640, 640, 3), (1, 128, 128, 3))
    assert plain["min_score"].tolist() == [[0.5]]
    assert plain["pixels_small"].any()
    one = ask(det_size=320, min_score=0.25)
    assert (one["pixels"].shape, one["min_score"].tolist()) == ((1, 320, 320, 3), [[0.25]])
    assert not one["pixels_small"].any()
