"""A folder of weights as somebody made it: sound, and damaged in each part."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from fixtures.clip import CARD, TINY
from fixtures.exporting import making_of, random_sources

from depthface import manifest
from depthface.contract import EXPORTED_CONFIG
from depthface.errors import WeightsCorrupt, WeightsUnavailable
from depthface.families import card_named
from depthface.families.clip import network, parity
from depthface.spec import Samples
from depthface_export.validate import PROOF
from depthface_export.weights import locate


def test_an_export_keeps_the_tokenizer_and_vouches_for_it(folder, folder_repository):
    version = folder_repository / "clip_vit_b_32_text_network" / "1"
    assert (version / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    found = manifest.read(version)
    assert found is not None and found.differences(version) == []
    assert list(found.files) == ["tokenizer.json"]
    assert set(found.weights["sha256"]) == {"config.json", "model.safetensors", "tokenizer.json"}
    assert manifest.read(folder_repository / "clip_vit_b_32_image_network" / "1").files == {}


def test_what_only_the_weights_tell_is_kept(folder_repository):
    for kind in ("image", "text"):
        made = manifest.read(folder_repository / f"clip_vit_b_32_{kind}_network" / "1")
        assert {name: float(text) for name, text in made.facts.items()} == {"scale": pytest.approx(np.exp(4.2), 1e-5)}
        assert "fact.scale" in (folder_repository / f"clip_vit_b_32_{kind}" / EXPORTED_CONFIG).read_text()


@pytest.mark.parametrize("name", ["tokenizer.json"])
def test_a_tokenizer_that_changed_is_seen(folder_repository, tmp_path, name):
    version = tmp_path / "1"
    shutil.copytree(folder_repository / "clip_vit_b_32_text_network" / "1", version)
    (version / name).write_text((version / name).read_text() + " ")
    assert [name in difference for difference in manifest.read(version).differences(version)] == [True]
    (version / name).unlink()
    assert [name in difference for difference in manifest.read(version).differences(version)] == [True]


def _edit(path, change):
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def _other_width(config):
    config["vision_config"]["hidden_size"] = 96


def _fewer_words(tokenizer):
    tokenizer["model"]["vocab"].pop("!")
    tokenizer["model"]["merges"] = []


def _more_words(tokenizer):
    tokenizer["model"]["vocab"]["never heard of"] = 60_000


DAMAGE = {
    "config is no JSON": lambda folder: (folder / "config.json").write_text("{"),
    "config is a list": lambda folder: (folder / "config.json").write_text("[]"),
    "config of nothing": lambda folder: (folder / "config.json").write_text("{}"),
    "config with a text for a part": lambda folder: _edit(
        folder / "config.json", lambda config: config.update(text_config="x")
    ),
    "config of another width": lambda folder: _edit(folder / "config.json", _other_width),
    "weights are text": lambda folder: (folder / "model.safetensors").write_text("no weights"),
    "weights are short": lambda folder: (folder / "model.safetensors").write_bytes(
        (folder / "model.safetensors").read_bytes()[:-100]
    ),
    "weights are empty": lambda folder: (folder / "model.safetensors").write_bytes(b""),
    "tokenizer is empty": lambda folder: (folder / "tokenizer.json").write_bytes(b""),
    "tokenizer is no JSON": lambda folder: (folder / "tokenizer.json").write_text("{"),
    "tokenizer is not UTF-8": lambda folder: (folder / "tokenizer.json").write_bytes(b"\xff\xfe{}"),
    "tokenizer of nothing": lambda folder: (folder / "tokenizer.json").write_text("{}"),
    "tokenizer of a larger vocabulary": lambda folder: _edit(folder / "tokenizer.json", _more_words),
    "tokenizer is another model's": lambda folder: (folder / "tokenizer.json").write_text(
        json.dumps(
            {"version": "1.0", "added_tokens": [], "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}
        )
    ),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_folder_is_refused_in_a_sentence_with_a_remedy(folder, tmp_path, damage):
    copy = shutil.copytree(folder, tmp_path / "copy")
    damage(copy)
    with pytest.raises(WeightsCorrupt) as caught:
        network.load(TINY, copy, "fp32")
    assert "\n" not in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize("part", ["vision_config", "text_config"])
@pytest.mark.parametrize(
    ("fact", "value"),
    [("num_attention_heads", 4), ("hidden_act", "gelu"), ("layer_norm_eps", 1e-3), ("num_hidden_layers", 1)],
)
def test_a_config_of_other_numbers_is_refused_though_the_weights_would_fit(folder, tmp_path, part, fact, value):
    """The reference is built of the card too, so that the comparison with it cannot tell."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    _edit(copy / "config.json", lambda config: config[part].update({fact: value}))
    with pytest.raises(WeightsCorrupt, match=rf"{part}\.{fact} {value}; "):
        network.load(TINY, copy, "fp32")


def test_a_folder_that_lacks_a_file_is_told_which(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "tokenizer.json").unlink()
    with pytest.raises(WeightsUnavailable, match=r"no tokenizer\.json"):
        locate(TINY, str(copy))


def test_weights_that_lack_a_tensor_are_refused(folder, tmp_path):
    from safetensors.numpy import load_file, save_file

    copy = shutil.copytree(folder, tmp_path / "copy")
    tensors = load_file(copy / "model.safetensors")
    del tensors["text_projection.weight"]
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsCorrupt, match=r"lacks 1 .*text_projection"):
        network.load(TINY, copy, "fp32")


