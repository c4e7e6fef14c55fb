"""SigLIP in torch: the reference, and the same networks in a form that exports well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import SiglipConfig, SiglipModel

from depthface.contract import Precision
from depthface.families import pretrained
from depthface.families.clip.card import TOKENIZER_FILE
from depthface.families.clip.network import ACTIVATIONS, Layer, copied, reference_of_images, reference_of_texts
from depthface.families.siglip.card import PHOTO_SIDE_PX, TEXT_TOKENS
from depthface.families.siglip.processing import END, PAD, read, tokenizer_from_bytes
from depthface.spec import ModelCard, Source
from depthface.tasks import embedding

__all__ = ["MEAN", "STD", "ImageNetwork", "TextNetwork", "config_of", "load", "reference_model", "sources"]

# Of RGB in 0…1 (preprocessor_config.json `image_mean`, `image_std`).
MEAN = (0.5, 0.5, 0.5)
STD = (0.5, 0.5, 0.5)


def load(card: ModelCard, folder: Path, precision: Precision) -> dict[str, Source]:
    """Build both networks of `card`, each under its name.

    The references map `(B, 224, 224, 3) uint8` and `(B, 64) int32` to `(B, D) float32` of unit length.

    Args:
        card: of the model.
        folder: of weights in the format of `transformers` (config.json, model.safetensors, tokenizer.json).
        precision: of the networks.

    Raises:
        WeightsCorrupt: they are damaged, or another network's.
    """
    return sources(card, reference_model(card, folder), _tokenizer(card, folder), precision)


def sources(card: ModelCard, model: SiglipModel, tokenizer: bytes, precision: Precision) -> dict[str, Source]:
    """As `load`, of a model as `reference_model` gives it, and the bytes of its tokenizer.json."""
    batch = torch.export.Dim("batch", min=1, max=64)
    image, text = card.networks
    facts = {
        embedding.SCALE: f"{model.logit_scale.exp().item():.6g}",
        embedding.BIAS: f"{model.logit_bias.item():.6g}",
    }
    return {
        image.name: Source(
            model=ImageNetwork(model, precision).eval(),
            example=torch.zeros(2, PHOTO_SIDE_PX, PHOTO_SIDE_PX, 3, dtype=torch.uint8),
            dynamic_shapes=({0: batch},),
            reference=lambda pixels: reference_of_images(model, pixels, MEAN, STD),
            facts=facts,
        ),
        text.name: Source(
            model=TextNetwork(model, precision).eval(),
            example=torch.zeros(2, TEXT_TOKENS, dtype=torch.int32),
            dynamic_shapes=({0: batch},),
            reference=lambda tokens: reference_of_texts(model, tokens),
            files={TOKENIZER_FILE: tokenizer},
            facts=facts,
        ),
    }


def reference_model(card: ModelCard, folder: Path) -> SiglipModel:
    """Return the model of a folder as `transformers` has it, in fp32 and evaluation mode."""
    return pretrained.loaded(SiglipModel, card, folder, config_of(card))


def config_of(card: ModelCard) -> SiglipConfig:
    """Return the card's architecture as `transformers` describes it."""
    facts: dict[str, Any] = dict(card.architecture)
    shared = {
        "hidden_size": facts["width"],
        "intermediate_size": facts["intermediate_size"],
        "num_hidden_layers": facts["layers"],
        "num_attention_heads": facts["heads"],
        "hidden_act": facts["hidden_act"],
    }
    return SiglipConfig(
        vision_config={**shared, "image_size": PHOTO_SIDE_PX, "patch_size": facts["patch_size"]},
        text_config={
            **shared,
            "max_position_embeddings": TEXT_TOKENS,
            "vocab_size": facts["vocab_size"],
            "projection_size": facts["width"],
            "pad_token_id": 0,
            "eos_token_id": 1,
            "bos_token_id": 2,
        },
    )


