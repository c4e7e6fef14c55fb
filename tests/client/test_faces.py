"""Faces through the SDK and the command line, against a real server whose networks know drawn people."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fixtures.serving import depthface, in_this_process
from PIL import Image

from depthface_client import AsyncClient, Client, Face, InvalidImage, InvalidInput, ModelUnavailable, NoFaceFound
from depthface_standins.insightface.scenes import Person, Placed, Scene, draw_crowd, draw_scene

SAME_DRAWN_PERSON = 0.7
"""The stand-in recogniser gives more than this for one person, and less for two."""


@pytest.fixture
def client(face_server) -> Iterator[Client]:
    with Client(face_server.host) as client:
        yield client


def portrait(seed: int, x_px: float = 200.0, others: tuple[Placed, ...] = ()) -> np.ndarray:
    """A large face, and smaller ones if they are given."""
    return draw_scene([Placed(Person(seed), x_px, 220.0, 90.0), *others], (480, 640), seed=seed).image


NOBODY = draw_scene([], (480, 640)).image


def matched(found: list[Face], scene: Scene) -> list[tuple[Face, int]]:
    """Each face with the person whose centre is nearest to its own."""
    centres = (scene.boxes[:, :2] + scene.boxes[:, 2:]) / 2
    return [
        (face, int(np.argmin(np.linalg.norm(centres - (face.box[:2] + face.box[2:]) / 2, axis=1)))) for face in found
    ]


def test_everybody_is_found_where_they_are(client):
    scene = draw_crowd(6, seed=1)
    found = client.faces(scene.image)
    assert sorted(person for _, person in matched(found, scene)) == list(range(6))
    for face, person in matched(found, scene):
        radius = (scene.boxes[person, 2] - scene.boxes[person, 0]) / 2
        np.testing.assert_allclose(face.box, scene.boxes[person], atol=0.2 * radius)
        np.testing.assert_allclose(face.keypoints, scene.keypoints[person], atol=0.2 * radius)
        assert 0.5 <= face.score <= 1


def test_all_that_the_model_offers_comes_but_the_crop(client):
    (found,) = client.faces(portrait(1))
    assert found.embedding is not None
    assert np.linalg.norm(found.embedding) == pytest.approx(1, abs=1e-4)
    assert found.landmarks_106 is not None
    assert found.landmarks_68 is not None
    assert found.pose is not None
    assert (found.landmarks_106.shape, found.landmarks_68.shape, found.pose.shape) == ((106, 2), (68, 3), (3,))
    assert found.gender == ("female", "male")[Person(1).gender]
    assert found.age == pytest.approx(Person(1).age, abs=5)
    assert found.aligned is None


def test_only_what_is_asked_for_comes(client):
    (bare,) = client.faces(portrait(1), parts=())
    assert [name for name, value in vars(bare).items() if value is not None] == ["box", "score", "keypoints"]
    (cropped,) = client.faces(portrait(1), parts=["crop"])
    assert cropped.embedding is None
    assert cropped.crop().size == (112, 112)
    with pytest.raises(InvalidInput, match="no part of a face"):
        client.faces(portrait(1), parts=["teeth"])


def test_nobody_is_a_normal_answer(client):
    assert client.faces(NOBODY) == []
    assert client.faces(NOBODY, parts=["crop", "attributes"]) == []


def test_the_options_reach_the_server(client):
    scene = draw_crowd(6, seed=2)
    assert len(client.faces(scene.image, max_faces=2, parts=())) == 2
    assert len(client.faces(scene.image, max_faces=0, parts=())) == 6
    assert len(client.faces(scene.image, det_size=640, parts=())) == 6
    assert client.faces(scene.image, min_score=1.0, parts=()) == []
    with pytest.raises(InvalidInput, match="32"):
        client.faces(scene.image, det_size=100)


def test_detection_alone(client):
    model = client.face_model().replace("analysis", "detection")
    (found,) = client.faces(portrait(1), model=model)
    assert found.embedding is None
    np.testing.assert_allclose(found.box, client.faces(portrait(1))[0].box, atol=1e-3)
    with pytest.raises(InvalidInput, match=f"{model} does not offer embedding"):
        client.faces(portrait(1), model=model, parts=["embedding"])
    with pytest.raises(InvalidInput, match="does not offer embedding"):
        client.compare(portrait(1), portrait(1), model=model)


def test_one_person_is_told_from_another(client):
    once, again, other = portrait(1), portrait(1, x_px=400), portrait(2)
    assert client.compare(once, again, threshold=SAME_DRAWN_PERSON).same
    verdict = client.compare(once, other, threshold=SAME_DRAWN_PERSON)
    assert not verdict.same
    assert verdict.similarity < SAME_DRAWN_PERSON == verdict.threshold


def test_the_largest_faces_are_compared(client):
    with_another = portrait(1, others=(Placed(Person(2), 500.0, 120.0, 40.0),))
    assert len(client.faces(with_another, parts=())) == 2
    assert client.compare(with_another, portrait(1), threshold=SAME_DRAWN_PERSON).same


def test_a_photo_without_a_face_is_named(client, tmp_path):
    path = tmp_path / "nobody.png"
    Image.fromarray(NOBODY).save(path)
    with pytest.raises(NoFaceFound, match="first photo"):
        client.compare(NOBODY, portrait(1))
    with pytest.raises(NoFaceFound, match=r"second photo \(.*nobody\.png\)"):
        client.compare(portrait(1), path)


def test_errors(client, tmp_path):
    with pytest.raises(InvalidImage, match="not an image"):
        client.faces(b"hello")
    with pytest.raises(InvalidImage, match=r"The first photo: .*not an image"):
        client.compare(b"hello", portrait(1))
    (bad := tmp_path / "bad.png").write_bytes(b"hello")
    with pytest.raises(InvalidImage, match=r"The second photo \(.*bad\.png\): .*not an image"):
        client.compare(portrait(1), bad)
    with pytest.raises(InvalidImage, match=r"^/.*missing\.png cannot be read"):
        client.compare(portrait(1), tmp_path / "missing.png")
    with pytest.raises(ModelUnavailable, match="depthface models"):
        client.faces(portrait(1), model="face_analysis_nobody")
    with pytest.raises(ModelUnavailable, match="face_swap_nobody"):
        client.swap(portrait(1), portrait(2), model="face_swap_nobody")
    with pytest.raises(ModelUnavailable, match="face_swap_nobody"):
        client.unload("face_swap_nobody")


def test_the_server_says_what_it_serves(client):
    served = {model.name: model for model in client.models() if model.ready}
    name = client.face_model()
    assert name.startswith("face_analysis_")
    assert served[name].weights == client.weights(name) != "unknown"
    assert not any(model.endswith(("_detector", "_recognizer")) for model in served)
    assert name in client.check()


def test_the_same_under_asyncio(face_server, client):
    async def run() -> tuple[list[Face], bool, str]:
        async with AsyncClient(face_server.host) as other:
            with pytest.raises(NoFaceFound, match="second"):
                await other.compare(portrait(1), NOBODY)
            with pytest.raises(InvalidInput, match="no part"):
                await other.faces(NOBODY, parts=["teeth"])
            verdict = await other.compare(portrait(1), portrait(1), threshold=SAME_DRAWN_PERSON)
            return await other.faces(portrait(1)), verdict.same, await other.weights(await other.face_model())

    (found,), same, weights = asyncio.run(run())
    assert found.as_dict() == client.faces(portrait(1))[0].as_dict()
    assert same
    assert weights == client.weights(client.face_model())


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Two people, apart, and nobody."""
    paths = [tmp_path / name for name in ("one.png", "two.png", "nobody.png")]
    for path, array in zip(paths, (portrait(1), portrait(2), NOBODY), strict=True):
        Image.fromarray(array).save(path)
    return paths


