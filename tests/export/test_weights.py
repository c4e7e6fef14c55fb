"""Where weights come from. The hub itself cannot be asked here; what is replaced is its client, at the one seam."""

from __future__ import annotations

import dataclasses
import os
import re
import threading

import huggingface_hub
import pytest
from fixtures.serving import depthface
from fixtures.waiting import HANGS_AFTER_S

from depthface.errors import LicenseNotAccepted, WeightsCorrupt, WeightsUnavailable
from depthface.families import card_named
from depthface.families.depth_anything_v2 import network
from depthface.manifest import sha256_of
from depthface.spec import HubFile, HubWeights
from depthface_export import weights
from depthface_standins.depth_anything_v2 import random_model

SMALL = card_named("depth_anything_v2_small")
LARGE = card_named("depth_anything_v2_large")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub with one repository: a card of it, and a switch to take it off the network."""
    cache = tmp_path / "snapshot"
    cache.mkdir()
    (cache / "config.json").write_text("{}")
    (cache / "model.safetensors").write_bytes(b"weights")
    asked = []

    def download(repo, name, revision):
        asked.append((repo, name, revision))
        return str(cache / name)

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *a, **k: None)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda url: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    files = (
        HubFile("config.json", None, None),
        HubFile("model.safetensors", 7, sha256_of(cache / "model.safetensors")),
    )
    return dataclasses.replace(SMALL, weights=HubWeights("someone/model", "abc123", files)), cache, asked


def test_hub_weights_are_asked_for_at_the_pinned_revision(hub):
    card, cache, asked = hub
    found = weights.fetch(card, weights.locate(card, "hub"))
    assert found.path == cache
    assert found.origin == "someone/model@abc123"
    assert set(found.sha256) == {"config.json", "model.safetensors"}
    assert asked == [("someone/model", "config.json", "abc123"), ("someone/model", "model.safetensors", "abc123")]


@pytest.mark.parametrize("content", [b"weighty", b"weights and more"])
def test_a_file_that_is_not_the_published_one_is_refused_by_name(hub, content):
    card, cache, _ = hub
    (cache / "model.safetensors").write_bytes(content)
    with pytest.raises(WeightsCorrupt, match=r"model\.safetensors"):
        weights.fetch(card, weights.locate(card, "hub"))


def test_a_refusal_names_what_is_known_of_the_published_file(hub):
    card, _, _ = hub
    files = (HubFile("config.json", 3, None),)
    card = dataclasses.replace(card, weights=dataclasses.replace(card.weights, files=files))
    with pytest.raises(WeightsCorrupt, match=r"is not the published file: 2 bytes, .*; published were 3 bytes\."):
        weights.fetch(card, weights.locate(card, "hub"))


def test_an_unreachable_hub_says_what_to_do_instead(hub, monkeypatch):
    card, _, _ = hub

    def unreachable(url):
        raise OSError("Name or service not known")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", unreachable)
    with pytest.raises(WeightsUnavailable, match="--weights random") as caught:
        weights.fetch(card, weights.locate(card, "hub"))
    assert "\n" not in str(caught.value)


def test_a_hub_that_never_answers_counts_as_out_of_reach(hub, monkeypatch):
    card, _, _ = hub
    over, answered = threading.Event(), threading.Event()

    def late(url: str) -> None:
        over.wait(HANGS_AFTER_S)
        answered.set()

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", late)
    monkeypatch.setattr(weights, "HUB_DEADLINE_S", 0.2)
    with pytest.raises(WeightsUnavailable, match="no answer within"):
        weights.fetch(card, weights.locate(card, "hub"))
    assert not answered.is_set()
    over.set()


def test_the_hub_has_to_answer_within_ten_seconds():
    assert weights.HUB_DEADLINE_S < 10


def test_no_hub_is_exit_1_in_one_paragraph(tmp_path):
    """The real client, sent where nothing answers."""
    done = depthface(
        "export", "depth_anything_v2_small", "--repository", tmp_path / "m",
        HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=str(tmp_path / "hub"),
    )  # fmt: skip
    assert done.returncode == 1
    assert "--weights random" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list((tmp_path / "m").iterdir())


def test_a_folder_of_weights_is_loaded_and_named(tiny, tmp_path):
    folder = tmp_path / "mine"
    random_model(tiny, 3).save_pretrained(folder)
    found = weights.locate(tiny, str(folder))
    assert found.origin == "folder mine"
    loaded = network.reference_model(tiny, found.path)
    assert loaded.head.conv1.weight.equal(random_model(tiny, 3).head.conv1.weight)
    assert weights.locate(tiny, str(folder / "model.safetensors")).path == folder


def test_a_folder_is_the_published_one_where_each_of_its_files_is_known_to_be(hub):
    """Of a file without a published checksum, such as a tokenizer, nobody can say so: it may be another one."""
    card, folder, _ = hub
    assert weights.locate(card, str(folder)).origin == "folder snapshot"
    files = tuple(dataclasses.replace(file, sha256=sha256_of(folder / file.name)) for file in card.weights.files)
    pinned = dataclasses.replace(card, weights=dataclasses.replace(card.weights, files=files))
    assert weights.locate(pinned, str(folder)).origin == "someone/model@abc123"
    (folder / "config.json").write_text("[]")
    assert weights.locate(pinned, str(folder)).origin == "folder snapshot"


def test_weights_of_another_size_are_refused(tiny, tmp_path):
    random_model(tiny).save_pretrained(tmp_path / "tiny")
    with pytest.raises(WeightsCorrupt, match="hidden_size"):
        network.load(SMALL, tmp_path / "tiny", "fp32")


def test_a_folder_without_weights_says_what_it_should_hold(tmp_path):
    with pytest.raises(WeightsUnavailable, match=r"model\.safetensors.*`hub` or `random`"):
        weights.locate(SMALL, str(tmp_path))
    with pytest.raises(WeightsUnavailable, match=r"in ~no_such_user_of_this_machine"):
        weights.locate(SMALL, "~no_such_user_of_this_machine")


@pytest.mark.parametrize("name", ["inswapper_128_fp16.onnx", "inswapper_128.onnx.zip", "Inswapper_128.onnx"])
def test_a_file_of_another_name_is_not_taken_for_the_one_beside_it(tmp_path, name):
    card = card_named("inswapper_128")
    (tmp_path / "inswapper_128.onnx").write_bytes(b"another")
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(WeightsUnavailable, match=rf"not read from a file named {re.escape(name)}\.") as caught:
        weights.locate(card, str(tmp_path / name))
    assert "inswapper_128.onnx" in caught.value.remedy
    assert "`hub`" not in caught.value.remedy, "it is not published"
    assert weights.locate(card, str(tmp_path / "inswapper_128.onnx")).path == tmp_path


def test_weights_that_are_not_open_need_a_yes(tmp_path):
    with pytest.raises(LicenseNotAccepted, match=r"CC-BY-NC-4\.0"):
        weights.check_license(LARGE, weights.locate(LARGE, "hub"), accepted=False)
    weights.check_license(LARGE, weights.locate(LARGE, "hub"), accepted=True)
    weights.check_license(LARGE, weights.locate(LARGE, "random"), accepted=False)
    weights.check_license(SMALL, weights.locate(SMALL, "hub"), accepted=False)
    done = depthface("export", LARGE.name, "--repository", tmp_path, HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 1
    assert LARGE.license.url in done.stderr


@pytest.mark.parametrize("name", ["depth_anything_v9", "~no_such_user_of_this_machine/pack"])
def test_an_unknown_model_is_answered_with_those_there_are(name, tmp_path):
    done = depthface("export", name, "--repository", tmp_path)
    assert done.returncode == 1
    assert "depth_anything_v2_small" in done.stderr


def test_a_folder_whose_name_is_no_text_is_refused_before_any_work(hub, tmp_path):
    """Its name would go into the manifest, which comes last."""
    folder = tmp_path / os.fsdecode(b"gr\xf6\xdfe")
    folder.mkdir()
    with pytest.raises(WeightsUnavailable, match="is not UTF-8"):
        weights.locate(hub[0], str(folder))
    link = tmp_path / "plain"
    link.symlink_to(folder)
    with pytest.raises(WeightsUnavailable, match="is not UTF-8"):
        weights.locate(hub[0], str(link))