def test_weights_of_more_layers_are_refused(folder, tmp_path):
    """transformers leaves out what it has no place for, and goes on."""
    from safetensors.numpy import load_file, save_file

    copy = shutil.copytree(folder, tmp_path / "copy")
    tensors = load_file(copy / "model.safetensors")
    layer = "text_model.encoder.layers"
    more = {name.replace(".1.", ".2."): of.copy() for name, of in tensors.items() if name.startswith(f"{layer}.1.")}
    save_file({**tensors, **more}, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsCorrupt, match=rf"{len(more)} tensors, {layer}\.2\."):
        network.load(TINY, copy, "fp32")
    old = {"text_model.embeddings.position_ids": np.arange(77)[None]}  # as files of before transformers 4.31 have it
    save_file({**tensors, **old}, copy / "model.safetensors", {"format": "pt"})
    network.load(TINY, copy, "fp32")


def test_weights_that_hold_no_numbers_fail_the_export(folder, tmp_path):
    from safetensors.numpy import load_file, save_file

    from depthface.errors import ParityError
    from depthface_export.pipeline import export

    copy = shutil.copytree(folder, tmp_path / "copy")
    tensors = load_file(copy / "model.safetensors")
    tensors["visual_projection.weight"] = np.full_like(tensors["visual_projection.weight"], np.nan)
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    from fixtures.exporting import job_of

    with pytest.raises(ParityError, match="not finite"):
        export(job_of(TINY, tmp_path / "m", str(copy)))
    assert not list((tmp_path / "m").glob("clip*"))


def test_the_activation_of_each_training_is_its_own():
    """Either one gives plausible vectors."""
    assert CARD.architecture["hidden_act"] == "quick_gelu"
    assert card_named("clip_vit_b_32_laion2b").architecture["hidden_act"] == "gelu"
    for card in (CARD, card_named("clip_vit_b_32_laion2b")):
        config = network.config_of(card)
        assert config.vision_config.hidden_act == config.text_config.hidden_act == card.architecture["hidden_act"]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_networks_for_export_are_the_reference(precision):
    import torch

    photos = [np.random.default_rng(seed).integers(0, 256, (300, 400, 3), np.uint8) for seed in range(3)]
    for name, source in random_sources(TINY, precision).items():

        def run(inputs, source=source):
            (values,) = inputs.values()
            with torch.inference_mode():
                return {"embedding": source.model(torch.from_numpy(values)).numpy()}

        ((_, measured),) = parity.measurements(source, run, Samples(photos, PROOF.sentences))
        for metric, value in measured.items():
            assert value <= TINY.tolerances[precision][metric], (name, metric)


def test_the_architecture_is_that_of_the_published_file():
    """Its size is on record: four bytes a parameter, eight for each place that its old file counts, and a header."""
    import torch
    from transformers import CLIPModel

    with torch.device("meta"):
        model = CLIPModel(network.config_of(CARD))
    count = sum(parameter.numel() for parameter in model.parameters())
    (size_bytes,) = (file.size_bytes for file in CARD.weights.files if file.name == "model.safetensors")
    assert count == 151_277_313
    assert 0 < size_bytes - 4 * count < 100_000


@pytest.mark.parametrize(("precision", "most"), [("fp32", 1e-6), ("fp16", 1e-4)])
def test_a_text_gives_the_same_at_its_own_length_and_filled_up(precision, most):
    import torch

    model = random_sources(TINY, precision)["clip_vit_b_32_text_network"].model
    generator = np.random.default_rng(0)
    for length in (2, 3, 8, 9, 40, 76, 77):
        tokens = generator.integers(0, 49406, length).astype(np.int32)
        tokens[-1] = 49407
        batch = np.stack([tokens, np.roll(tokens, 1)])  # of the second, the end comes first
        with torch.inference_mode():
            short, long = (model(torch.from_numpy(one)).numpy() for one in (batch, filled_up(batch)))
        np.testing.assert_allclose(short, long, atol=most)


def filled_up(tokens):
    return np.pad(tokens, ((0, 0), (0, 77 - tokens.shape[1])), constant_values=49407)


def test_the_measure_sees_what_is_wrong():
    good = np.eye(4, 8, dtype=np.float32)
    assert parity.measure(good, good)["cosine_loss"] == 0
    assert parity.measure(good, good[::-1])["cosine_loss"] == 1
    for bad in (good * 2, good * np.nan, good[:3], good * 0):
        assert not min(parity.measure(good, bad).values()) <= 1e9
    # One dimension flatters the cosine: what tells the vectors apart is lost, and only the other measure says so.
    flat = np.concatenate([np.full((4, 1), 100, np.float32), good], axis=1)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    turned = np.concatenate([flat[:, :1], np.roll(flat[:, 1:], 1, axis=1)], axis=1)
    found = parity.measure(flat, turned)
    assert found["cosine_loss"] < 1e-3
    assert found["centred_loss"] > 0.5


def test_an_export_with_the_wrong_activation_fails(tmp_path):
    import dataclasses

    from depthface.errors import ParityError
    from depthface_export import onnx, validate

    wrong = random_sources(dataclasses.replace(TINY, architecture={**TINY.architecture, "hidden_act": "gelu"}))
    name = "clip_vit_b_32_image_network"
    source = dataclasses.replace(random_sources(TINY)[name], model=wrong[name].model)
    making = making_of(TINY, source, tmp_path, "_image_network")
    onnx.onnx_from_source(source, making.network, making.model)
    with pytest.raises(ParityError, match=r"cosine_loss|centred_loss"):
        validate.prove(making, validate.runner(making.model))
