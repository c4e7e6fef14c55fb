"""The array maths against insightface's own functions."""

from __future__ import annotations

import numpy as np
import pytest
from fixtures.face_networks import FACE_BOX, FACE_KEYPOINTS, PHOTO, bgr

from depthface.families.insightface import processing

pytest.importorskip("insightface.model_zoo", reason="insightface is not installed")
# skimage warns of a method that insightface calls.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


def faces(count: int) -> list[np.ndarray]:
    """Five keypoints each: turned, scaled and jittered templates, every fifth of them no face at all."""
    random = np.random.default_rng(0)
    found = []
    for index in range(count):
        turn, scale = random.uniform(-np.pi, np.pi), random.uniform(0.3, 4)
        matrix = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        points = (np.array(processing.TEMPLATE_112_PX) - 56) @ matrix.T + random.normal(size=(5, 2)) * 2 * scale + 256
        found.append((random.normal(size=(5, 2)) * 40 + 256 if index % 5 == 0 else points).astype(np.float32))
    return found


@pytest.mark.parametrize("side", [640, 128])
@pytest.mark.parametrize("shape", [(512, 512), (300, 487), (487, 300), (33, 640), (641, 64), (1200, 1999)])
def test_letterbox_is_insightface_s(monkeypatch, shape, side):
    from insightface.model_zoo import scrfd

    photo = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    seen = {}

    def forward(self, picture, threshold):
        seen["picture"] = picture
        box = np.array([[10, 20, 30, 40]], np.float32)
        return [np.ones((1, 1), np.float32)], [box], [np.zeros((1, 5, 2), np.float32)]

    monkeypatch.setattr(scrfd.SCRFD, "forward", forward)
    model = scrfd.SCRFD.__new__(scrfd.SCRFD)
    model.use_kps = True
    boxes, _ = model._detect_candidates(bgr(photo), (side, side), 0.5)
    square, scale = processing.letterbox(photo, side)
    np.testing.assert_array_equal(bgr(square), seen["picture"])
    np.testing.assert_allclose(boxes[0, :4] * scale, [10, 20, 30, 40], rtol=1e-6)


@pytest.mark.parametrize("shape", [(1, 2000), (2000, 1), (1, 1)])
def test_letterbox_keeps_a_pixel_of_the_thinnest_photo(shape):
    square, scale = processing.letterbox(np.full((*shape, 3), 255, np.uint8))
    assert square.any()
    assert scale > 0


@pytest.mark.parametrize("size", [112, 128, 224, 256])
def test_aligned_crops_are_insightface_s(size):
    from insightface.utils import face_align

    for keypoints in faces(60):
        ours, matrix = processing.align(PHOTO, keypoints, size)
        theirs, their_matrix = face_align.norm_crop2(bgr(PHOTO), keypoints, size)
        np.testing.assert_allclose(matrix, their_matrix, rtol=1e-9, atol=1e-9)
        np.testing.assert_array_equal(bgr(ours), theirs)


def test_alignment_never_mirrors():
    from insightface.utils import face_align

    mirrored = (FACE_KEYPOINTS * (-1, 1) + (512, 0)).astype(np.float32)
    ours = processing.alignment(mirrored, 112)
    assert np.linalg.det(ours[:, :2]) > 0
    np.testing.assert_allclose(ours, face_align.estimate_norm(mirrored), rtol=1e-9, atol=1e-9)


def test_keypoints_on_a_level_line_are_not_mirrored_either():
    """Where the covariance has no inverse, its determinant does not tell."""
    from insightface.utils import face_align

    random = np.random.default_rng(0)
    for _ in range(50):
        level = np.column_stack((random.uniform(0, 512, 5), np.full(5, random.uniform(0, 512)))).astype(np.float32)
        ours = processing.alignment(level, 112)
        assert np.linalg.det(ours[:, :2]) > 0
        np.testing.assert_allclose(ours, face_align.estimate_norm(level), rtol=1e-6, atol=1e-6)


def test_keypoints_in_one_place_give_a_crop_all_the_same():
    crop, _ = processing.align(PHOTO, np.full((5, 2), 100, np.float32), 112)
    assert crop.shape == (112, 112, 3)
    assert processing.pose(np.zeros((68, 3), np.float32)).shape == (3,)
    crop, matrix = processing.crop_box(PHOTO, np.full(4, 100, np.float32), 192)
    assert np.isfinite(processing.place_landmarks(np.zeros(212, np.float32), matrix)).all()


def test_an_impossible_size_is_refused():
    with pytest.raises(ValueError, match="112 or 128"):
        processing.alignment(FACE_KEYPOINTS, 100)


