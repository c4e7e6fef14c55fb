"""Packs that can be exported and packs that are refused, by the name of the file."""

from __future__ import annotations

import errno
import gc
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from fixtures.exporting import job_of
from fixtures.faces import FACES, analysis_of, ask, crowd, detection_of
from fixtures.serving import depthface, in_this_process, serving
from tritonclient.http import InferenceServerClient
from tritonclient.utils import InferenceServerException

from depthface import manifest
from depthface.errors import ExportError, LicenseNotAccepted, WeightsCorrupt, WeightsUnavailable
from depthface.families import card_named
from depthface.families.insightface import network as network_stage
from depthface_export import pipeline

# skimage warns of a method that insightface calls.
pytestmark = pytest.mark.filterwarnings("ignore:.*:FutureWarning:insightface")

DETECTOR, RECOGNIZER = "det_synthetic.onnx", "w600k_synthetic.onnx"
BUFFALO_SC = card_named("buffalo_sc")


@pytest.fixture
def pack(tmp_path, files):
    """Make a pack folder: `pack(own_name=original_name_or_bytes)`."""

    def pack(**contents: str | bytes) -> Path:
        folder = tmp_path / "mine"
        folder.mkdir()
        for name, content in contents.items():
            path = folder / f"{name}.onnx"
            path.write_bytes(content if isinstance(content, bytes) else (files / content).read_bytes())
        return folder

    return pack


def export(model: str | Path, target: Path, folder: Path | str | None = None, accept_license: bool = True) -> None:
    """Export as the command does: a model's name and its weights, or a folder that is both."""
    pipeline.export(job_of(card_named(str(model)), target, str(folder or model), accepts_license=accept_license))


def assert_untouched(target: Path) -> None:
    assert not target.exists() or not list(target.iterdir())


# Files that are not what they should be


def damaged(files: Path, how: str) -> bytes:
    whole = (files / DETECTOR).read_bytes()
    return {
        "truncated": whole[: len(whole) // 2],
        "cut by a byte": whole[:-1],
        "text": b"<html>404: Not Found</html>",
        "empty": b"",
        "zeros": bytes(1000),
    }[how]


@pytest.mark.parametrize("how", ["truncated", "cut by a byte", "text", "empty", "zeros"])
def test_a_damaged_file_is_refused_by_name(pack, files, tmp_path, how):
    folder = pack(det=damaged(files, how), rec=RECOGNIZER)
    with pytest.raises(WeightsCorrupt, match=r"det\.onnx is not a whole ONNX file"):
        export(folder, tmp_path / "target")
    assert_untouched(tmp_path / "target")


@pytest.mark.parametrize("how", ["truncated", "text"])
def test_a_damaged_file_of_a_named_pack_is_refused_by_name(pack, files, tmp_path, how):
    folder = pack(det_500m=DETECTOR, w600k_mbf=damaged(files, how))
    with pytest.raises(WeightsCorrupt, match=r"w600k_mbf\.onnx"):
        export("buffalo_sc", tmp_path / "target", folder)
    assert_untouched(tmp_path / "target")


@pytest.mark.parametrize("present", ["det_500m", "w600k_mbf"])
def test_a_missing_file_of_a_named_pack_is_named(pack, tmp_path, present):
    folder = pack(**{present: DETECTOR})
    (missing,) = {"det_500m", "w600k_mbf"} - {present}
    with pytest.raises(WeightsUnavailable, match=rf"no {missing}\.onnx in .*mine"):
        export("buffalo_sc", tmp_path / "target", folder)
    assert_untouched(tmp_path / "target")


def test_a_recogniser_where_the_detector_should_be_is_refused_by_name(pack, tmp_path):
    folder = pack(det_500m=RECOGNIZER, w600k_mbf=RECOGNIZER)
    with pytest.raises(WeightsCorrupt, match=r"det_500m\.onnx: .*recognizer, where the detector should be"):
        export("buffalo_sc", tmp_path / "target", folder)
    assert_untouched(tmp_path / "target")


def test_a_detector_where_the_recogniser_should_be_is_refused_by_name(pack, tmp_path):
    folder = pack(det_500m=DETECTOR, w600k_mbf=DETECTOR)
    with pytest.raises(WeightsCorrupt, match=r"w600k_mbf\.onnx: .*detector, where the recognizer should be"):
        export("buffalo_sc", tmp_path / "target", folder)
    assert_untouched(tmp_path / "target")


def test_two_files_of_a_kind_are_refused_by_both_names(pack, tmp_path):
    with pytest.raises(ExportError, match=r"two files of kind detector: det_a\.onnx and det_b\.onnx"):
        export(pack(det_a=DETECTOR, det_b=DETECTOR, rec=RECOGNIZER), tmp_path / "target")


def test_a_folder_without_a_detector_is_refused(pack, tmp_path):
    with pytest.raises(ExportError, match="mine holds no face detector"):
        export(pack(rec=RECOGNIZER), tmp_path / "target")


def test_an_empty_folder_is_refused(pack, tmp_path):
    with pytest.raises(ExportError, match="mine holds no face detector"):
        export(pack(), tmp_path / "target")


def test_a_network_of_no_known_kind_is_refused_by_name(pack, tmp_path):
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])],
        "neither",
        [value("x", onnx.TensorProto.FLOAT, [1, 7])],
        [value("y", onnx.TensorProto.FLOAT, [1, 7])],
    )
    neither = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(ExportError, match=r"neither\.onnx: "):
        export(pack(det=DETECTOR, neither=neither.SerializeToString()), tmp_path / "target")


