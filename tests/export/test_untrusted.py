"""Files that nobody vouches for: they are read, or refused by name; nothing in them runs, nothing outside is opened."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from fixtures.serving import depthface
from onnx import numpy_helper
from onnx.external_data_helper import set_external_data
from safetensors.torch import load_file, save_file

from depthface import manifest
from depthface.contract import MANIFEST_FILE
from depthface.errors import DepthfaceError, ExportError, WeightsCorrupt, WeightsUnavailable
from depthface.families import card_named
from depthface.families.depth_anything_v2 import network
from depthface.families.insightface.graphs import kinds, reading
from depthface.spec import HubFile
from depthface_export import archive, weights
from depthface_standins.depth_anything_v2 import random_model
from depthface_standins.insightface import synthetic

SMALL = card_named("depth_anything_v2_small")
MARK = "EXECUTED"


class Bomb:
    """A pickle of it makes a file when it is loaded."""

    def __reduce__(self):
        return Path.touch, (Path(MARK),)


# Depth's weights


@pytest.fixture
def folder(tiny, tmp_path, monkeypatch) -> Path:
    """A good folder of weights, and the working directory."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "mine"
    random_model(tiny, 3).save_pretrained(folder)
    return folder


def load(tiny, folder: Path):
    return network.load(tiny, weights.locate(tiny, str(folder)).path, "fp32")


def test_pickled_weights_are_never_loaded(tiny, folder):
    good = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(WeightsUnavailable, match=r"no model\.safetensors"):
        load(tiny, folder)
    (folder / "model.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(WeightsCorrupt, match=r"model\.safetensors .* cannot be loaded"):
        load(tiny, folder)
    (folder / "model.safetensors").write_bytes(good)
    load(tiny, folder)  # with the pickle beside it
    assert not Path(MARK).exists()


def test_code_beside_the_weights_is_not_run(tiny, folder):
    (folder / "evil.py").write_text(f"import pathlib; pathlib.Path({MARK!r}).touch()\nclass C: pass\n")
    path = folder / "config.json"
    evil = {"auto_map": {"AutoConfig": "evil.C", "AutoModelForDepthEstimation": "evil.C"}}
    path.write_text(json.dumps(json.loads(path.read_text()) | evil))
    load(tiny, folder)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "evil"}))
    with pytest.raises(WeightsCorrupt, match="model_type"):
        load(tiny, folder)
    assert not Path(MARK).exists()


CONFIGS = ("", "{", "[]", "null", "{}", "[" * 100_000, '{"backbone_config": {"model_type": "resnet"}}', "\0" * 2**21)


@pytest.mark.parametrize("config", CONFIGS, ids=range(len(CONFIGS)))
def test_a_config_that_is_none_is_refused_by_name(tiny, folder, config):
    (folder / "config.json").write_text(config)
    with pytest.raises(WeightsCorrupt, match=r"config\.json"):
        load(tiny, folder)


@pytest.mark.parametrize("name", ["num_hidden_layers", "num_attention_heads", "hidden_size", "fusion_hidden_size"])
def test_a_config_of_another_size_is_refused_before_it_is_built(tiny, folder, name):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    (config if name in config else config["backbone_config"])[name] = 10**9
    path.write_text(json.dumps(config))
    with pytest.raises(WeightsCorrupt, match=name):
        load(tiny, folder)


