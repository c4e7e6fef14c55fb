"""SigLIP 2 against `transformers`: what its networks are fed, what they give, and the whole way through Triton."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.clip import TEXTS
from fixtures.exporting import job_of, proven_on, random_sources
from fixtures.photos import VARIETY, encoded, photo, with_orientation
from fixtures.serving import serving
from fixtures.siglip import (
    CARD,
    TINY,
    Reference,
    made_tokenizer,
    published_processor,
    reference_tokenizer,
    write_folder,
)
from transformers import SiglipModel

from depthface import manifest
from depthface.contract import EXPORTED_CONFIG
from depthface.errors import WeightsCorrupt
from depthface.families.clip import parity as vectors
from depthface.families.siglip import network, parity, processing
from depthface.families.siglip.card import TEXT_TOKENS
from depthface.spec import Samples
from depthface_client import Client
from depthface_export.validate import PROOF
from depthface_standins.siglip import byte_tokenizer, random_model

SIZES = ((1, 1), (1, 7), (223, 225), (224, 224), (333, 1001), (2000, 97), (50, 2500))


@pytest.mark.parametrize("size", SIZES, ids=lambda size: "×".join(map(str, size)))
def test_the_square_is_the_processors_to_the_bit(size):
    picture = photo().resize(size)
    processor = published_processor()
    processor.do_rescale = processor.do_normalize = False
    expected = np.moveaxis(np.asarray(processor(picture)["pixel_values"][0]), 0, -1)
    np.testing.assert_array_equal(processing.preprocess(encoded(picture, "PNG")), expected)


def test_below_fp32_the_square_is_nearly_the_same():
    data = encoded(photo("rocket.jpg"), "PNG")
    off = np.abs(processing.preprocess(data, "bf16").astype(int) - processing.preprocess(data))
    assert off.max() <= 2


@pytest.fixture(scope="module")
def tokenizers():
    return processing.tokenizer_from_bytes(made_tokenizer().to_str().encode()), reference_tokenizer()


@pytest.mark.parametrize("text", [*TEXTS, *PROOF.sentences], ids=lambda text: ascii(text[:20]))
def test_the_tokens_are_the_references(tokenizers, text):
    ours, theirs = tokenizers
    wanted = theirs(text, padding="max_length", truncation=True, max_length=TEXT_TOKENS)["input_ids"]
    got = processing.read(ours, text)
    assert (got.tokens.dtype, got.tokens.tolist()) == (np.int32, wanted), repr(text)
    assert got.cut == max(0, len(theirs(text)["input_ids"]) - TEXT_TOKENS)


def test_a_text_is_read_in_lower_case_and_filled_up_behind_its_end():
    made = processing.tokenizer_from_bytes(byte_tokenizer())
    loud, quiet = (processing.read(made, text).tokens.tolist() for text in ("A Cat", "a cat"))
    assert loud == quiet
    assert quiet[-50:] == [0] * 50
    assert quiet.index(1) == len("a cat".replace(" ", "▁").encode())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("weights") / "siglip")


@pytest.fixture(scope="module")
def repository(folder, tmp_path_factory) -> Path:
    from depthface_export.pipeline import export

    target = tmp_path_factory.mktemp("siglip") / "model_repository"
    assert export(job_of(TINY, target, str(folder))) == "exported"
    assert export(job_of(TINY, target, str(folder))) == "unchanged"
    return target


@pytest.fixture(scope="module")
def client(repository) -> Iterator[Client]:
    with serving(repository) as server, Client(server.host, timeout_s=300) as client:
        yield client


@pytest.fixture(scope="module")
def reference(folder) -> Reference:
    return Reference(SiglipModel.from_pretrained(folder).eval())


def assert_equal(expected: np.ndarray, found: list) -> None:
    measured = vectors.measure(expected, np.stack([one.vector for one in found]))
    assert measured["cosine_loss"] <= 1e-6, measured
    assert measured["centred_loss"] <= 1e-5, measured


def test_photographs(client, reference):
    odd = [data for name, data in VARIETY.items() if name != "16-bit PNG"]
    data = [encoded(photo(name), "PNG") for name in ("astronaut.png", "coffee.png", "rocket.jpg")]
    data += [*odd, *map(with_orientation, (3, 6, 8)), encoded(photo().resize((40, 3000)), "PNG")]
    assert_equal(reference.photos(data), client.embed(data))


def test_texts(client, reference):
    texts = [*TEXTS, *PROOF.sentences]
    found = client.embed_text(texts)
    assert_equal(reference.texts(texts), found)
    assert [one.is_cut for one in found] == [
        len(reference.tokenizer(text)["input_ids"]) > TEXT_TOKENS for text in texts
    ]
    assert found[0].vector.shape == (768,)


def test_each_label_is_judged_by_itself(client, reference):
    """By scale and bias as they are in the weights: the card of no model knows them."""
    labels = ["a cat", "an astronaut", "a rocket at night"]
    data = encoded(photo("astronaut.png"), "PNG")
    found = client.classify(data, labels, template="{}")
    expected = dict(zip(labels, reference.chances(data, labels), strict=True))
    for one in found:
        assert abs(one.probability - expected[one.label]) <= 1e-4 * expected[one.label]
    assert not 0.99 < sum(one.probability for one in found) < 1.01


def test_what_only_the_weights_tell_is_kept(repository):
    made = manifest.read(repository / "clip_siglip2_b_16_text_network" / "1")
    assert {name: float(text) for name, text in made.facts.items()} == {
        "scale": pytest.approx(np.exp(4.7), rel=1e-5),
        "bias": -16.5,
    }
    assert "fact.bias" in (repository / "clip_siglip2_b_16_image" / EXPORTED_CONFIG).read_text()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_networks_for_export_are_the_reference(precision):
    photos = [np.random.default_rng(seed).integers(0, 256, (300, 400, 3), np.uint8) for seed in range(3)]
    for name, source in random_sources(TINY, precision).items():

        def run(inputs, source=source):
            (values,) = inputs.values()
            with torch.inference_mode():
                return {"embedding": source.model(torch.from_numpy(values)).numpy()}

        ((_, measured),) = parity.measurements(source, run, Samples(photos, PROOF.sentences))
        for metric, value in measured.items():
            assert value <= TINY.tolerances[precision][metric], (name, metric)


def _edit(path, change):
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


DAMAGE = {
    "config of CLIP": lambda folder: _edit(folder / "config.json", lambda config: config.update(model_type="clip")),
    "config of another width": lambda folder: _edit(
        folder / "config.json", lambda config: config["vision_config"].update(hidden_size=1024)
    ),
    "config of nothing": lambda folder: (folder / "config.json").write_text("{}"),
    "weights are text": lambda folder: (folder / "model.safetensors").write_text("no weights"),
    "tokenizer of nothing": lambda folder: (folder / "tokenizer.json").write_text("{}"),
    "tokenizer without an end": lambda folder: _edit(
        folder / "tokenizer.json", lambda tokenizer: tokenizer.update(post_processor=None)
    ),
    "tokenizer of a larger vocabulary": lambda folder: _edit(
        folder / "tokenizer.json", lambda tokenizer: tokenizer["model"]["vocab"].update({"never heard of": 60_000})
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


def test_the_architecture_is_that_of_the_published_file():
    """Its size is on record: four bytes a parameter, and a header."""
    with torch.device("meta"):
        model = SiglipModel(network.config_of(CARD))
    count = sum(tensor.numel() for tensor in model.state_dict().values() if tensor.is_floating_point())
    (size_bytes,) = (file.size_bytes for file in CARD.weights.files if file.name == "model.safetensors")
    assert 0 < size_bytes - 4 * count < 100_000


@pytest.mark.slow
def test_the_true_architecture(tmp_path, monkeypatch):
    """Whole, in its true size: the largest text network that there is, with 256 000 words."""
    from depthface_export.pipeline import export

    model = random_model(CARD)  # once for both: that takes longer than all that is compared
    monkeypatch.setattr("depthface_standins.siglip.random_model", lambda *_: model)
    with proven_on(photographs=2, sentences=3):  # the server's answers are compared below
        assert export(job_of(CARD, tmp_path / "m")) == "exported"
    data = [encoded(photo(name), "PNG") for name in ("astronaut.png", "coffee.png")]
    reference = Reference(model)
    with serving(tmp_path / "m") as server, Client(server.host, timeout_s=300) as client:
        assert_equal(reference.photos(data), client.embed(data))
        assert client.embed_text("a cat").similarity(client.embed_text("a dog")) < 1