@pytest.mark.parametrize("size", [192, 96])
def test_box_crops_are_insightface_s(size):
    from insightface.utils import face_align

    random = np.random.default_rng(0)
    for _ in range(50):
        corner, sides = random.uniform(-50, 450, 2), random.uniform(5, 400, 2)
        box = np.concatenate([corner, corner + sides]).astype(np.float32)
        w, h = box[2] - box[0], box[3] - box[1]
        center = (box[2] + box[0]) / 2, (box[3] + box[1]) / 2
        theirs, their_matrix = face_align.transform(bgr(PHOTO), center, size, size / (max(w, h) * 1.5), 0)
        ours, matrix = processing.crop_box(PHOTO, box, size)
        np.testing.assert_allclose(matrix, their_matrix, rtol=1e-15, atol=0)
        np.testing.assert_array_equal(bgr(ours), theirs)


LENGTH_PX = 33_000
"""Of a photo of which OpenCV makes no crop."""


def lengthened(photo: np.ndarray) -> np.ndarray:
    """A photo with so much black to its left."""
    return np.pad(photo, ((0, 0), (LENGTH_PX - photo.shape[1], 0), (0, 0)))


@pytest.mark.parametrize("is_high", [False, True])
@pytest.mark.parametrize(
    "box",
    [(190, 10, 280, 120), (20, -30, 90, 100), (430, 90, 560, 180), (-300, 20, -200, 100), (600, 20, 700, 120)],
    ids=["within", "over the top", "over the corner", "beside it on the left", "beside it on the right"],
)
def test_of_a_photo_too_long_for_opencv_a_crop_is_the_same(box, is_high):
    photo = PHOTO[60:190]
    long, there = lengthened(photo), np.array(box, np.float32)
    here = there + np.float32([LENGTH_PX - photo.shape[1], 0] * 2)
    if is_high:
        photo, long = (np.ascontiguousarray(each.swapaxes(0, 1)) for each in (photo, long))
        here, there = here[[1, 0, 3, 2]], there[[1, 0, 3, 2]]
    expected, _ = processing.crop_box(photo, there, 192)
    got, matrix = processing.crop_box(long, here, 192)
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_allclose(matrix @ [*here[:2], 1], (192 - (here[2:] - here[:2]) * matrix[0, 0]) / 2, atol=1e-3)


def test_a_face_too_long_for_opencv_is_cut_out():
    photo = np.full((130, LENGTH_PX, 3), 200, np.uint8)
    crop, _ = processing.crop_box(photo, np.array([0, 0, LENGTH_PX, 130], np.float32), 192)
    assert (crop[96, 40:150] == 200).all()


def test_a_face_is_pasted_into_a_photo_too_long_for_opencv():
    photo, keypoints = PHOTO[60:190], FACE_KEYPOINTS - np.float32([0, 60])
    long, shift = lengthened(photo), LENGTH_PX - photo.shape[1]
    expected = processing.paste_back(photo, *processing.align(photo, keypoints, 128))
    pasted = processing.paste_back(long, *processing.align(long, keypoints + np.float32([shift, 0]), 128))
    assert np.abs(pasted[:, shift:].astype(int) - expected).mean() < 0.5
    assert not pasted[:, :shift].any()


def test_landmarks_are_placed_as_insightface_does():
    import cv2
    from insightface.utils import face_align

    random = np.random.default_rng(0)
    _, matrix = processing.crop_box(PHOTO, FACE_BOX, 192)
    for columns, dims, count in ((212, 2, 106), (3309, 3, 68)):
        raw = random.uniform(-1, 1, columns).astype(np.float32)
        points = raw.reshape(-1, dims)[-count:].copy()
        points[:, :2] += 1
        points *= 96
        expected = face_align.trans_points(points, cv2.invertAffineTransform(matrix))
        placed = processing.place_landmarks(raw, matrix)
        assert placed.dtype == np.float32
        np.testing.assert_allclose(placed, expected, rtol=0, atol=1e-3)


def test_mean_shape_is_insightface_s():
    from insightface.data import get_object

    np.testing.assert_array_equal(processing.mean_shape_68(), get_object("meanshape_68.pkl"))


def test_pose_is_insightface_s():
    from insightface.utils import transform

    random = np.random.default_rng(0)
    mean = processing.mean_shape_68()
    for _ in range(100):
        turn, _ = np.linalg.qr(random.normal(size=(3, 3)))
        points = (mean @ turn.T * 80 + random.normal(size=mean.shape) * 2 + 200).astype(np.float32)
        _, rotation, _ = transform.P2sRt(transform.estimate_affine_matrix_3d23d(mean, points))
        np.testing.assert_allclose(processing.pose(points), transform.matrix2angle(rotation), rtol=0, atol=1e-2)