def test_a_detector_without_keypoints_is_refused_by_name(pack, files, tmp_path):
    model = onnx.load(files / DETECTOR)
    del model.graph.output[6:]
    with pytest.raises(ExportError, match=r"det\.onnx: It gives no keypoints"):
        export(pack(det=model.SerializeToString()), tmp_path / "target")


def test_a_refusal_on_the_command_line_is_exit_1_in_one_line(pack, tmp_path):
    folder = pack(det_500m=RECOGNIZER, w600k_mbf=RECOGNIZER)
    done = depthface(
        "export", "buffalo_sc", "--weights", folder, "--accept-license", "--repository", tmp_path / "target"
    )
    assert done.returncode == 1
    assert "det_500m.onnx" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert_untouched(tmp_path / "target")


def test_a_failed_export_leaves_the_last_one_as_it_was(pack, files, tmp_path):
    folder, target = pack(det=DETECTOR), tmp_path / "target"
    export(folder, target)
    before = {path: path.read_bytes() for path in target.rglob("*") if path.is_file()}
    (folder / "rec.onnx").write_bytes(b"not a network")
    with pytest.raises(WeightsCorrupt, match=r"rec\.onnx"):
        export(folder, target)
    assert {path: path.read_bytes() for path in target.rglob("*") if path.is_file()} == before


# The copy that InsightFace reads


@pytest.fixture
def copies(tmp_path, monkeypatch) -> Path:
    """Where copies are made."""
    folder = tmp_path / "copies"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("place", ["onnx.save", "insightface.model_zoo.get_model"])
def test_a_copy_that_fails_or_is_interrupted_is_removed(files, copies, monkeypatch, place, error):
    def fail(*_: object, **__: object) -> None:
        raise error

    model = onnx.load(files / RECOGNIZER)
    monkeypatch.setattr(place, fail)
    with pytest.raises(type(error)):
        network_stage._reference(model, "recognizer")
    assert not list(copies.iterdir())


def test_a_copy_is_there_as_long_as_its_model(files, copies):
    model = network_stage._reference(onnx.load(files / RECOGNIZER), "recognizer")
    assert Path(model.model_file).parent.parent == copies
    assert Path(model.model_file).is_file()
    del model
    gc.collect()
    assert not list(copies.iterdir())


# Packs of another make-up


def test_a_detector_alone_is_a_pack(pack, tmp_path):
    target = tmp_path / "target"
    export(pack(det=DETECTOR), target)
    with serving(target) as server:
        for model in (detection_of("mine"), analysis_of("mine")):
            answer = ask(server, model, crowd(2), [*FACES, "size"])
            assert [len(answer[output]) for output in FACES] == [2, 2, 2]
        assert set(ask(server, analysis_of("mine"), crowd(1))) == {*FACES, "size", "crops"}
        assert ask(server, analysis_of("mine"), crowd(1), ["crops"])["crops"].shape == (1, 112, 112, 3)
        with pytest.raises(InferenceServerException, match="embeddings") as caught:
            ask(server, analysis_of("mine"), crowd(1), ["embeddings"])
        assert caught.value.status() == "400"


def test_an_embedding_is_as_long_as_the_network_makes_it(face_server, face_packs):
    """A genuine recogniser of 128 columns beside a synthetic one of 512, on one server."""
    lengths = {"synthetic": 512}
    if "genuine" in face_packs:
        lengths["genuine"] = 128
    with InferenceServerClient(face_server.host, network_timeout=300) as client:
        for pack, length in lengths.items():
            model = analysis_of(face_packs[pack].name)
            declared = {output["name"]: output["shape"] for output in client.get_model_metadata(model)["outputs"]}
            assert declared["embeddings"] == [-1, -1, length]
            assert ask(face_server, model, crowd(0), ["embeddings"])["embeddings"].shape == (0, length)


def test_a_genuine_embedding_has_length_1_and_128_columns(face_server, face_packs, real_photos):
    if "genuine" not in face_packs:
        pytest.skip("DEPTHFACE_WEIGHTS names no folder of genuine weights")
    photo = next(path for path in real_photos if path.name == "two_people.jpg")
    embeddings = ask(face_server, analysis_of(face_packs["genuine"].name), photo.read_bytes())["embeddings"]
    assert embeddings.shape == (2, 128)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)


# A folder in the place of a name


