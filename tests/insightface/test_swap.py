"""The swapping pipeline with its networks stood in for: which face is taken, and which are changed."""

from __future__ import annotations

import asyncio
from io import BytesIO

import numpy as np
import pytest
from fixtures.photos import encoded
from PIL import Image

from depthface.contract import Parameters
from depthface.errors import InvalidInput
from depthface.families.insightface import pipeline
from depthface_standins.insightface import scenes

SOURCE = b"the source"
PARAMETERS = Parameters(networks={"swapper": "the swapper"})

GREY = 128
"""Of the target: the stand-in for the swapper paints each face a level of its own on it."""


def colour(index: int) -> np.ndarray:
    """Of a face of the target: no two are alike, nor two channels."""
    return np.array([4 * index, 4 * index + 30, 4 * index + 60])


def target(count: int) -> tuple[bytes, np.ndarray]:
    """A grey photo, and the keypoints of so many upright faces side by side in it, `(F, 5, 2) float32`."""
    side_px, across = 120, 4
    centres = [(side_px * (0.5 + index % across), side_px * (0.5 + index // across)) for index in range(count)]
    keypoints = np.stack([scenes.KEYPOINTS * 25 + np.array(centre) for centre in centres]).astype(np.float32)
    rows = -(-count // across)
    photo = np.full((rows * side_px, across * side_px, 3), GREY, np.uint8)
    for index, points in enumerate(keypoints):  # each is known by its colour
        x, y = points.mean(axis=0).astype(int)
        photo[y - 30 : y + 30, x - 30 : x + 30] = colour(index)
    return encoded(Image.fromarray(photo), "PNG"), keypoints


class Networks:
    """What the pipeline asks; the swapper gives back each crop, 100 levels lighter."""

    def __init__(self, keypoints: np.ndarray, boxes: np.ndarray, columns: int = 512) -> None:
        self.keypoints, self.boxes = keypoints, boxes
        self.embeddings = np.eye(columns, dtype=np.float32)[: len(boxes)]
        self.batches: list[int] = []
        self.taken: list[int] = []
        self.packs: list[str] = []
        self.det_sizes: list[int] = []

    async def infer(self, model: str, inputs: dict, outputs: tuple[str, ...]) -> dict[str, np.ndarray]:
        if model == "the swapper":
            faces = inputs["faces"]
            assert faces.dtype == np.uint8
            assert len(inputs["embedding"]) == len(faces)
            self.batches.append(len(faces))
            self.taken += inputs["embedding"].argmax(axis=1).tolist()
            return {"faces_out": faces + np.uint8(100)}
        self.packs.append(model)
        self.det_sizes.append(inputs["det_size"].item())
        if inputs["image"][0, 0] == SOURCE:
            return {"boxes": self.boxes[None], "embeddings": self.embeddings[None]}
        boxes = np.array([[0, 0, 10 + index % 3, 10] for index in range(len(self.keypoints))], np.float32)
        return {"boxes": boxes[None], "keypoints": self.keypoints[None]}


# Sides of 10, 30 and 20 pixels; the last is nearer the middle, and the surest comes first.
SOURCE_BOXES = np.array([[0, 0, 10, 10], [50, 50, 80, 80], [30, 30, 50, 50]], np.float32)


def swapped(networks: Networks, photo: bytes, *options: object, **pack: bytes) -> np.ndarray:
    answer = pipeline.swap(["image"], networks.infer, PARAMETERS, SOURCE, photo, *options, **pack)
    return np.asarray(Image.open(BytesIO(asyncio.run(answer)["image"])))


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 11, 16, 17])
def test_every_face_of_the_target_is_swapped_each_in_its_own_place(count):
    photo, keypoints = target(count)
    networks = Networks(keypoints, SOURCE_BOXES)
    result = swapped(networks, photo)
    assert sum(networks.batches) == count
    assert max(networks.batches) <= 8
    for index, points in enumerate(keypoints):
        x, y = points.mean(axis=0).astype(int)
        # The blend rounds down.
        assert np.abs(result[y, x] - (colour(index) + 100)).max() <= 1, f"face {index} of {count}"
    assert result[0, 0].tolist() == [GREY] * 3


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 0, 1), (0, 2, 1)])
def test_the_largest_face_of_the_source_is_taken(order):
    photo, keypoints = target(3)
    networks = Networks(keypoints, SOURCE_BOXES[list(order)])
    swapped(networks, photo)
    assert networks.taken == [order.index(1)] * 3


