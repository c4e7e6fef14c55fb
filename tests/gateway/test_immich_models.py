"""Which of the served models immich's names mean, and what a gateway refuses to begin with. No server is asked."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from depthface.errors import InvalidInput, ServeError, ServerFault
from depthface_client import ModelInfo
from depthface_gateway import immich
from depthface_gateway.immich.embedding import literal
from depthface_gateway.immich.entries import CLIP, FACES, Entry, cleaned, parsed
from depthface_gateway.immich.models import Models, preloaded
from depthface_gateway.meanings import exportable


@pytest.mark.parametrize(
    ("theirs", "clean"),
    [
        ("ViT-B-32__openai", "ViT-B-32__openai"),
        ("immich-app/ViT-B-32__openai", "ViT-B-32__openai"),
        ("a:b\\c.d", "a_b_cd"),
        ("../../etc/passwd", "passwd"),
    ],
)
def test_names_are_cleaned_as_immich_does(theirs, clean):
    assert cleaned(theirs) == clean
    (entry,) = parsed(json.dumps({CLIP: {"visual": {"modelName": theirs}}}))
    assert entry.model == clean


def served(name: str, weights: str = "", **more: object) -> ModelInfo:
    known = exportable().get(name)
    if known is not None and not more:
        return replace(known, ready=True, weights=weights)
    facts = {"name": name, "ready": True, "weights": weights, "task": "faces", "precision": "fp32", "is_lazy": False}
    return ModelInfo(**facts | more)


def models_of(*models: ModelInfo, **aliases: str) -> Models:
    triton = SimpleNamespace(models={model.name: model for model in models}, is_alive=True)
    return Models.of(triton, aliases, {})


def embedding(name: str, weights: str, taking: str, space: str) -> ModelInfo:
    return served(name, weights, task="embedding", inputs=(taking,), facts={"space": space})


@pytest.mark.parametrize(
    ("theirs", "type", "ours"),
    [
        ("ViT-B-32__openai", "visual", "clip_vit_b_32_image"),  # what the card is made for, whatever the weights
        ("ViT-B-32__openai", "textual", "clip_vit_b_32_text"),
        ("ViT-B-32__laion2b-s34b-b79k", "visual", "clip_vit_b_32_laion2b_image"),
        ("clip_vit_b_32", "visual", "clip_vit_b_32_image"),  # by its own name
        ("my-own", "visual", "eyes"),  # by an alias of the space
        ("the-one", "visual", "eyes"),  # by an alias of the model
        ("ViT-B-16__openai", "visual", None),
        ("ViT-B-32__openai", "detection", None),
        ("../x", "visual", None),
    ],
)
def test_clips_are_known_by_their_weights_their_cards_and_by_aliases(theirs, type, ours):
    models = models_of(
        served("clip_vit_b_32_laion2b_image", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K@1a25a44"),
        served("clip_vit_b_32_image", "synthetic"),
        served("clip_vit_b_32_text", "synthetic"),
        embedding("eyes", "openai/clip-vit-large-patch14@1", "image", "large"),
        embedding("words", "openai/clip-vit-large-patch14@1", "text", "large"),
        **{"my-own": "large", "the-one": "eyes"},
    )
    assert models.name(Entry(CLIP, type, theirs, {})) == ours


@pytest.mark.parametrize("alias", ["my.org/eyes.v2", "eyes.v2", "eyesv2"])
def test_an_alias_is_found_by_the_name_that_immich_sends(alias):
    models = models_of(embedding("eyes", "own", "image", "large"), **{alias: "large"})
    (entry,) = parsed(json.dumps({CLIP: {"visual": {"modelName": "my.org/eyes.v2"}}}))
    assert models.name(entry) == "eyes"


@pytest.mark.parametrize(
    ("theirs", "ours"), [("mine", "anything"), ("buffalo_l", "anything"), ("anything", "anything"), ("other", None)]
)
def test_packs_are_known_by_what_their_analysis_says(theirs, ours):
    finding = served("face_analysis_of_another", facts={})  # it tells no pack: it finds faces alone
    models = models_of(served("anything", facts={"pack": "mine"}), finding, buffalo_l="mine")
    assert models.name(Entry(FACES, "recognition", theirs, {})) == ours


def test_what_is_to_be_preloaded_is_read_from_immichs_variables():
    variables = {
        "MACHINE_LEARNING_PRELOAD__CLIP__TEXTUAL": "a, immich-app/b.c",
        "MACHINE_LEARNING_PRELOAD__FACIAL_RECOGNITION": "buffalo_l",
    }
    assert [(entry.task, entry.type, entry.model) for entry in preloaded(variables)] == [
        (CLIP, "textual", "a"),
        (CLIP, "textual", "bc"),
        (FACES, "recognition", "buffalo_l"),
    ]


def test_a_vector_is_a_literal_of_pgvector():
    vector = np.array([0.1, -1e-7, 1, 0], np.float32)
    assert literal(vector) == "[0.1,-1e-7,1.0,0.0]"
    with pytest.raises(ServerFault):
        literal(np.array([np.nan], np.float32))


def test_a_pack_that_does_not_fit_immichs_column_is_refused_at_the_start():
    def context(*names: str) -> SimpleNamespace:
        models = {name: served(name, facts={"pack": name, "embedding_size": "128"}) for name in names}
        return SimpleNamespace(triton=SimpleNamespace(models=models), settings=SimpleNamespace(aliases={}))

    with pytest.raises(ServeError, match="face vectors of 128 numbers, and immich stores 512"):
        immich._check_width(context("small"))
    immich._check_width(context("small", "other"))


@pytest.mark.parametrize("upstream", ["immich-ml:3003", "ftp://immich-ml", "http://"])
def test_an_upstream_that_cannot_be_is_refused(upstream):
    with pytest.raises(InvalidInput, match="not an HTTP address"):
        immich.Upstream(upstream, 1.0)