def test_weights_that_lack_a_tensor_are_refused_by_its_name(tiny, folder):
    """transformers fills it with random numbers and goes on; the parity check cannot tell."""
    tensors = load_file(folder / "model.safetensors")
    del tensors["head.conv1.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsCorrupt, match=r"lacks 1 .*head\.conv1\.weight"):
        load(tiny, folder)


def test_weights_of_another_shape_or_cut_short_are_refused(tiny, folder):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(WeightsCorrupt, match="cannot be loaded"):
        load(tiny, folder)
    path.write_bytes(whole)
    tensors = load_file(path)
    tensors["head.conv1.weight"] = tensors["head.conv1.weight"][:3].clone()
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(WeightsCorrupt, match="cannot be loaded"):
        load(tiny, folder)


# Packs and ONNX files


@pytest.fixture(scope="session")
def recognizer() -> onnx.ModelProto:
    return synthetic.pack()["w600k_synthetic.onnx"]


@pytest.fixture
def pack(tmp_path) -> Path:
    folder = tmp_path / "pack"
    folder.mkdir()
    return folder


def with_external(model: onnx.ModelProto, location: str, length: str | None = None) -> bytes:
    """The model with its largest tensor in another file."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    tensor = max(copy.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    set_external_data(tensor, location)
    if length is not None:
        tensor.external_data.add(key="length", value=length)
    tensor.ClearField("raw_data")
    return copy.SerializeToString()


def largest(model: onnx.ModelProto) -> bytes:
    return max((tensor.raw_data for tensor in model.graph.initializer), key=len)


def test_external_data_in_the_folder_are_read(pack, recognizer):
    (pack / "a.onnx").write_bytes(with_external(recognizer, "a.data"))
    (pack / "a.data").write_bytes(largest(recognizer))
    read = reading.read(pack / "a.onnx")
    assert largest(read) == largest(recognizer)
    assert kinds.kind(read) == "recognizer"


@pytest.mark.parametrize(
    "location",
    ["/etc/hostname", "../outside.data", "sub/../../outside.data", "link.data", "linked/outside.data", "", "a\0b",
     r"..\outside.data", r"C:\outside.data"],
    ids=["absolute", "parent", "parent inside", "link", "linked folder", "empty", "NUL", "backslash", "drive"],
)  # fmt: skip
def test_external_data_outside_of_the_folder_are_not_opened(pack, recognizer, location):
    outside = pack.parent / "outside.data"
    outside.write_bytes(largest(recognizer))
    (pack / "link.data").symlink_to(outside)
    (pack / "linked").symlink_to(pack.parent)
    (pack / "a.onnx").write_bytes(with_external(recognizer, location))
    with pytest.raises(WeightsCorrupt, match=r"a\.onnx .*Nothing was read"):
        reading.read(pack / "a.onnx")


def test_external_data_that_are_missing_cut_or_a_pipe_are_refused(pack, recognizer):
    (pack / "a.onnx").write_bytes(with_external(recognizer, "a.data"))
    with pytest.raises(WeightsCorrupt, match="not there"):
        reading.read(pack / "a.onnx")
    (pack / "a.data").write_bytes(largest(recognizer)[:-4])
    with pytest.raises(WeightsCorrupt, match=r"a\.onnx"):
        reading.read(pack / "a.onnx")
        card_named(str(pack))
    (pack / "a.data").unlink()
    os.mkfifo(pack / "a.data")
    with pytest.raises(WeightsCorrupt, match="not there"):
        reading.read(pack / "a.onnx")


def test_a_pipe_or_a_folder_in_place_of_a_file_is_refused(pack):
    os.mkfifo(pack / "a.onnx")
    (pack / "b.onnx").mkdir()
    for name in ("a.onnx", "b.onnx"):
        with pytest.raises(WeightsCorrupt, match=rf"{name} is not a file"):
            reading.read(pack / name)


def test_a_file_over_the_limit_is_refused_unread(pack):
    with (pack / "a.onnx").open("wb") as file:
        file.truncate(reading.MAX_BYTES + 1)  # sparse: no disk is used
    with pytest.raises(WeightsCorrupt, match="the limit is 1024 MiB"):
        reading.read(pack / "a.onnx")


def test_a_file_that_all_tensors_share_is_counted_once(pack, monkeypatch):
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[1024] x) => (float[1024] y) '
        "{ b = Add (x, one)  c = Add (b, two)  y = Add (c, three) }"
    )
    for name in ("one", "two", "three"):
        model.graph.initializer.append(numpy_helper.from_array(np.ones(1024, np.float32), name))
    onnx.save(model, pack / "a.onnx", save_as_external_data=True, location="a.data")
    size_bytes = (pack / "a.onnx").stat().st_size + 3 * 4096
    monkeypatch.setattr(reading, "MAX_BYTES", size_bytes)
    assert len(largest(reading.read(pack / "a.onnx"))) == 4096
    monkeypatch.setattr(reading, "MAX_BYTES", size_bytes - 1)
    with pytest.raises(WeightsCorrupt, match="over the limit"):
        reading.read(pack / "a.onnx")


@pytest.mark.parametrize("length", [None, "0", "9" * 30])
def test_a_file_that_is_read_over_and_over_is_counted_so(pack, recognizer, monkeypatch, length):
    model = onnx.load_from_string(with_external(recognizer, "a.data", length))
    (external,) = (tensor for tensor in model.graph.initializer if tensor.external_data)
    for index in range(9):
        again = model.graph.initializer.add()
        again.CopyFrom(external)
        again.name = f"again {index}"
    onnx.save(model, pack / "a.onnx")
    (pack / "a.data").write_bytes(largest(recognizer))
    size_bytes = (pack / "a.onnx").stat().st_size + 10 * len(largest(recognizer))
    monkeypatch.setattr(reading, "MAX_BYTES", size_bytes - 1)
    with pytest.raises(WeightsCorrupt, match="over the limit"):
        reading.read(pack / "a.onnx")


@pytest.mark.parametrize(
    "length", ["-1", "1.5", "many", "", "9" * 5000], ids=["negative", "half", "word", "empty", "long"]
)
def test_external_data_of_no_length_are_damaged(pack, recognizer, length):
    (pack / "a.onnx").write_bytes(with_external(recognizer, "a.data", length))
    (pack / "a.data").write_bytes(largest(recognizer))
    with pytest.raises(WeightsCorrupt, match=r"a\.onnx is not a whole ONNX file"):
        reading.read(pack / "a.onnx")


@pytest.mark.parametrize("domain", ["com.microsoft", "evil", "ai.onnx.ml"])
def test_operators_of_other_domains_are_refused_by_name(pack, recognizer, domain):
    model = onnx.ModelProto()
    model.CopyFrom(recognizer)
    model.graph.node[0].domain = domain
    model.opset_import.append(onnx.helper.make_opsetid(domain, 1))
    onnx.save(model, pack / "a.onnx")
    with pytest.raises(WeightsCorrupt, match=rf"operators outside ONNX \({domain}\)"):
        reading.read(pack / "a.onnx")


def test_loops_are_refused(pack):
    body = onnx.parser.parse_graph("b (int64 i, bool go) => (bool on) { on = Identity (go) }")
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[1,3,112,112] x) => (float[1,3,112,112] y) '
        "{ y = Identity (x) }"
    )
    model.graph.node.append(onnx.helper.make_node("Loop", ["", ""], [], body=body))
    onnx.save(model, pack / "a.onnx")
    with pytest.raises(WeightsCorrupt, match="control flow"):
        reading.read(pack / "a.onnx")


@pytest.mark.parametrize("name", ["a b", "pack\n", "-pack", ".pack", 'p"k', "päck", "x" * 65])
def test_a_pack_whose_name_cannot_be_a_models_is_refused(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(ExportError, match="cannot be called"):
        card_named(str(tmp_path / name))


@pytest.mark.parametrize(
    "name", ["../depth_anything_v2_small", "depth_anything_v2_small/..", "/etc/passwd", "a\0b", ""]
)
def test_a_models_name_with_parts_of_a_path_is_refused(name):
    with pytest.raises(DepthfaceError, match="no model"):
        card_named(name)


def test_the_command_refuses_such_a_name_in_one_line(tmp_path):
    name = "../depth_anything_v2_small"
    done = depthface("export", name, "--weights", "random", "--repository", tmp_path / "m")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: There is no model")
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


# Archives


def test_an_archive_writes_nothing_but_what_is_wanted(tmp_path):
    """Names that climb, absolute ones, links: none of them is looked at."""
    path = tmp_path / "pack.zip"
    with zipfile.ZipFile(path, "w") as zipped:
        link = zipfile.ZipInfo("link.onnx")
        link.external_attr = 0o120777 << 16
        zipped.writestr(link, "/etc/passwd")
        for name in ("../climbed.onnx", f"{tmp_path}/absolute.onnx", "pack/../../climbed.onnx", "more.onnx"):
            zipped.writestr(name, b"bad")
        zipped.writestr("pack/det.onnx", b"good")
    target = tmp_path / "target"
    target.mkdir()
    files = [HubFile(name, None, None) for name in ("det.onnx", "link.onnx", "absent.onnx")]
    archive.unpack(path, files, "pack", target)
    assert {file.name: file.read_bytes() for file in target.iterdir()} == {
        "det.onnx": b"good",
        "link.onnx": b"/etc/passwd",  # a plain file, which no checksum lets through
    }
    assert not (target / "link.onnx").is_symlink()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["pack.zip", "target"]


def test_an_archive_that_swells_is_stopped_at_the_published_size(tmp_path):
    with zipfile.ZipFile(tmp_path / "pack.zip", "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("det.onnx", bytes(200 * 2**20))
    assert (tmp_path / "pack.zip").stat().st_size < 2**20
    with pytest.raises(WeightsCorrupt, match="longer than the 1000 bytes"):
        archive.unpack(tmp_path / "pack.zip", [HubFile("det.onnx", 1000, None)], "pack", tmp_path)
    assert (tmp_path / "det.onnx").stat().st_size < 2**21


# Manifests


GOOD = {
    "serves": {"m": ["n"]}, "weights": {"origin": "o", "sha256": {}}, "license": None, "precision": "fp32",
    "onnx": {"sha256": "0"}, "tensors": {}, "exporters": {}, "checks": [],
}  # fmt: skip


def test_a_good_manifest_is_read(tmp_path):
    (tmp_path / MANIFEST_FILE).write_text(json.dumps(GOOD))
    assert manifest.read(tmp_path) is not None


@pytest.mark.parametrize(
    "change",
    [
        {"serves": {"../../etc": ["n"]}}, {"serves": {"m": ["../n"]}}, {"serves": {"m": ["/n"]}},
        {"serves": {"m": "n"}},
        {"serves": {".": ["n"]}}, {"serves": ["m"]}, {"serves": {"m": [1]}},
        {"serves": {"m": []}}, {"weights": {}}, {"weights": None},
        {"weights": {"origin": 1, "sha256": {}}}, {"weights": {"origin": "o", "sha256": []}}, {"onnx": {}},
        {"onnx": {"sha256": None}}, {"precision": 1}, {"tensors": 0}, {"license": "x"}, {"exporters": []},
        {"checks": [1]}, {"checks": None},
    ],
    ids=json.dumps,
)  # fmt: skip
def test_a_manifest_that_is_not_sound_is_none(tmp_path, change):
    (tmp_path / MANIFEST_FILE).write_text(json.dumps(GOOD | change))
    assert manifest.read(tmp_path) is None


def test_what_a_newer_manifest_says_besides_is_passed_over(tmp_path):
    """Who goes back a version serves what the newer one exported, where the contract is the same."""
    (tmp_path / MANIFEST_FILE).write_text(json.dumps(GOOD))
    known = manifest.read(tmp_path)
    (tmp_path / MANIFEST_FILE).write_text(json.dumps(GOOD | {"more": 1}))
    assert manifest.read(tmp_path) == known


def test_a_manifest_that_is_deep_or_long_is_none(tmp_path):
    for text in ("[" * 200_000, json.dumps(GOOD) + " " * manifest.MAX_BYTES, "\xff", "", '{"serves": NaN}', "[]", "3"):
        (tmp_path / MANIFEST_FILE).write_text(text, encoding="latin-1")
        assert manifest.read(tmp_path) is None


# Checksums


def test_a_published_file_with_another_checksum_is_refused(tiny, tmp_path):
    """Wherever it lies: the hub's cache, InsightFace's folder."""
    (tmp_path / "config.json").write_text("{}")
    good = hashlib.sha256(b"{}").hexdigest()
    for sha256, is_right in ((good, True), (good[::-1], False)):
        files = (HubFile("config.json", 2, sha256),)
        card = dataclasses.replace(tiny, weights=dataclasses.replace(SMALL.weights, files=files))
        if is_right:
            assert weights._check_files(card.weights, tmp_path) == {"config.json": good}
        else:
            with pytest.raises(WeightsCorrupt, match=r"config\.json .* sha256"):
                weights._check_files(card.weights, tmp_path)
