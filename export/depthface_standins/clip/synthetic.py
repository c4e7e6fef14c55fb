"""Weights that are set by hand: drawings and words of their colours and shapes, in one space.

A photo is a soft histogram of the nearest colours, what differs from grey fills a part of its bounding box, and that
part tells a shape. A text is the sum of the colours and shapes that it names. Both are mapped into the card's width by
the same orthonormal matrix. What is neither, on either side, is the vector of nothing.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from depthface.families.clip.card import FEWEST_TOKENS, PHOTO_SIDE_PX, TEXT_TOKENS, TOKENIZER_FILE
from depthface.spec import ModelCard, Source
from depthface.tasks import embedding
from depthface_standins.clip.scenes import BACKGROUND, COLOURS, FILLED, SHAPES

__all__ = ["CONCEPTS", "WORDS", "sources", "tokenizer"]

CONCEPTS = (*COLOURS, *SHAPES)
"""What an axis of the space stands for; the last axis, after these, is that of nothing."""

WORDS = {
    **{name: name for name in CONCEPTS},
    **{f"{name}s": name for name in SHAPES},
    **dict.fromkeys(("crimson", "rot", "赤", "красный", "أحمر", "🔴"), "red"),
    **dict.fromkeys(("disc", "dot"), "circle"),
}
"""The words that are known, each with what it means."""

UNKNOWN, START, END = "<|unknown|>", "<|startoftext|>", "<|endoftext|>"

NOTHING = 0.05
"""How much of nothing is in everything: a blank photo and a text without a known word have a vector too."""

_COLOUR_SPREAD = 0.005
"""Of the squared distance of two colours, 0…3: nearest wins, and what lies between is shared."""

_FILL_SPREAD = 0.004
"""Of the squared difference of two fills."""

_STEEPNESS = 40.0

_FACTS = {embedding.SCALE: "100"}
"""Labels are told apart as sharply as by published weights."""


def sources(card: ModelCard) -> dict[str, Source]:
    """As `network.load`; whatever the precision, the modules are in fp32."""
    batch = torch.export.Dim("batch", min=1, max=64)
    image, text = card.networks
    (width,) = image.outputs[0].dims
    photos, texts = _Photos(width).eval(), _Texts(width).eval()
    return {
        image.name: Source(
            model=photos,
            example=torch.zeros(2, PHOTO_SIDE_PX, PHOTO_SIDE_PX, 3, dtype=torch.uint8),
            dynamic_shapes=({0: batch},),
            reference=lambda pixels: _run(photos, pixels),
            facts=_FACTS,
        ),
        text.name: Source(
            model=texts,
            example=torch.zeros(2, FEWEST_TOKENS, dtype=torch.int32),
            dynamic_shapes=({0: batch, 1: torch.export.Dim("length", min=2, max=TEXT_TOKENS)},),
            reference=lambda tokens: _run(texts, tokens),
            files={TOKENIZER_FILE: tokenizer()},
            facts=_FACTS,
        ),
    }


def tokenizer() -> bytes:
    """Return a tokenizer.json that knows `WORDS` and nothing else."""
    vocabulary = {word: index for index, word in enumerate((UNKNOWN, *WORDS, START, END))}
    ids = {word: {"id": word, "ids": [vocabulary[word]], "tokens": [word]} for word in (START, END)}
    first, text, last = {"SpecialToken": {"id": START, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, END
    document: dict[str, object] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]},
        "pre_tokenizer": {"type": "Whitespace"},  # words, and runs of signs
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [first, text, {"SpecialToken": {"id": last, "type_id": 0}}],
            "pair": [first, text, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": ids,
        },
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": UNKNOWN},
    }
    return json.dumps(document).encode()


class _Photos(nn.Module):
    """Shape: `(B, 224, 224, 3) uint8 RGB` to `(B, D) float32` of unit length."""

    palette: torch.Tensor
    fills: torch.Tensor
    nothing: torch.Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("palette", torch.tensor((BACKGROUND, *COLOURS.values())).float() / 255)
        self.register_buffer("fills", torch.tensor(list(FILLED.values()), dtype=torch.float32))
        self.register_buffer("nothing", torch.full((1, 1), NOTHING))
        self.projection = _projection(width)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = pixels.float() / 255
        distances = (x.unsqueeze(-2) - self.palette).square().sum(dim=-1)
        shares = (-distances / _COLOUR_SPREAD).softmax(dim=-1)  # (B, 224, 224, colours), grey first
        seen = 1 - shares[..., 0]
        area = seen.mean(dim=(1, 2)).unsqueeze(-1)
        colours = shares[..., 1:].mean(dim=(1, 2)) / (area + 1e-3)
        tall, wide = (
            torch.sigmoid(_STEEPNESS * (seen.amax(dim=dim) - 0.5)).mean(dim=-1, keepdim=True) for dim in (2, 1)
        )
        filled = area / (tall * wide + 1e-3)
        shapes = (-(filled - self.fills).square() / _FILL_SPREAD).softmax(dim=-1) * (area / (area + 1e-2))
        nothing = self.nothing.expand(pixels.shape[0], -1)
        return functional.normalize(self.projection(torch.cat((colours, shapes, nothing), dim=-1)), dim=-1)


class _Texts(nn.Module):
    """Shape: `(B, L) int32` to `(B, D) float32` of unit length."""

    def __init__(self, width: int) -> None:
        super().__init__()
        rows = [torch.zeros(len(CONCEPTS) + 1)]
        rows += [
            functional.one_hot(torch.tensor(CONCEPTS.index(of)), len(CONCEPTS) + 1).float() for of in WORDS.values()
        ]
        start = torch.zeros(len(CONCEPTS) + 1)
        start[-1] = NOTHING
        table = torch.stack([*rows, start, torch.zeros(len(CONCEPTS) + 1)])
        self.words = nn.Embedding(len(table), len(CONCEPTS) + 1, _weight=table).requires_grad_(False)
        self.projection = _projection(width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return functional.normalize(self.projection(self.words(tokens).sum(dim=1)), dim=-1)


def _projection(width: int) -> nn.Linear:
    """Return the matrix that both sides share: its columns are orthonormal, so that it keeps angles."""
    columns, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((width, len(CONCEPTS) + 1)))
    layer = nn.Linear(len(CONCEPTS) + 1, width, bias=False).requires_grad_(False)
    layer.weight.copy_(torch.from_numpy(columns))
    return layer


def _run(module: nn.Module, values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    with torch.inference_mode():
        found: torch.Tensor = module(torch.from_numpy(values))
    return found.numpy()