class ImageNetwork(nn.Module):
    """`SiglipModel.get_image_features` (modeling_siglip.py), its normalisation before and unit length after it.

    Shape: `(B, 224, 224, 3) uint8 RGB` to `(B, D) float32`.
    """

    positions: torch.Tensor

    def __init__(self, model: SiglipModel, precision: Precision) -> None:
        super().__init__()
        self.dtype = torch.float16 if precision == "fp16" else torch.float32
        vision = model.vision_model
        self.patches = copied(vision.embeddings.patch_embedding, self.dtype)
        self.register_buffer("positions", vision.embeddings.position_embedding.weight.detach().clone())
        heads = vision.config.num_attention_heads
        self.layers = nn.ModuleList(Layer(layer, heads, self.dtype) for layer in vision.encoder.layers)
        self.after = copied(vision.post_layernorm, torch.float32)
        self.head = _Head(vision.head, self.dtype)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the vectors of photos."""
        x = pixels.float().permute(0, 3, 1, 2) * (1 / 127.5) - 1  # of the mean 0.5 and deviation 0.5
        hidden = self.patches(x.to(self.dtype)).flatten(2).transpose(1, 2).float() + self.positions
        for layer in self.layers:
            hidden = layer(hidden, None)
        return F.normalize(self.head(self.after(hidden)), dim=-1)


class TextNetwork(nn.Module):
    """`SiglipModel.get_text_features` (modeling_siglip.py), unit length after it.

    There is no mask: every token sees all 64, those that fill up too, and the state of the last is the answer.

    Shape: `(B, 64) int32` to `(B, D) float32`.
    """

    positions: torch.Tensor

    def __init__(self, model: SiglipModel, precision: Precision) -> None:
        super().__init__()
        dtype = torch.float16 if precision == "fp16" else torch.float32
        text = model.text_model
        self.words = copied(text.embeddings.token_embedding, torch.float32)
        self.register_buffer("positions", text.embeddings.position_embedding.weight.detach().clone())
        heads = text.config.num_attention_heads
        self.layers = nn.ModuleList(Layer(layer, heads, dtype) for layer in text.encoder.layers)
        self.after = copied(text.final_layer_norm, torch.float32)
        self.projection = copied(text.head, torch.float32)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the vectors of texts."""
        hidden = self.words(tokens) + self.positions
        for layer in self.layers:
            hidden = layer(hidden, None)
        return F.normalize(self.projection(self.after(hidden[:, -1])), dim=-1)


class _Head(nn.Module):
    """`SiglipMultiheadAttentionPoolingHead`: one learned query looks at all patches; an MLP beside a residual path.

    The query is the same for every photo, so that it is a constant here; its scale is in it.
    """

    query: torch.Tensor

    def __init__(self, head: Any, dtype: torch.dtype) -> None:
        super().__init__()
        attention = head.attention
        self.dtype, self.heads, width = dtype, attention.num_heads, attention.embed_dim
        with torch.no_grad():
            weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
            query = F.linear(head.probe[0], weights[0], biases[0]) * (width // self.heads) ** -0.5
            self.register_buffer("query", query.reshape(1, self.heads, 1, -1).to(dtype).clone())
            self.key, self.value = (_linear(*one, dtype) for one in zip(weights[1:], biases[1:], strict=True))
        self.out = copied(attention.out_proj, dtype)
        self.norm = copied(head.layernorm, torch.float32)
        self.up, self.down = copied(head.mlp.fc1, dtype), copied(head.mlp.fc2, dtype)
        self.activation = ACTIVATIONS[head.mlp.config.hidden_act]

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        x = hidden.to(self.dtype)
        key, value = (part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.key, self.value))
        weights = (self.query @ key.transpose(-1, -2)).float().softmax(-1).to(self.dtype)
        mixed = self.out((weights @ value).transpose(1, 2).flatten(2)).float()
        y = self.activation(self.up(self.norm(mixed).to(self.dtype)))
        found: torch.Tensor = (mixed + self.down(y).float())[:, 0]
        return found


def _linear(weight: torch.Tensor, bias: torch.Tensor, dtype: torch.dtype) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight.copy_(weight)
    layer.bias.copy_(bias)
    return layer.to(dtype).requires_grad_(False)


def _tokenizer(card: ModelCard, folder: Path) -> bytes:
    """Return the folder's tokenizer.json; raise `WeightsCorrupt` if its tokens are not those of the card's network."""
    count = int(str(card.architecture["vocab_size"]))

    def is_right(data: bytes) -> bool:
        made = tokenizer_from_bytes(data)
        tokens = read(made, "a photo").tokens
        end, pad = made.token_to_id(END), made.token_to_id(PAD)
        ends = np.flatnonzero(tokens == end)
        if pad != 0 or max(made.get_vocab().values()) >= count or len(ends) != 1 or ends[0] == 0:
            return False
        return bool((tokens[ends[0] + 1 :] == pad).all())

    told = f"of {count} tokens, {PAD} the first, and {END} behind every text"
    return pretrained.tokenizer(card, folder / TOKENIZER_FILE, is_right, told)