def test_gender_and_age_are_read_as_insightface_does():
    random = np.random.default_rng(0)
    halves = np.arange(0, 1, 0.005)  # between two ages, both ways from even to odd
    for raw in np.vstack([random.uniform(-1, 1, (200, 3)), np.stack([halves] * 3, axis=1)]).astype(np.float32):
        assert processing.gender_and_age(raw) == (np.argmax(raw[:2]), int(np.round(raw[2] * 100)))


# Height and width, far from square: along the shorter side everybody is near the middle.
NARROW, WIDE = (900, 200), (200, 900)


def some_boxes(photo_size: tuple[int, int]) -> np.ndarray:
    """Six small faces, all over a photo."""
    random = np.random.default_rng(0)
    corners, sides = random.uniform(0, photo_size[::-1], (6, 2)), random.uniform(5, 20, (6, 2))
    return np.hstack([corners, corners + sides]).astype(np.float32)


@pytest.mark.parametrize("photo_size", [NARROW, WIDE])
def test_which_faces_are_chosen_depends_on_which_way_the_photo_lies(photo_size):
    """So that the comparison below can tell x from y, and what counts from the area alone."""
    boxes = some_boxes(photo_size)
    chosen = processing.select(boxes, photo_size, 3).tolist()
    assert chosen != processing.select(boxes, photo_size[::-1], 3).tolist()
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    assert chosen != np.argsort(areas)[::-1][:3].tolist()


@pytest.mark.parametrize("photo_size", [NARROW, WIDE])
@pytest.mark.parametrize("max_faces", [0, 1, 3, 5, 6, 9])
def test_selection_is_insightface_s(monkeypatch, max_faces, photo_size):
    from insightface.model_zoo import scrfd

    boxes = some_boxes(photo_size)
    rows = np.hstack([boxes, np.linspace(0.9, 0.6, 6, dtype=np.float32)[:, None]])
    model = scrfd.SCRFD.__new__(scrfd.SCRFD)
    model.use_kps, model.static_input_size, model.nms_thresh = True, None, 0.4
    monkeypatch.setattr(model, "_detect_candidates", lambda *_: (rows, np.zeros((6, 5, 2), np.float32)))
    photo = np.zeros((*photo_size, 3), np.uint8)
    expected, _ = model.detect(photo, (640, 640), max_num=max_faces)
    chosen = processing.select(boxes, photo_size, max_faces)
    np.testing.assert_array_equal(boxes[chosen], expected[:, :4])
    assert len(chosen) == min(max_faces or 6, 6)


@pytest.mark.parametrize("place", ["inside", "at the edge", "over the corner", "small", "large"])
def test_paste_back_is_insightface_s(place):
    from insightface.app.common import Face
    from insightface.model_zoo.inswapper import INSwapper
    from insightface.utils import face_align

    moved = {
        "inside": FACE_KEYPOINTS,
        "at the edge": FACE_KEYPOINTS - (150, 0),
        "over the corner": FACE_KEYPOINTS - (220, 130),
        "small": (FACE_KEYPOINTS - 200) / 4 + 200,
        "large": (FACE_KEYPOINTS - 200) * 3.5 + 200,
    }
    keypoints = moved[place].astype(np.float32)
    face = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)

    class Session:
        def run(self, names, feed):
            # Halfway between two greys, so that the reference's own arithmetic rounds to the same one.
            return [((face.astype(np.float32) + 0.5) / 255).transpose(2, 0, 1)[None]]

    model = INSwapper.__new__(INSwapper)
    model.session, model.input_names, model.output_names = Session(), ["target", "source"], ["output"]
    model.input_size, model.input_mean, model.input_std = (128, 128), 0.0, 255.0
    model.emap = np.eye(512, dtype=np.float32)
    source = Face(embedding=np.ones(512, np.float32))
    expected = model.get(bgr(PHOTO), Face(kps=keypoints), source)
    before = PHOTO.copy()
    # With insightface's own matrix, so that this is the blending alone.
    pasted = processing.paste_back(PHOTO, face, face_align.estimate_norm(keypoints, 128))
    np.testing.assert_array_equal(bgr(pasted), expected)
    np.testing.assert_array_equal(PHOTO, before)


def test_a_face_outside_the_photo_changes_nothing():
    face = np.zeros((128, 128, 3), np.uint8)
    matrix = processing.alignment(FACE_KEYPOINTS + np.float32(5000), 128)
    np.testing.assert_array_equal(processing.paste_back(PHOTO, face, matrix), PHOTO)
