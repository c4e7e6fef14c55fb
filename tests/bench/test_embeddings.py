"""What embeddings are held against does the work that it is said to do."""

from __future__ import annotations

import json

import numpy as np
import pytest
from fixtures.clip import TINY, Reference
from fixtures.photos import VARIETY
from starlette.testclient import TestClient

from depthface.errors import DepthfaceError
from depthface.families.clip import processing
from depthface.families.clip.card import TEXT_TOKENS
from depthface_bench import embeddings, repositories, services
from depthface_standins.clip import architectures

PHOTO = VARIETY["landscape JPEG"]


@pytest.fixture
def tiny(monkeypatch):
    """The peers with a network of a hundredth of its size; speed is not looked at here."""
    monkeypatch.setattr(embeddings, "embedding_card", lambda: TINY)
    return architectures.random_model(TINY)


def test_the_library_gives_what_transformers_gives(tiny):
    (expected,) = Reference(tiny).photos([PHOTO])
    np.testing.assert_allclose(embeddings.library("image", 2)(PHOTO), expected, atol=1e-6)


def test_texts_are_read_as_the_server_reads_them(tiny):
    """Of one tokenizer, and at their own length; the reference is filled up."""
    from depthface.families.clip import network

    tokenizer = processing.tokenizer_from_bytes(architectures.byte_tokenizer())
    for text in embeddings.TEXTS:
        tokens = processing.read(tokenizer, text.decode()).tokens
        assert 8 < len(np.trim_zeros(tokens - tokens[-1], "b")) + 1 <= 16
        (expected,) = network.reference_of_texts(tiny, processing.filled(tokens, TEXT_TOKENS)[None])
        np.testing.assert_allclose(embeddings.library("text", 2)(text), expected, atol=1e-6)


@pytest.mark.parametrize("kind", embeddings.KINDS)
def test_the_service_answers_as_the_library_does(tiny, kind):
    (item,) = embeddings.items(kind, 1)[:1]
    with TestClient(services.application(kind, None)) as client:
        answer = client.post("/predict", content=item)
    assert answer.status_code == 200
    np.testing.assert_allclose(json.loads(answer.text)["embedding"], embeddings.library(kind, 2)(item), atol=1e-6)


def test_a_vector_that_is_no_number_is_not_the_same():
    good = np.eye(1, 8, dtype=np.float32)[0]
    embeddings.same_vector(good, good)
    for bad in (-good, good * np.nan, np.roll(good, 1)):
        with pytest.raises(DepthfaceError, match="not the same work"):
            embeddings.same_vector(good, bad)


def test_the_measured_models_are_some_that_there_are():
    assert repositories.depth_card().serves[repositories.DEPTH] == (repositories.DEPTH_NETWORK,)
    assert embeddings.embedding_card().name == repositories.EMBEDDINGS
    assert [embeddings.model_of(kind) for kind in embeddings.KINDS] == [
        pipeline.name for pipeline in embeddings.embedding_card().pipelines
    ]
