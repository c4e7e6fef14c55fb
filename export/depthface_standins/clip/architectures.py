"""CLIP with weights of nobody: seeded random ones in the true architecture."""

from __future__ import annotations

import json

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPModel

from depthface.families.clip import network
from depthface.spec import ModelCard
from depthface.weights import Random
from depthface_standins.seeding import seeded

__all__ = ["byte_tokenizer", "random_model"]

START, END = "<|startoftext|>", "<|endoftext|>"


def random_model(card: ModelCard, seed: int = Random().seed) -> CLIPModel:
    """Return the card's architecture as `transformers` has it, in fp32; the same seed, the same weights."""
    return seeded(CLIPModel, network.config_of(card), seed)


def byte_tokenizer() -> bytes:
    """Return a tokenizer.json in the form of CLIP's own that knows no words: a token for each byte.

    The bytes have the numbers that they have in CLIP's vocabulary, 256 inside of a word and 256 at its end, and so have
    the tokens of a text's start and end; what is between, the merges, is missing.
    """
    first = [*range(33, 127), *range(161, 173), *range(174, 256)]  # bytes that are shown as they are come first
    shown = sorted(ByteLevel.alphabet(), key=lambda sign: (ord(sign) not in first, ord(sign)))
    vocabulary = {sign: index for index, sign in enumerate(shown)}
    vocabulary |= {f"{sign}</w>": 256 + index for index, sign in enumerate(shown)}
    vocabulary |= {START: 49406, END: 49407}
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": True}
    pattern = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    document: dict[str, object] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": 49406, "content": START, **special}, {"id": 49407, "content": END, **special}],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "NFC"},
                {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
                {"type": "Lowercase"},
            ],
        },
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Removed", "invert": True},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            ],
        },
        "post_processor": {
            "type": "RobertaProcessing",
            "sep": [END, 49407],
            "cls": [START, 49406],
            "trim_offsets": False,
            "add_prefix_space": False,
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": END,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "</w>",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": [],
        },
    }
    return json.dumps(document).encode()