@pytest.mark.parametrize(("source_face", "taken"), [(None, 1), (b"largest", 1), (b"surest", 0)])
@pytest.mark.parametrize(
    ("target_faces", "changed"), [(None, [0, 1, 2, 3]), (b"all", [0, 1, 2, 3]), (b"largest", [2]), (b"surest", [0])]
)
def test_which_face_is_taken_and_which_are_changed_may_be_asked_for(source_face, taken, target_faces, changed):
    photo, keypoints = target(4)
    networks = Networks(keypoints, SOURCE_BOXES)
    result = swapped(networks, photo, None, source_face, target_faces, None)
    assert networks.taken == [taken] * len(changed)
    for index, points in enumerate(keypoints):
        x, y = points.mean(axis=0).astype(int)
        lighter = 100 if index in changed else 0
        assert np.abs(result[y, x] - (colour(index) + lighter)).max() <= 1, f"face {index}"
    assert networks.det_sizes == [0, 0]


def test_the_size_that_is_asked_for_holds_for_both_photos():
    photo, keypoints = target(1)
    networks = Networks(keypoints, SOURCE_BOXES)
    swapped(networks, photo, None, None, None, np.array([640], np.int32))
    assert networks.det_sizes == [640, 640]


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ((None, b"all"), "source_face"),
        ((None, b"\xff"), "source_face"),
        ((None, None, b"first"), "target_faces"),
        ((None, None, b"l" * 2**20), "target_faces"),
        ((None, None, None, np.array([100], np.int32)), "det_size"),
    ],
    ids=["no such face", "no text", "no such faces", "very long", "no such size"],
)
def test_an_option_that_is_none_is_refused_before_anybody_is_asked(options, name):
    photo, keypoints = target(1)
    networks = Networks(keypoints, SOURCE_BOXES)
    with pytest.raises(InvalidInput, match=name) as caught:
        swapped(networks, photo, *options)
    assert len(str(caught.value)) < 250
    assert networks.packs == []


def test_the_pack_that_is_named_finds_the_faces_and_buffalo_l_otherwise():
    photo, keypoints = target(1)
    for options, expected in (({}, "face_analysis_buffalo_l"), ({"pack": b"mine"}, "face_analysis_mine")):
        networks = Networks(keypoints, SOURCE_BOXES)
        swapped(networks, photo, **options)
        assert networks.packs == [expected] * 2


@pytest.mark.parametrize("pack", [b"a" * 65, b"m" * 2**20, b"../mine", b"a pack\n", b".mine", b"\xff"], ids=len)
def test_what_no_pack_can_be_called_is_asked_of_nobody_and_not_said_at_length(pack):
    photo, keypoints = target(1)
    networks = Networks(keypoints, SOURCE_BOXES)
    with pytest.raises(InvalidInput, match="No pack can be called") as caught:
        swapped(networks, photo, pack=pack)
    assert len(str(caught.value)) < 250
    assert networks.packs == []


def test_what_cannot_be_swapped_is_named():
    photo, keypoints = target(1)
    with pytest.raises(InvalidInput, match="source"):
        swapped(Networks(keypoints, SOURCE_BOXES[:0]), photo)
    with pytest.raises(InvalidInput, match="target"):
        swapped(Networks(keypoints[:0], SOURCE_BOXES), photo)
    with pytest.raises(InvalidInput, match="128"):
        swapped(Networks(keypoints, SOURCE_BOXES, columns=128), photo)