def test_a_line_for_each_face(face_server, client, photos):
    done = depthface("faces", *photos, "--url", face_server.host)
    assert done.returncode == 0, done.stderr
    assert f"{photos[0]}: 1 face\n  1  score" in done.stdout
    assert f"{photos[2]}: no faces\n" in done.stdout
    is_stand_in = client.weights(client.face_model()).startswith("synthetic")
    assert ("SYNTHETIC WEIGHTS" in done.stderr) == is_stand_in


def test_json_is_one_document_and_a_bad_photo_stops_none(face_server, photos, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"not a photo")
    done = depthface("faces", photos[0], bad, photos[2], "--json", "--det-size", "640", "--url", face_server.host)
    assert done.returncode == 1
    first, second, third = json.loads(done.stdout)["photos"]
    assert np.shape(first["faces"][0]["landmarks_106"]) == (106, 2)
    assert "not an image" in second["error"]
    assert third["faces"] == []
    assert "bad.jpg" in done.stderr


def test_drawings(face_server, photos, tmp_path):
    out = tmp_path / "drawn"
    done = depthface("faces", *photos, "--draw", out, "--url", face_server.host)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in out.iterdir()) == ["nobody_faces.png", "one_faces.png", "two_faces.png"]
    with Image.open(out / "one_faces.png") as picture:
        assert picture.size == (640, 480)
        assert picture.text["Source"].startswith("depthface: ")


def test_compare_on_the_command_line_exits_0_both_ways(face_server, photos):
    for other, verdict in ((photos[0], "the same person: cosine 1.0000"), (photos[1], "different people: cosine")):
        done = depthface("compare", photos[0], other, "--threshold", SAME_DRAWN_PERSON, "--url", face_server.host)
        assert done.returncode == 0, done.stderr
        assert verdict in done.stdout
        assert f"threshold {SAME_DRAWN_PERSON}" in done.stdout
    done = depthface("compare", photos[0], photos[2], "--url", face_server.host)
    assert done.returncode == 1
    assert "nobody.png" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_the_server_lacks_is_a_sentence(face_server, photos, tmp_path):
    for arguments in (
        ("unload", "face_swap_nobody"),
        ("swap", "--source", photos[0], "--target", photos[1], "--out", tmp_path / "x.png", "--model", "face_swap_no"),
    ):
        done = in_this_process(*arguments, "--url", face_server.host)
        assert done.returncode == 1
        assert "face_swap_no" in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "x.png").exists()


def test_help_says_what_coordinates_are():
    assert "pixels of the upright photo" in depthface("faces", "--help").stdout
