"""CLIP in torch: the reference, and the same networks in a form that exports well."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPConfig, CLIPModel

from depthface.contract import Precision
from depthface.families import pretrained
from depthface.families.clip.card import FEWEST_TOKENS, PHOTO_SIDE_PX, TEXT_TOKENS, TOKENIZER_FILE
from depthface.families.clip.processing import END, read, tokenizer_from_bytes
from depthface.spec import ModelCard, Source
from depthface.tasks import embedding

__all__ = [
    "ACTIVATIONS",
    "MEAN",
    "STD",
    "ImageNetwork",
    "Layer",
    "TextNetwork",
    "config_of",
    "copied",
    "load",
    "reference_model",
    "reference_of_images",
    "reference_of_texts",
    "sources",
]

# Of RGB in 0…1 (preprocessor_config.json `image_mean`, `image_std`).
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),  # activations.py, `QuickGELUActivation`
    "gelu": F.gelu,
    "gelu_pytorch_tanh": functools.partial(F.gelu, approximate="tanh"),
}
"""Of an MLP, by the name that a config.json has for it."""

_HIDDEN = -3e4
"""What hides a token that comes later: finite, so that fp16 holds it, and its exponential is 0."""


def load(card: ModelCard, folder: Path, precision: Precision) -> dict[str, Source]:
    """Build both networks of `card`, each under its name.

    The references map `(B, 224, 224, 3) uint8` and `(B, L) int32` to `(B, D) float32` of unit length.

    Args:
        card: of the model.
        folder: of weights in the format of `transformers` (config.json, model.safetensors, tokenizer.json).
        precision: of the networks.

    Raises:
        WeightsCorrupt: they are damaged, or another network's.
    """
    return sources(card, reference_model(card, folder), _tokenizer(card, folder), precision)


def sources(card: ModelCard, model: CLIPModel, tokenizer: bytes, precision: Precision) -> dict[str, Source]:
    """As `load`, of a model as `reference_model` gives it, and the bytes of its tokenizer.json."""
    batch = torch.export.Dim("batch", min=1, max=64)
    image, text = card.networks
    facts = {embedding.SCALE: f"{model.logit_scale.exp().item():.6g}"}
    return {
        image.name: Source(
            model=ImageNetwork(model, precision).eval(),
            example=torch.zeros(2, PHOTO_SIDE_PX, PHOTO_SIDE_PX, 3, dtype=torch.uint8),
            dynamic_shapes=({0: batch},),
            reference=lambda pixels: reference_of_images(model, pixels),
            facts=facts,
        ),
        text.name: Source(
            model=TextNetwork(model, precision).eval(),
            example=torch.zeros(2, FEWEST_TOKENS, dtype=torch.int32),
            dynamic_shapes=({0: batch, 1: torch.export.Dim("length", min=2, max=TEXT_TOKENS)},),
            reference=lambda tokens: reference_of_texts(model, tokens),
            files={TOKENIZER_FILE: tokenizer},
            facts=facts,
        ),
    }


def reference_model(card: ModelCard, folder: Path) -> CLIPModel:
    """Return the model of a folder as `transformers` has it, in fp32 and evaluation mode."""
    return pretrained.loaded(CLIPModel, card, folder, config_of(card))


def config_of(card: ModelCard) -> CLIPConfig:
    """Return the card's architecture as `transformers` describes it."""
    facts: dict[str, Any] = dict(card.architecture)
    shared = {"projection_dim": facts["projection_dim"], "hidden_act": facts["hidden_act"]}
    return CLIPConfig(
        projection_dim=facts["projection_dim"],
        vision_config={
            **shared,
            "hidden_size": facts["vision_hidden_size"],
            "intermediate_size": facts["vision_intermediate_size"],
            "num_hidden_layers": facts["vision_layers"],
            "num_attention_heads": facts["vision_heads"],
            "image_size": PHOTO_SIDE_PX,
            "patch_size": facts["patch_size"],
        },
        text_config={
            **shared,
            "hidden_size": facts["text_hidden_size"],
            "intermediate_size": facts["text_intermediate_size"],
            "num_hidden_layers": facts["text_layers"],
            "num_attention_heads": facts["text_heads"],
            "max_position_embeddings": TEXT_TOKENS,
            "vocab_size": facts["vocab_size"],
            "eos_token_id": facts["vocab_size"] - 1,
        },
    )


