"""The tasks: from what a model answers to results and files. The server itself is in test_contract.py."""

from __future__ import annotations

import asyncio
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.photos import encoded, heic, photo, with_orientation
from PIL import Image, ImageOps

from depthface.errors import InvalidImage, ServerFault
from depthface.photos import upright
from depthface_client import Face
from depthface_gateway.jobs.claims import Claim
from depthface_gateway.jobs.inference import TASKS, Try, face_tasks

JOB = Claim("the-job", "claim", "face_embedding", "m", {}, 1, 3, False)
POINTS = np.array([[10, 20], [30, 20], [20, 30], [12.345, 40], [28, 40]], np.float32)


def face(box: tuple[float, ...], size: int = 512, score: float = 0.987654) -> Face:
    vector = np.zeros(size, np.float32)
    vector[3] = 1
    return Face(np.array(box, np.float32), score, POINTS, embedding=vector)


class Answers:
    """A model that answers with what it is given."""

    def __init__(self, *faces: Face, vector: Any = None) -> None:
        self.found, self.vector = faces, vector
        self.asked: list[Any] = []

    async def embed(self, photo: bytes, request_id: str) -> Any:
        self.asked.append(request_id)
        return self.vector

    async def faces(self, photo: bytes, request_id: str, *, with_embeddings: bool) -> list[Face]:
        self.asked.append((request_id, with_embeddings))
        if with_embeddings:
            return list(self.found)
        return [Face(one.box, one.score, one.keypoints) for one in self.found]


def done(task: str, models: Answers, data: bytes, folder: Path) -> Any:
    return asyncio.run(face_tasks(models)[task](Try(JOB, data, folder, lambda share: None)))


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_the_contracts_tasks_are_there() -> None:
    assert tuple(face_tasks(Answers())) == TASKS == ("image_embedding", "face_detection", "face_embedding")


def test_image_embedding(tmp_path: Path) -> None:
    vector = np.random.default_rng(0).normal(size=512).astype(np.float32)
    result = done("image_embedding", Answers(vector=vector), b"photo", tmp_path)
    assert result == {"embedding_dimension": 512, "embedding_path": "jobs/the-job/embedding.bin"}
    assert files(tmp_path) == ["embedding.bin"] and np.array_equal(np.load(tmp_path / "embedding.bin"), vector)


def test_faces_with_and_without_vectors(tmp_path: Path) -> None:
    data = encoded(photo("chelsea.png"), "PNG")
    for task, names in (("face_detection", ["faces/0.jpg"]), ("face_embedding", ["faces/0.bin", "faces/0.jpg"])):
        folder = tmp_path / task
        folder.mkdir()
        models = Answers(face((100.254, 50.5, 180.75, 151.0)))
        (told,) = done(task, models, data, folder)["faces"]
        assert models.asked == [("the-job", task == "face_embedding")]
        assert files(folder) == names
        assert told["bbox"] == {"x": 100.25, "y": 50.5, "width": 80.5, "height": 100.5} and told["confidence"] == 0.9877
        assert told["landmarks"]["left_mouth"] == [12.35, 40.0] or told["landmarks"]["left_mouth"] == [12.34, 40.0]
        assert ("embedding_dimension" in told) is ("embedding_path" in told) is (task == "face_embedding")
    assert np.load(tmp_path / "face_embedding" / "faces" / "0.bin")[3] == 1


@pytest.mark.parametrize(
    ("box", "corners"),
    [((10.9, 20.9, 50.4, 60.6), (10, 20, 50, 61)), ((-30, -40, 20, 30), (0, 0, 20, 30)),
     ((430, 280, 900, 900), (430, 280, 451, 300)), ((-50, -50, -10, -10), (0, 0, 1, 1)),
     ((1000, 1000, 1100, 1100), (450, 299, 451, 300)), ((5, 5, 5.1, 5.1), (5, 5, 6, 6))],
)  # fmt: skip
def test_a_crop_ends_at_the_photos_edge(box: tuple[float, ...], corners: tuple[int, ...], tmp_path: Path) -> None:
    picture = photo("chelsea.png")  # 451 × 300
    (told,) = done("face_detection", Answers(face(box)), encoded(picture, "PNG"), tmp_path)["faces"]
    assert told["bbox"]["x"] == pytest.approx(box[0], abs=0.01), "the box itself is not cut off"
    crop = Image.open(tmp_path / "faces" / "0.jpg")
    assert crop.size == (corners[2] - corners[0], corners[3] - corners[1])
    expected = np.asarray(picture.crop(corners), np.float32)
    assert float(np.abs(np.asarray(crop, np.float32) - expected).mean()) < 6


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_crop_is_of_the_upright_photo(orientation: int, tmp_path: Path) -> None:
    data = with_orientation(orientation)
    upright = ImageOps.exif_transpose(Image.open(BytesIO(data)))
    done("face_detection", Answers(face((20, 30, 120, 200))), data, tmp_path)
    crop = np.asarray(Image.open(tmp_path / "faces" / "0.jpg"), np.float32)
    assert float(np.abs(crop - np.asarray(upright.crop((20, 30, 120, 200)), np.float32)).mean()) < 6


def test_nobody_is_no_file(tmp_path: Path) -> None:
    assert done("face_embedding", Answers(), b"not even read", tmp_path) == {"faces": []}
    assert files(tmp_path) == []


GREY = np.tile(np.linspace(0, 65535, 200, dtype=np.uint16), (100, 1))
UNUSUAL = {"HEIC": heic(photo("chelsea.png")), "16-bit grey": encoded(Image.fromarray(GREY), "PNG")}


@pytest.mark.parametrize("name", UNUSUAL)
def test_a_crop_shows_what_the_server_saw(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a format that Pillow alone does not read, and of grey of which Pillow alone makes white."""
    monkeypatch.setattr(Image, "ID", [one for one in Image.ID if one != "HEIF"])  # what made the photo has added it
    data, corners = UNUSUAL[name], (20, 30, 120, 90)
    done("face_detection", Answers(face(corners)), data, tmp_path)
    crop = np.asarray(Image.open(tmp_path / "faces" / "0.jpg"), np.float32)
    assert crop.mean() < 200
    assert float(np.abs(crop - np.asarray(upright(data).crop(corners), np.float32)).mean()) < 6


def test_what_cannot_be_read_ends_the_job_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InvalidImage):
        done("face_detection", Answers(face((1, 1, 9, 9))), b"no photo", tmp_path)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_is_no_result(bad: float, tmp_path: Path) -> None:
    vector = np.ones(512, np.float32)
    vector[7] = bad
    with pytest.raises(ServerFault, match="NaN or infinity"):
        done("image_embedding", Answers(vector=vector), b"", tmp_path)
    assert files(tmp_path) == []


def test_a_crop_that_does_not_fit_on_the_disk_is_no_crop(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(56 * 1024))  # leaves room for a part of it
    with pytest.raises(OSError, match="No space left"):
        done("face_detection", Answers(face((0, 0, 451, 300))), encoded(photo("chelsea.png"), "PNG"), small_disk)
