"""The served graphs against insightface itself."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from fixtures import face_networks as networks
from fixtures.face_networks import FACE_BOX, FACE_KEYPOINTS, PHOTO, bgr

from depthface.errors import ExportError
from depthface.families.insightface import processing
from depthface.families.insightface.graphs import crops, kinds, scrfd

pytest.importorskip("insightface.model_zoo", reason="insightface is not installed")
# skimage warns of a method that insightface calls.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

CPU = ["CPUExecutionProvider"]


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=CPU)


def run(running: onnxruntime.InferenceSession, **feed: np.ndarray) -> dict[str, np.ndarray]:
    names = [each.name for each in running.get_outputs()]
    return dict(zip(names, running.run(names, feed), strict=True))


def saved(model: onnx.ModelProto, folder: Path) -> str:
    path = folder / "model.onnx"
    onnx.save(model, path)
    return str(path)


def reference(cls: str, path: str):
    """An insightface model on one thread of the CPU."""
    from insightface import model_zoo
    from insightface.model_zoo import arcface_onnx, attribute, inswapper, landmark, scrfd

    assert model_zoo
    modules = {
        "SCRFD": scrfd, "ArcFaceONNX": arcface_onnx, "Landmark": landmark,
        "Attribute": attribute, "INSwapper": inswapper,
    }  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return getattr(modules[cls], cls)(path, session=onnxruntime.InferenceSession(path, options, providers=CPU))


def detector_feed(photos: list[np.ndarray], min_score: float, two_sizes: bool) -> dict[str, np.ndarray]:
    sizes = {"": 640, "_small": 128} if two_sizes else {"": 640}
    feed = {"min_score": np.full((len(photos), 1), min_score, np.float32)}
    for suffix, side in sizes.items():
        boxed = [processing.letterbox(photo, side) for photo in photos]
        feed[f"pixels{suffix}"] = np.stack([pixels for pixels, _ in boxed])
        feed[f"scale{suffix}"] = np.array([[scale] for _, scale in boxed], np.float32)
    return feed


def expected_faces(path: str, photo: np.ndarray, min_score: float, two_sizes: bool):
    model = reference("SCRFD", path)
    model.prepare(-1, input_size=[(128, 128), (640, 640)] if two_sizes else (640, 640), det_thresh=min_score)
    return model.detect(bgr(photo))


def assert_same_faces(out: dict[str, np.ndarray], row: int, boxes: np.ndarray, keypoints: np.ndarray | None) -> None:
    count = int(out["count"][row, 0])
    assert count == len(boxes)
    np.testing.assert_allclose(out["boxes"][row, :count], boxes[:, :4], rtol=0, atol=0.01)
    np.testing.assert_allclose(out["scores"][row, :count], boxes[:, 4], rtol=0, atol=1e-5)
    assert not out["boxes"][row, count:].any()
    assert not out["scores"][row, count:].any()
    if keypoints is None:
        assert "keypoints" not in out
    else:
        np.testing.assert_allclose(out["keypoints"][row, :count], keypoints, rtol=0, atol=0.01)
        assert not out["keypoints"][row, count:].any()


@pytest.mark.parametrize("two_sizes", [False, True], ids=["640", "auto"])
def test_genuine_detector_finds_what_insightface_finds(two_sizes):
    path = networks.weights("det_500m.onnx")
    running = session(scrfd.detector(onnx.load(path), two_sizes=two_sizes))
    photos = [*networks.photos(), np.zeros((33, 71, 3), np.uint8), np.ascontiguousarray(PHOTO[40:220, 140:300])]
    seen = 0
    for min_score in (0.5, 0.2):
        for photo in photos:
            boxes, keypoints = expected_faces(str(path), photo, min_score, two_sizes)
            out = run(running, **detector_feed([photo], min_score, two_sizes))
            assert_same_faces(out, 0, boxes, keypoints)
            seen += len(boxes)
    assert seen >= 4


@pytest.mark.parametrize("two_sizes", [False, True], ids=["640", "auto"])
def test_genuine_detector_finds_a_crowd(two_sizes):
    path = networks.weights("det_500m.onnx")
    boxes, _ = expected_faces(str(path), PHOTO, 0.5, False)
    picture = networks.crowd(PHOTO, boxes[0, :4], 80, 16)
    boxes, keypoints = expected_faces(str(path), picture, 0.5, two_sizes)
    assert len(boxes) > 200
    running = session(scrfd.detector(onnx.load(path), two_sizes=two_sizes))
    assert_same_faces(run(running, **detector_feed([picture], 0.5, two_sizes)), 0, boxes, keypoints)


@pytest.mark.parametrize("det_size", [320, 640])
def test_of_one_size_nothing_is_found_but_in_the_photo(tmp_path, det_size):
    """The graph has two passes; what is fed to the small one then would be a face to these detectors, if it were seen.

    The genuine one gives black 0.156.
    """
    seeded = networks.scrfd()
    cases = [(saved(seeded, tmp_path), seeded, 0.3, [PHOTO])]
    if os.environ.get("DEPTHFACE_WEIGHTS"):
        path = networks.weights("det_500m.onnx")
        cases += [(str(path), onnx.load(path), min_score, networks.photos()) for min_score in (0.05, 0.1)]
    for path, model, min_score, photos in cases:
        detecting, running = reference("SCRFD", path), session(scrfd.detector(model, two_sizes=True, max_faces=32768))
        for photo in photos:
            boxes, keypoints = detecting.detect(bgr(photo), input_size=(det_size, det_size), det_thresh=min_score)
            fed = {name: value[None] for name, value in processing.letterboxes(photo, min_score, det_size).items()}
            assert_same_faces(run(running, **fed), 0, boxes, keypoints)
            fed["scale"] = -fed["scale"]
            assert run(running, **fed)["count"] == 0
            assert run(running, **fed | {"scale_small": np.ones((1, 1), np.float32)})["count"] > 0


@pytest.mark.parametrize("keypoints", [True, False], ids=["9 outputs", "6 outputs"])
@pytest.mark.parametrize("two_sizes", [False, True], ids=["640", "auto"])
@pytest.mark.parametrize("min_score", [0.5, 0.999])
def test_seeded_detector_suppresses_as_insightface_does(tmp_path, keypoints, two_sizes, min_score):
    model = networks.scrfd(keypoints=keypoints)
    running = session(scrfd.detector(model, two_sizes=two_sizes, max_faces=8192))
    path = saved(model, tmp_path)
    boxes, points = expected_faces(path, PHOTO, min_score, two_sizes)
    out = run(running, **detector_feed([PHOTO], min_score, two_sizes))
    assert_same_faces(out, 0, boxes, points)


def test_equal_scores_keep_insightface_order(tmp_path):
    model = networks.scrfd(equal_scores=True)
    running = session(scrfd.detector(model, two_sizes=True, max_faces=8192))
    boxes, points = expected_faces(saved(model, tmp_path), PHOTO, 0.5, True)
    assert len(boxes) > 100
    assert len(np.unique(boxes[:, 4])) == 1
    assert_same_faces(run(running, **detector_feed([PHOTO], 0.5, True)), 0, boxes, points)


def test_more_faces_than_rows_leaves_the_best(tmp_path):
    model = networks.scrfd()
    boxes, points = expected_faces(saved(model, tmp_path), PHOTO, 0.5, False)
    assert len(boxes) > 5
    out = run(session(scrfd.detector(model, max_faces=5)), **detector_feed([PHOTO], 0.5, False))
    assert_same_faces(out, 0, boxes[:5], points[:5])


@pytest.mark.parametrize("two_sizes", [False, True], ids=["640", "auto"])
def test_a_batch_of_photos_is_each_of_them(two_sizes):
    running = session(scrfd.detector(networks.scrfd(), two_sizes=two_sizes, max_faces=4096))
    photos = [PHOTO, np.zeros((64, 64, 3), np.uint8), np.ascontiguousarray(PHOTO[100:, :200]), PHOTO[::-1].copy()]
    together = run(running, **detector_feed(photos, 0.5, two_sizes))
    for row, photo in enumerate(photos):
        alone = run(running, **detector_feed([photo], 0.5, two_sizes))
        for name, values in alone.items():
            np.testing.assert_allclose(together[name][row], values[0], rtol=0, atol=1e-4 if name != "scores" else 1e-6)
    assert len(set(together["count"][:, 0])) > 1


def test_genuine_batch_is_each_of_its_photos():
    running = session(scrfd.detector(onnx.load(networks.weights("det_500m.onnx")), two_sizes=True))
    photos = networks.photos()
    together = run(running, **detector_feed(photos, 0.2, True))
    for row, photo in enumerate(photos):
        alone = run(running, **detector_feed([photo], 0.2, True))
        for name, values in alone.items():
            np.testing.assert_allclose(together[name][row], values[0], rtol=1e-5, atol=1e-5)


def test_each_photo_of_a_batch_has_its_own_least_score():
    running = session(scrfd.detector(networks.scrfd()))
    feed = detector_feed([PHOTO, PHOTO], 0.5, False)
    feed["min_score"] = np.array([[0.5], [1.5]], np.float32)
    assert run(running, **feed)["count"][:, 0].tolist()[1] == 0
    assert run(running, **feed)["count"][0, 0] > 0


def test_detector_takes_other_sizes(tmp_path):
    model = networks.scrfd()
    reference_model = reference("SCRFD", saved(model, tmp_path))
    picture = np.ascontiguousarray(PHOTO[:320, :480])
    boxes, points = reference_model.detect(bgr(picture), input_size=(480, 320))
    feed = {
        "pixels": picture[None],
        "scale": np.ones((1, 1), np.float32),
        "min_score": np.full((1, 1), 0.5, np.float32),
    }
    assert_same_faces(run(session(scrfd.detector(model, max_faces=4096)), **feed), 0, boxes, points)
    feed["pixels"] = np.ascontiguousarray(picture[None, :32, :32])  # fewer anchors than rows
    assert run(session(scrfd.detector(model)), **feed)["boxes"].shape == (1, 512, 4)


def test_detector_network_computes_no_shapes():
    model = scrfd.detector(networks.scrfd())
    names = {name for node in model.graph.node for name in node.output}
    shapes = [node for node in model.graph.node if node.op_type == "Shape"]
    assert names
    assert all(not node.input[0].startswith("net/") for node in shapes)


def test_genuine_recognizer_gives_insightface_embeddings():
    path = networks.weights("mobilefacenet_128d.onnx")
    original = onnx.load(path)
    mean, std = kinds.normalization(original)
    running = session(crops.recognizer(original, mean=mean, std=std))
    model = reference("ArcFaceONNX", str(path))
    assert (model.input_mean, model.input_std) == (mean, std)
    from insightface.app.common import Face
    from insightface.utils import face_align

    detector_path = str(networks.weights("det_500m.onnx"))
    worst_crop = worst_face = 1.0
    for photo in networks.photos():
        for keypoints in expected_faces(detector_path, photo, 0.5, False)[1]:
            face = Face(kps=keypoints)
            model.get(bgr(photo), face)
            theirs = face_align.norm_crop(bgr(photo), keypoints, 112)
            ours, _ = processing.align(photo, keypoints, 112)
            both = run(running, faces=np.stack([theirs[..., ::-1], ours]))["embeddings"]
            np.testing.assert_allclose(np.linalg.norm(both, axis=1), 1, atol=1e-6)
            worst_crop = min(worst_crop, float(both[0] @ face.normed_embedding))
            worst_face = min(worst_face, float(both[1] @ face.normed_embedding))
    assert worst_crop >= 0.99999
    assert worst_face >= 0.9999


@pytest.mark.parametrize("first", ["minus", "conv"])
def test_seeded_recognizer_gives_insightface_embeddings(tmp_path, first):
    original = networks.regressor(112, 512, first)
    mean, std = kinds.normalization(original)
    model = reference("ArcFaceONNX", saved(original, tmp_path))
    crop, _ = processing.align(PHOTO, FACE_KEYPOINTS, 112)
    served = crops.recognizer(original, mean=mean, std=std)
    out = run(session(served), faces=np.stack([crop, crop[::-1]]))["embeddings"]
    assert out.shape == (2, 512)
    for row, picture in enumerate((crop, crop[::-1])):
        expected = model.get_feat(bgr(picture))[0]
        np.testing.assert_allclose(out[row], expected / np.linalg.norm(expected), atol=1e-6)


@pytest.mark.parametrize("first", ["bn_data", "minus", "conv"])
@pytest.mark.parametrize("columns", [212, 3309])
def test_landmarks_and_pose_are_insightface_s(tmp_path, columns, first):
    from insightface.app.common import Face

    original = networks.regressor(192, columns, first)
    mean, std = kinds.normalization(original)
    model = reference("Landmark", saved(original, tmp_path))
    assert (model.input_mean, model.input_std) == (mean, std)
    face = Face(bbox=FACE_BOX)
    expected = model.get(bgr(PHOTO), face)
    crop, matrix = processing.crop_box(PHOTO, FACE_BOX, 192)
    raw = run(session(crops.landmarks(original, mean=mean, std=std)), faces=np.stack([crop * 0, crop]))["landmarks"]
    assert raw.shape == (2, columns)
    points = processing.place_landmarks(raw[1], matrix)
    np.testing.assert_allclose(points, expected, rtol=0, atol=0.05)
    if columns == 3309:
        np.testing.assert_allclose(processing.pose(points), face.pose, rtol=0, atol=0.05)


@pytest.mark.parametrize("first", ["bn_data", "conv"])
def test_gender_and_age_are_insightface_s(tmp_path, first):
    from insightface.app.common import Face

    seen = set()
    for seed in range(6):
        original = networks.regressor(96, 3, first, seed)
        mean, std = kinds.normalization(original)
        model = reference("Attribute", saved(original, tmp_path))
        assert (model.input_mean, model.input_std) == (mean, std)
        expected = model.get(bgr(PHOTO), Face(bbox=FACE_BOX))
        crop, _ = processing.crop_box(PHOTO, FACE_BOX, 96)
        raw = run(session(crops.attributes(original, mean=mean, std=std)), faces=np.stack([crop, crop]))["attributes"]
        assert processing.gender_and_age(raw[1]) == expected
        seen.add(expected)
    assert len(seen) > 3


def test_swap_is_insightface_s(tmp_path):
    from insightface.app.common import Face

    original = networks.swapper()
    model = reference("INSwapper", saved(original, tmp_path))
    np.testing.assert_array_equal(crops.emap(original), model.emap)
    running = session(crops.swapper(original))
    source = Face(embedding=np.random.default_rng(1).normal(size=512).astype(np.float32))
    target = Face(kps=FACE_KEYPOINTS)
    expected, _ = model.get(bgr(PHOTO), target, source, paste_back=False)
    crop, matrix = processing.align(PHOTO, FACE_KEYPOINTS, 128)
    embeddings = np.stack([source.normed_embedding, -source.normed_embedding])
    faces = run(running, faces=np.stack([crop, crop]), embedding=embeddings)["faces_out"]
    assert faces.dtype == np.uint8
    assert faces.std() > 10
    assert np.abs(faces[0].astype(int) - faces[1]).max() > 2  # the embedding matters
    assert np.abs(bgr(faces[0]).astype(int) - expected).max() <= 2
    pasted = processing.paste_back(PHOTO, faces[0], matrix)
    assert np.abs(bgr(pasted).astype(int) - model.get(bgr(PHOTO), target, source)).max() <= 2


def test_kind_is_insightface_s_routing(tmp_path):
    from insightface.model_zoo.model_zoo import ModelRouter

    cases = {
        "detector": (networks.scrfd(), "SCRFD"),
        "recognizer": (networks.regressor(112, 512, "conv"), "ArcFaceONNX"),
        "landmarks_106": (networks.regressor(192, 212, "bn_data"), "Landmark"),
        "landmarks_68": (networks.regressor(192, 3309, "bn_data"), "Landmark"),
        "attributes": (networks.regressor(96, 3, "bn_data"), "Attribute"),
        "swapper": (networks.swapper(), "INSwapper"),
    }
    for name, (model, cls) in cases.items():
        assert kinds.kind(model) == name
        routed = ModelRouter(saved(model, tmp_path)).get_model(providers=CPU)
        assert type(routed).__name__ == cls
        assert kinds.normalization(model) == (routed.input_mean, routed.input_std)
    assert ModelRouter(saved(networks.regressor(100, 5, "conv"), tmp_path)).get_model(providers=CPU) is None
    with pytest.raises(ExportError, match="not an InsightFace network"):
        kinds.kind(networks.regressor(100, 5, "conv"))


def test_served_graphs_are_new_and_all_of_one_kind():
    for model, build in (
        (networks.scrfd(), scrfd.detector),
        (networks.regressor(112, 512, "minus"), lambda m: crops.recognizer(m, mean=0.0, std=1.0)),
        (networks.regressor(192, 212, "bn_data"), lambda m: crops.landmarks(m, mean=0.0, std=1.0)),
        (networks.regressor(96, 3, "conv"), lambda m: crops.attributes(m, mean=127.5, std=128.0)),
        (networks.swapper(), crops.swapper),
    ):
        before = model.SerializeToString(deterministic=True)
        served = build(model)
        assert model.SerializeToString(deterministic=True) == before
        assert (served.ir_version, served.opset_import[0].version) == (10, 17)
        for each in (*served.graph.input, *served.graph.output):
            assert each.type.tensor_type.shape.dim[0].dim_param == "N"
        assert build(model).SerializeToString(deterministic=True) == served.SerializeToString(deterministic=True)


def test_what_is_not_as_published_is_refused():
    swapper = networks.swapper()
    del swapper.graph.initializer[-1]
    with pytest.raises(ExportError, match="optimised or converted"):
        crops.swapper(swapper)
    detector = networks.scrfd()
    del detector.graph.output[-1]
    with pytest.raises(ExportError, match="not an SCRFD"):
        scrfd.detector(detector)
    with pytest.raises(ExportError, match="not the swapper"):
        crops.emap(networks.regressor(112, 512, "conv"))
    with pytest.raises(ExportError, match="one of each"):
        crops.landmarks(networks.swapper(), mean=0.0, std=1.0)
