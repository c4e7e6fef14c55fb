"""End to end through Triton against `insightface.app.FaceAnalysis`, on the same files and the same pixels."""

from __future__ import annotations

import numpy as np
import pytest
from fixtures.faces import (
    AUTO,
    FACES,
    Answer,
    Reference,
    analysis_of,
    ask,
    crowd,
    detection_of,
    differences,
    heads,
    many_heads,
    opened,
    turned,
)
from fixtures.photos import VARIETY, encoded, photo
from PIL import Image

# skimage warns of a method that insightface calls.
pytestmark = pytest.mark.filterwarnings("ignore:.*:FutureWarning:insightface")

LIMITS = {
    "boxes": 0.01,
    "keypoints": 0.01,
    "scores": 1e-5,
    "embeddings": 1e-4,  # 1 − cosine
    "landmarks_106": 0.05,
    "landmarks_68": 0.05,
    "pose": 0.05,
    "gender": 0,
    "age": 0,
}

DRAWN = (0, 1, 2, 6, 33, 200)


def assert_equal(got: Answer, expected: Answer, name: str) -> None:
    worst = differences(got, expected)
    # A NaN is not over any limit, but it is not within one either.
    assert {output: value for output, value in worst.items() if not value <= LIMITS[output]} == {}, name


def forms(picture: Image.Image) -> dict[str, bytes]:
    """One photo in every form that it may come in."""
    grey = picture.convert("L")
    return {
        "grey JPEG": encoded(grey, "JPEG", quality=92),
        "grey PNG": encoded(grey, "PNG"),
        "tiny 40×30": encoded(picture.resize((40, 30)), "PNG"),
        "huge 4000×3000": encoded(picture.resize((4000, 3000)), "JPEG", quality=85),
        "narrow": encoded(picture.resize((300, 900)), "JPEG", quality=90),
        **{f"EXIF {orientation}": turned(picture, orientation) for orientation in (3, 6, 8)},
    }


@pytest.fixture(scope="module")
def photos(face_pack, request) -> dict[str, bytes]:
    """Photos that the pack finds faces in."""
    if not face_pack.is_genuine:
        drawn = {f"{count} drawn": crowd(count, seed) for seed, count in enumerate(DRAWN)}
        from depthface_standins.insightface import scenes

        return drawn | forms(Image.fromarray(scenes.draw_crowd(2, 5).image))
    real_photos = request.getfixturevalue("real_photos")
    some = heads(real_photos)
    two = next(path for path in real_photos if path.name == "two_people.jpg")
    return (
        {path.name: path.read_bytes() for path in real_photos}
        | {"astronaut": encoded(photo(), "PNG")}
        | {"tiny head": encoded(some[0].resize((30, 40)), "PNG"), "a head fills it": encoded(some[0], "PNG")}
        | {f"{count} heads": encoded(many_heads(some, count), "JPEG", quality=92) for count in (6, 36)}
        | forms(opened(two))
    )


@pytest.fixture(scope="module")
def face_reference(face_pack) -> Reference:
    return Reference(face_pack.folder)


@pytest.mark.parametrize("det_size", [AUTO, 640])
def test_the_analysis_equals_insightface(face_server, face_pack, face_reference, photos, det_size):
    for name, data in photos.items():
        got = ask(face_server, analysis_of(face_pack.name), data, det_size=det_size)
        assert_equal(got, face_reference(data, det_size), f"{name} at {det_size}")


def test_there_was_something_to_compare(face_server, face_pack, photos):
    """No, one, two, six and more than thirty faces were among the photos, and forms of them too."""
    counts = {
        name: len(ask(face_server, detection_of(face_pack.name), data, ["scores"])["scores"])
        for name, data in photos.items()
    }
    if face_pack.is_genuine:
        assert {0, 1, 2, 6} <= set(counts.values())
        assert counts["36 heads"] >= 30
        assert counts["a head fills it"] == counts["tiny head"] == 1
        assert counts["grey JPEG"] == 2
    else:
        assert [counts[f"{count} drawn"] for count in DRAWN] == list(DRAWN)
        assert counts["grey JPEG"] == 0  # the drawn people are known by their colours
    assert [counts[f"EXIF {orientation}"] for orientation in (3, 6, 8)] == [2, 2, 2]
    assert counts["huge 4000×3000"] == 2


def test_every_kind_of_file_equals_insightface(face_server, face_pack, face_reference):
    """scikit-image's photographs as CMYK, 16 bits, palette, WebP, in every orientation …; the astronaut has a face."""
    for name, data in VARIETY.items():
        got = ask(face_server, analysis_of(face_pack.name), data)
        assert_equal(got, face_reference(data), name)
        assert len(got["boxes"]) == 1 or not face_pack.is_genuine or name not in ("square PNG", "grey PNG", "CMYK JPEG")


@pytest.mark.parametrize("det_size", [AUTO, 640])
def test_the_detection_gives_the_faces_of_the_analysis(face_server, face_pack, photos, det_size):
    for name, data in photos.items():
        faces = ask(face_server, detection_of(face_pack.name), data, det_size=det_size)
        analysed = ask(face_server, analysis_of(face_pack.name), data, [*FACES, "size"], det_size=det_size)
        assert set(faces) == set(analysed) == {*FACES, "size"}
        for output, value in faces.items():
            np.testing.assert_array_equal(value, analysed[output], f"{name}: {output}")


def test_without_a_det_size_it_is_auto(face_server, face_pack, photos):
    data = photos["2 drawn" if not face_pack.is_genuine else "a head fills it"]
    model = detection_of(face_pack.name)
    left_out, auto = ask(face_server, model, data), ask(face_server, model, data, det_size=AUTO)
    for output in FACES:
        np.testing.assert_array_equal(left_out[output], auto[output])


def test_another_det_size_equals_insightface_too(face_server, face_pack, face_reference, photos):
    data = photos["2 drawn" if not face_pack.is_genuine else "two_people.jpg"]
    for det_size in (320, 1024):
        got = ask(face_server, analysis_of(face_pack.name), data, det_size=det_size)
        assert len(got["boxes"]) == 2
        assert_equal(got, face_reference(data, det_size), f"{det_size}")


@pytest.mark.parametrize("det_size", [AUTO, 640])
def test_a_low_threshold_equals_insightface_too(face_server, face_pack, face_reference, photos, det_size):
    """Doubtful faces too, many of them: small boxes, some half outside the photo."""
    data = photos["6 drawn" if not face_pack.is_genuine else "two_people.jpg"]
    got = ask(face_server, analysis_of(face_pack.name), data, min_score=0.05, det_size=det_size)
    assert len(got["boxes"]) > 40 or not face_pack.is_genuine
    assert_equal(got, face_reference(data, det_size, min_score=0.05), "0.05")