def test_a_folder_by_its_bare_name_is_its_own_weights_whatever_it_is_called(pack, tmp_path, monkeypatch):
    folder, target = pack(det=DETECTOR), tmp_path / "target"
    folder.rename(tmp_path / "hub")
    folder = pack(det=DETECTOR)
    monkeypatch.chdir(tmp_path)
    done = depthface("export", "mine", "hub", "--accept-license", "--repository", target)
    assert done.returncode == 0, done.stderr
    for name in ("mine", "hub"):
        found = manifest.read(target / f"face_{name}_detector" / "1")
        assert found is not None
        assert found.weights["origin"] == f"folder {name}"
        assert found.command[2] == str(tmp_path / name)


def test_a_folder_is_known_without_what_other_families_need(pack):
    """torch and transformers take seconds to import."""
    folder = pack(det=DETECTOR, rec=RECOGNIZER)
    code = f"import sys; from depthface.families import card_named; card_named({str(folder)!r}); print(*sys.modules)"
    modules = set(subprocess.check_output([sys.executable, "-c", code], text=True).split())
    assert "depthface.families.insightface.network" in modules
    assert not modules & {"torch", "transformers"}


def test_weights_beside_a_folder_alone_are_refused(pack, tmp_path, monkeypatch):
    pack(det=DETECTOR)
    monkeypatch.chdir(tmp_path)
    for model in ("mine", "./mine", tmp_path / "mine"):
        done = in_this_process("export", model, "--weights", "random", "--repository", tmp_path / "target")
        assert done.returncode == 2
        assert f"{model} is a folder, and so its own weights" in done.stderr
    assert_untouched(tmp_path / "target")


def test_a_folder_that_is_called_as_a_published_pack_is_named_by_its_path(pack, tmp_path):
    folder = pack(det=DETECTOR).rename(tmp_path / "buffalo_sc")
    command = job_of(card_named(str(folder)), tmp_path / "target", str(folder)).command
    assert command[:3] == ["depthface", "export", str(folder)]
    assert "--weights" not in command


# What an export says of itself


def test_the_manifests_say_what_is_served_from_which_files_and_what_was_proven(face_repository, face_packs):
    for pack in face_packs.values():
        hashes = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(pack.folder.glob("*.onnx"))
        }
        card = card_named(str(pack.folder))
        everything = [network.name for network in card.networks]
        for network in card.networks:
            folder = face_repository / network.name / "1"
            found = manifest.read(folder)
            assert found is not None, network.name
            assert not found.differences(folder)
            expected = {analysis_of(pack.name): everything}
            if network.name.endswith("_detector"):
                expected[detection_of(pack.name)] = [network.name]
            assert found.serves == expected
            assert found.weights == {"origin": f"folder {pack.folder.name}", "sha256": hashes}
            assert found.license["id"] == "non-commercial research only"
            assert found.precision == "fp32"
            tensors = [tensor["name"] for tensor in found.tensors["inputs"]]
            assert tensors == [tensor.name for tensor in network.inputs]
            metrics = {check["metric"] for check in found.checks}
            wanted = {
                "detector": {"faces_differ", "box_error_px", "keypoint_error_px", "score_error"},
                "recognizer": {"cosine_loss"},
                "landmarks_106": {"landmark_error_px"},
                "landmarks_68": {"landmark_error_px"},
                "attributes": {"attribute_error"},
            }
            assert metrics == wanted[network.name.removeprefix(f"face_{pack.name}_")]
            for check in found.checks:
                assert check["value"] <= check["tolerance"] == card.tolerances["fp32"][check["metric"]]
            assert "/" not in json.dumps(found.weights)


def test_exporting_again_is_unchanged_and_another_file_is_not(pack, files, tmp_path):
    folder, target = pack(det=DETECTOR), tmp_path / "target"

    def outcome() -> str:
        return pipeline.export(job_of(card_named(str(folder)), target, str(folder), accepts_license=True))

    assert [outcome(), outcome()] == ["exported", "unchanged"]
    model = onnx.load(files / DETECTOR)
    model.doc_string = "another file"
    onnx.save(model, folder / "det.onnx")
    assert outcome() == "exported"


# The licence


@pytest.mark.parametrize("choice", ["hub", "folder", "files"])
def test_without_a_yes_to_the_licence_nothing_is_exported(pack, tmp_path, choice):
    folder = pack(det_500m=DETECTOR, w600k_mbf=RECOGNIZER)
    model, of = {"hub": ("buffalo_sc", "hub"), "folder": ("buffalo_sc", folder), "files": (folder, None)}[choice]
    with pytest.raises(LicenseNotAccepted, match="--accept-license") as caught:
        export(model, tmp_path / "target", of, accept_license=False)
    assert BUFFALO_SC.license.url in str(caught.value)
    assert "non-commercial research only" in str(caught.value)
    assert_untouched(tmp_path / "target")


def test_stand_ins_need_no_yes(tmp_path):
    export("buffalo_sc", tmp_path, "synthetic", accept_license=False)
    found = manifest.read(tmp_path / "face_buffalo_sc_detector" / "1")
    assert found is not None
    assert found.weights == {"origin": "synthetic", "sha256": {}}
    assert found.license is None
