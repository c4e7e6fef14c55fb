"""The whole way through Triton against `transformers`, on the same files and texts."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
import pytest
from fixtures.clip import CARD, TEXTS, Reference
from fixtures.exporting import job_of, proven_on
from fixtures.photos import VARIETY, encoded, photo, with_orientation
from fixtures.serving import serving
from PIL import Image

from depthface.families.clip import parity
from depthface_client import Client
from depthface_export.validate import PROOF
from depthface_standins.clip.architectures import random_model
from depthface_standins.clip.scenes import COLOURS, SHAPES, draw

NAMES = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "camera.png", "coins.png", "hubble_deep_field.jpg")


def assert_equal(expected: np.ndarray, found: list) -> None:
    got = np.stack([one.vector for one in found])
    measured = parity.measure(expected, got)
    assert measured["cosine_loss"] <= 1e-6, measured
    assert measured["centred_loss"] <= 1e-5, measured


def photographs() -> list[bytes]:
    """Photographs and odd files."""
    shipped = [(files("skimage") / "data" / name).read_bytes() for name in NAMES]
    odd = [data for name, data in VARIETY.items() if name != "16-bit PNG"]
    turned = [with_orientation(orientation) for orientation in (3, 6, 8)]
    return [*shipped, *odd, *turned, encoded(photo().resize((2, 3)), "PNG"), encoded(photo().resize((40, 1900)), "PNG")]


def many() -> list[bytes]:
    """300 small pictures: cut out of photographs, and drawn."""
    generator = np.random.default_rng(0)
    cuts = []
    for name in NAMES[:4]:
        picture = photo(name)
        for _ in range(50):
            side = int(generator.integers(60, 200))
            x, y = generator.integers(0, picture.width - side), generator.integers(0, picture.height - side)
            cuts.append(picture.crop((x, y, x + side, y + side)))
    drawn = [
        draw(colour, shape, size=(90, 120), seed=seed) for colour in COLOURS for shape in SHAPES for seed in range(5)
    ]
    return [encoded(picture, "PNG") for picture in [*cuts, *map(Image.fromarray, drawn[:100])]]


@pytest.fixture(scope="module")
def client(folder_server):
    with Client(folder_server.host, timeout_s=300) as client:
        yield client


def test_photographs(client, reference):
    data = photographs()
    assert_equal(reference.photos(data), client.embed(data))


def test_real_photographs(client, reference, real_photos):
    data = [path.read_bytes() for path in real_photos]
    assert_equal(reference.photos(data), client.embed(data))


def test_texts(client, reference):
    texts = [*TEXTS, *PROOF.sentences]
    assert_equal(reference.texts(texts), client.embed_text(texts))


def test_a_search_gives_the_same_ten(client, reference):
    data = many()
    expected, got = reference.photos(data), np.stack([one.vector for one in client.embed(data)])
    queries = [0, 57, 123, 199, 222, 299]
    for query in queries:
        # What lies nearer together than 1e-6 may change places.
        wanted = expected @ expected[query]
        order = (got @ got[query]).argsort()[::-1][:10]
        np.testing.assert_allclose(np.sort(wanted)[::-1][:10], wanted[order], atol=1e-6)
    texts = ["a red circle", "a cat", "the night sky"]
    words, read = reference.texts(texts), client.embed_text(texts)
    for row, one in zip(words, read, strict=True):
        order = (got @ one.vector).argsort()[::-1][:10]
        np.testing.assert_allclose(np.sort(expected @ row)[::-1][:10], (expected @ row)[order], atol=1e-6)


def test_the_same_label(client, reference):
    """By the scale as it is in the weights: the card of no model knows it."""
    labels = ["cat", "astronaut", "rocket", "cup of coffee", "red circle"]
    for file in photographs()[:10]:
        found = client.classify(file, labels)
        chances = reference.chances(file, [f"a photo of a {label}." for label in labels])
        expected = dict(zip(labels, chances, strict=True))
        assert [one.label for one in found] == sorted(labels, key=lambda label: -expected[label])
        for one in found:
            assert abs(one.probability - expected[one.label]) <= 1e-4 * expected[one.label]


@pytest.mark.slow
def test_the_true_architecture(tmp_path, monkeypatch):
    """Whole, in its true size; of the small one everything else is shown above, and what the command does elsewhere."""
    from depthface_export.pipeline import export

    model = random_model(CARD)  # once for both: that takes longer than all that is compared
    monkeypatch.setattr("depthface_standins.clip.architectures.random_model", lambda *_: model)
    with proven_on(photographs=2, sentences=3):  # the server's answers are compared below
        assert export(job_of(CARD, tmp_path / "m")) == "exported"
    data = photographs()[:3]
    reference = Reference(model)
    with serving(tmp_path / "m") as server, Client(server.host, timeout_s=300) as client:
        assert client.weights("clip_vit_b_32_image") == "random, seed 0"
        assert_equal(reference.photos(data), client.embed(data))
        assert client.embed_text("a cat").similarity(client.embed_text("a dog")) < 1
