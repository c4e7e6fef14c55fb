"""SigLIP with weights of nobody: seeded random ones in the true architecture."""

from __future__ import annotations

import json

import numpy as np
import numpy.typing as npt
from transformers import SiglipModel

from depthface.contract import Precision
from depthface.families.siglip import network
from depthface.families.siglip.processing import END, PAD
from depthface.spec import ModelCard, Source
from depthface.weights import Random
from depthface_standins.seeding import seeded

__all__ = ["byte_tokenizer", "load", "pictures", "random_model"]


def load(card: ModelCard, weights: Random, precision: Precision) -> dict[str, Source]:
    """As `network.load`."""
    return network.sources(card, random_model(card, weights.seed), byte_tokenizer(), precision)


def pictures() -> list[npt.NDArray[np.uint8]]:
    """Return none: random weights see nothing in particular."""
    return []


def random_model(card: ModelCard, seed: int = Random().seed) -> SiglipModel:
    """Return the card's architecture as `transformers` has it, in fp32; the same seed, the same weights."""
    return seeded(SiglipModel, network.config_of(card), seed)


def byte_tokenizer() -> bytes:
    """Return a tokenizer.json in the form of Gemma's own that knows no words: a token for each byte."""
    special = [PAD, END, "<bos>", "<unk>"]
    vocabulary = {token: index for index, token in enumerate([*special, *(f"<0x{byte:02X}>" for byte in range(256))])}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    first = {"Sequence": {"id": "A", "type_id": 0}}
    last = {"SpecialToken": {"id": END, "type_id": 0}}
    document: dict[str, object] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": vocabulary[token], "content": token, **flags} for token in special],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [first, last],
            "pair": [first, last, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {END: {"id": END, "ids": [vocabulary[END]], "tokens": [END]}},
        },
        "decoder": None,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": [],
        },
    }
    return json.dumps(document).encode()