class ImageNetwork(nn.Module):
    """`CLIPModel.get_image_features` (modeling_clip.py), its normalisation before and unit length after it.

    Shape: `(B, 224, 224, 3) uint8 RGB` to `(B, D) float32`.
    """

    gain: torch.Tensor
    offset: torch.Tensor
    class_token: torch.Tensor
    positions: torch.Tensor

    def __init__(self, model: CLIPModel, precision: Precision) -> None:
        super().__init__()
        self.dtype = torch.float16 if precision == "fp16" else torch.float32
        vision = model.vision_model
        self.patches = copied(vision.embeddings.patch_embedding, self.dtype)
        self.heads = vision.config.num_attention_heads
        self.register_buffer("class_token", vision.embeddings.class_embedding.detach().reshape(1, 1, -1).clone())
        self.register_buffer("positions", vision.embeddings.position_embedding.weight.detach().clone())
        self.before = copied(vision.pre_layrnorm, torch.float32)
        self.layers = nn.ModuleList(Layer(layer, self.heads, self.dtype) for layer in vision.encoder.layers)
        self.after = copied(vision.post_layernorm, torch.float32)
        self.projection = copied(model.visual_projection, torch.float32)
        std, mean = torch.tensor(STD, dtype=torch.float64), torch.tensor(MEAN, dtype=torch.float64)
        self.register_buffer("gain", (1 / (255 * std)).float().reshape(1, 3, 1, 1))
        self.register_buffer("offset", (-mean / std).float().reshape(1, 3, 1, 1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the vectors of photos."""
        x = pixels.float().permute(0, 3, 1, 2) * self.gain + self.offset
        patches = self.patches(x.to(self.dtype)).flatten(2).transpose(1, 2).float()
        tokens = torch.cat((self.class_token.expand(patches.shape[0], -1, -1), patches), dim=1)
        hidden = self.before(tokens + self.positions)
        for layer in self.layers:
            hidden = layer(hidden, None)
        return F.normalize(self.projection(self.after(hidden[:, 0])), dim=-1)


class TextNetwork(nn.Module):
    """`CLIPModel.get_text_features` (modeling_clip.py), unit length after it.

    The causal mask is a constant; the text's end, whose state is the answer, is the first of the largest token.

    No token sees a later one, so a text gives the same vector at its own length as filled up to 77 tokens.

    Shape: `(B, L) int32`, 2 ≤ L ≤ 77, to `(B, D) float32`.
    """

    mask: torch.Tensor
    places: torch.Tensor
    positions: torch.Tensor

    def __init__(self, model: CLIPModel, precision: Precision) -> None:
        super().__init__()
        dtype = torch.float16 if precision == "fp16" else torch.float32
        text = model.text_model
        heads = text.config.num_attention_heads
        self.words = copied(text.embeddings.token_embedding, torch.float32)
        self.register_buffer("positions", text.embeddings.position_embedding.weight.detach().clone())
        self.layers = nn.ModuleList(Layer(layer, heads, dtype) for layer in text.encoder.layers)
        self.after = copied(text.final_layer_norm, torch.float32)
        self.projection = copied(model.text_projection, torch.float32)
        self.register_buffer("mask", torch.full((TEXT_TOKENS, TEXT_TOKENS), _HIDDEN).triu(1))
        self.register_buffer("places", torch.arange(TEXT_TOKENS, dtype=torch.int32))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the vectors of texts."""
        length = tokens.shape[1]
        hidden = self.words(tokens) + self.positions[:length]
        mask = self.mask[:length, :length]
        for layer in self.layers:
            hidden = layer(hidden, mask)
        # The largest token, the first of several: a rank of its own for each, so that nothing hangs on how a runtime
        # breaks ties.
        rank = tokens * TEXT_TOKENS - self.places[:length]
        chosen = (rank == rank.amax(dim=-1, keepdim=True)).to(hidden.dtype)
        end = (chosen.unsqueeze(1) @ hidden).squeeze(1)
        return F.normalize(self.projection(self.after(end)), dim=-1)


class Layer(nn.Module):
    """`CLIPEncoderLayer`, with eager attention; the residual path and the normalisations stay in fp32."""

    def __init__(self, layer: Any, heads: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype, self.heads = dtype, heads
        attention = layer.self_attn
        self.query, self.key, self.value, self.out = (
            copied(part, dtype) for part in (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj)
        )
        with torch.no_grad():  # the scale is folded into the query, which also keeps fp16 scores small
            scale = (self.query.out_features // heads) ** -0.5
            self.query.weight *= scale
            self.query.bias *= scale
        self.norm1, self.norm2 = copied(layer.layer_norm1, torch.float32), copied(layer.layer_norm2, torch.float32)
        self.up, self.down = copied(layer.mlp.fc1, dtype), copied(layer.mlp.fc2, dtype)
        self.activation = ACTIVATIONS[layer.mlp.config.hidden_act]

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Return `(B, L, C) float32` of `hidden`, of the same shape; `mask` is added to the scores."""
        x = self.norm1(hidden).to(self.dtype)
        q, k, v = (self._split(part(x)) for part in (self.query, self.key, self.value))
        scores = (q @ k.transpose(-1, -2)).float()
        weights = (scores if mask is None else scores + mask).softmax(-1).to(self.dtype)
        mixed = (weights @ v).transpose(1, 2).flatten(2)
        hidden = hidden + self.out(mixed).float()
        x = self.up(self.norm2(hidden).to(self.dtype))
        y: torch.Tensor = hidden + self.down(self.activation(x)).float()
        return y

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        return x.reshape(batch, length, self.heads, width // self.heads).transpose(1, 2)


def copied(module: Any, dtype: torch.dtype) -> Any:
    """Return a copy of a module in a data type; the reference stays as it is."""
    return copy.deepcopy(module).to(dtype).requires_grad_(False)


def reference_of_images(
    model: Any, pixels: npt.NDArray[np.uint8], mean: Sequence[float] = MEAN, std: Sequence[float] = STD
) -> npt.NDArray[np.float32]:
    """Return what the published model gives for what its processor would feed it: rescaled, then normalised."""
    x = (pixels.astype(np.float32) / 255 - np.array(mean, np.float32)) / np.array(std, np.float32)
    with torch.inference_mode():
        found = model.get_image_features(pixel_values=torch.from_numpy(x).permute(0, 3, 1, 2))
    return _unit(found)


def reference_of_texts(model: Any, tokens: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
    """Return what the published model gives for tokens, `(B, L)`."""
    with torch.inference_mode():
        found = model.get_text_features(input_ids=torch.from_numpy(tokens.astype(np.int64)))
    return _unit(found)


def _unit(found: Any) -> npt.NDArray[np.float32]:
    features = found if isinstance(found, torch.Tensor) else found.pooler_output
    return F.normalize(features, dim=-1).numpy()


def _tokenizer(card: ModelCard, folder: Path) -> bytes:
    """Return the folder's tokenizer.json; raise `WeightsCorrupt` if its tokens are not those of the card's network."""
    largest = int(str(card.architecture["vocab_size"])) - 1

    def is_right(data: bytes) -> bool:
        made = tokenizer_from_bytes(data)
        last = read(made, "a photo").tokens[-1]
        return bool(made.token_to_id(END) == largest == max(made.get_vocab().values()) and last == largest)

    return pretrained.tokenizer(card, folder / TOKENIZER_FILE, is_right, f"there {END} is {largest}, the largest")
