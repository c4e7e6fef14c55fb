"""Detectors whose input is fixed to one size: served at that size as InsightFace runs them, or refused by name."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from fixtures.detectors import folded, with_input
from fixtures.exporting import job_of
from fixtures.faces import AUTO, FACES, Reference, analysis_of, ask, crowd, detection_of, differences, refused
from fixtures.gateways import gateway, post
from fixtures.serving import serving

from depthface import manifest
from depthface.errors import ExportError
from depthface.families import card_named
from depthface.families.insightface.graphs import kinds
from depthface_export import pipeline

# skimage warns of a method that insightface calls.
pytestmark = pytest.mark.filterwarnings("ignore:.*:FutureWarning:insightface")

DETECTOR, RECOGNIZER = "det_synthetic.onnx", "w600k_synthetic.onnx"
SIDES_PX = (640, 320)


@pytest.fixture(scope="module")
def detector(files) -> onnx.ModelProto:
    """The genuine one, where DEPTHFACE_WEIGHTS names a folder of weights, or else the synthetic one."""
    genuine = os.environ.get("DEPTHFACE_WEIGHTS")
    return onnx.load(Path(genuine, "insightface", "det_500m.onnx") if genuine else files / DETECTOR)


@pytest.fixture
def pack(tmp_path, files) -> Callable[..., Path]:
    """Make a pack folder of a detector and the synthetic recogniser."""

    def pack(model: onnx.ModelProto, name: str = "mine", file: str = "det.onnx") -> Path:
        folder = tmp_path / name
        folder.mkdir()
        onnx.save(model, folder / file)
        (folder / "rec.onnx").write_bytes((files / RECOGNIZER).read_bytes())
        return folder

    return pack


def export(folder: Path, target: Path, model: str | None = None) -> str:
    return pipeline.export(job_of(card_named(model or str(folder)), target, str(folder), accepts_license=True))


@pytest.mark.parametrize("side_px", [*SIDES_PX, 32, 1920])
def test_the_side_is_read_off_the_file(detector, side_px):
    assert kinds.fixed_side(with_input(detector, 1, 3, side_px, side_px)) == side_px
    assert kinds.fixed_side(detector) is None


@pytest.mark.parametrize(
    ("dims", "said"),
    [
        ((1, 3, 480, 640), "480 × 640"),
        ((1, 3, 640, "w"), r"640 × \?"),
        ((1, 3, "h", 640), r"\? × 640"),
        ((1, 3, 650, 650), "650 × 650"),
        ((1, 3, 1952, 1952), "1952 × 1952"),
        ((4, 3, "h", "w"), "batches of 4"),
        ((4, 3, 640, 640), "batches of 4"),
    ],
    ids=str,
)
def test_what_cannot_be_served_is_refused_by_the_file_s_name_before_any_work(pack, detector, tmp_path, dims, said):
    folder = pack(with_input(detector, *dims))
    with pytest.raises(ExportError, match=rf"det\.onnx: .*{said}"):
        export(folder, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_under_a_published_name_a_fixed_one_is_refused_with_the_way_out(pack, files, tmp_path):
    """Whose networks are declared for any size."""
    folder = pack(with_input(onnx.load(files / DETECTOR), 1, 3, 640, 640), file="det_500m.onnx")
    (folder / "rec.onnx").rename(folder / "w600k_mbf.onnx")
    with pytest.raises(ExportError, match=r"det_500m\.onnx: It takes 640×640 alone.*depthface export FOLDER"):
        export(folder, tmp_path / "target", "buffalo_sc")
    assert not list((tmp_path / "target").iterdir())
    assert export(folder, tmp_path / "target") == "exported"


def test_a_recogniser_of_another_size_is_refused_by_name(files, tmp_path):
    model = with_input(onnx.load(files / RECOGNIZER), "N", 3, 128, 128)
    folder = tmp_path / "mine"
    folder.mkdir()
    onnx.save(model, folder / "rec.onnx")
    (folder / "det.onnx").write_bytes((files / DETECTOR).read_bytes())
    with pytest.raises(ExportError, match=r"rec\.onnx: .*128×128"):
        card_named(str(folder))


@pytest.mark.parametrize("is_folded", [False, True], ids=["declared", "folded"])
def test_a_fixed_detector_is_proven_at_its_size(pack, detector, tmp_path, is_folded):
    model = with_input(detector, 1, 3, 320, 320)
    folder = pack(folded(model, tmp_path / "folded.onnx") if is_folded else model)
    assert export(folder, tmp_path / "target") == "exported"
    found = manifest.read(tmp_path / "target" / "face_mine_detector" / "1")
    assert found is not None
    assert {check["case"].partition(",")[0] for check in found.checks} == {"320"}
    assert found.tensors["inputs"][0]["dims"] == [320, 320, 3]
    assert [tensor["name"] for tensor in found.tensors["inputs"]] == ["pixels", "scale", "min_score"]
    assert export(folder, tmp_path / "target") == "unchanged"


def test_fixed_detectors_are_served_as_faceanalysis_runs_them(pack, detector, files, tmp_path, request):
    """At 640 and at 320, of the genuine detector on photographs and of the synthetic one on drawings."""
    photos = [crowd(count, count) for count in (0, 1, 6)]
    detectors = {"drawn": onnx.load(files / DETECTOR)}
    if os.environ.get("DEPTHFACE_WEIGHTS"):
        detectors["true"] = detector
        photos += [path.read_bytes() for path in request.getfixturevalue("real_photos")[:4]]
    packs = {
        f"{name}_{side_px}": (side_px, pack(with_input(model, 1, 3, side_px, side_px), f"{name}_{side_px}"))
        for name, model in detectors.items()
        for side_px in SIDES_PX
    }
    target = tmp_path / "target"
    for _, folder in packs.values():
        assert export(folder, target) == "exported"
    counts = set()
    with serving(target) as server:
        with gateway("faces", url=server.host, FACES_PACK="drawn_320") as asked:
            answer = post(asked.urls["faces"], "/api/v1/detection/detect", {"file": photos[1]})
            assert len(answer.json()["result"]) == 1, "whose callers cannot say that it takes 320 alone"
        for name, (side_px, folder) in packs.items():
            reference = Reference(folder)
            for photo in photos:
                expected = reference(photo)
                for det_size in (AUTO, side_px):
                    got = ask(server, analysis_of(name), photo, det_size=det_size)
                    worst = differences(got, expected | ({} if len(expected["boxes"]) else none_of(got)))
                    assert worst.get("boxes", 0) <= 0.01
                    assert worst.get("keypoints", 0) <= 0.01
                    assert worst.get("embeddings", 0) <= 1e-5
                    counts.add(len(got["boxes"]))
            without = ask(server, detection_of(name), photos[2], FACES)
            np.testing.assert_array_equal(without["boxes"], ask(server, analysis_of(name), photos[2])["boxes"])
            for model in (detection_of(name), analysis_of(name)):
                text = refused(lambda model=model: ask(server, model, photos[1], FACES, det_size=1024))
                assert f"takes photos at {side_px} alone" in text
    assert {0, 1, 6} <= counts


def none_of(got: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """InsightFace gives no faces, and so no parts of them."""
    return {name: value[:0] for name, value in got.items() if name not in ("size", "crops")}


def test_hidden_files_are_not_part_of_a_pack(pack, files, tmp_path):
    """macOS leaves ._<name> beside every file on a disk of another system, and .DS_Store in every folder."""
    folder = pack(onnx.load(files / DETECTOR))
    for name in ("._det.onnx", "._rec.onnx", ".DS_Store"):
        (folder / name).write_bytes(b"\0\5\26\7")
    (folder / ".hidden.onnx").write_bytes((folder / "det.onnx").read_bytes())
    assert [file.name for file in card_named(str(folder)).weights.files] == ["det.onnx", "rec.onnx"]
    assert export(folder, tmp_path / "target") == "exported"
