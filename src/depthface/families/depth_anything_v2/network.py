"""Depth Anything V2 in torch: the reference, and the same network in a form that exports well."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn
from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config
from transformers.models.dinov2.modeling_dinov2 import Dinov2Embeddings

from depthface.contract import Precision
from depthface.families import pretrained
from depthface.families.depth_anything_v2.card import PATCH_PX, PHOTO_SIDE_PX
from depthface.spec import ModelCard, Source

__all__ = ["MEAN", "STD", "DepthNetwork", "config_of", "load", "reference_model", "sources"]

# ImageNet statistics of RGB in 0…1 (preprocessor_config.json `image_mean`, `image_std`).
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

Pixels = npt.NDArray[np.uint8]
DepthMap = npt.NDArray[np.float32]


def load(card: ModelCard, folder: Path, precision: Precision) -> dict[str, Source]:
    """Build the network of `card`, under its name; its reference maps `(B, h, w, 3) uint8` to `(B, h, w) float32`.

    Args:
        folder: of weights in the format of `transformers` (config.json, model.safetensors).

    Raises:
        WeightsCorrupt: they are damaged, or another network's.
    """
    return sources(card, reference_model(card, folder), precision)


def sources(card: ModelCard, model: DepthAnythingForDepthEstimation, precision: Precision) -> dict[str, Source]:
    """As `load`, of a model as `reference_model` gives it."""
    patches = (
        14 * torch.export.Dim("patches_h", min=1, max=160),
        14 * torch.export.Dim("patches_w", min=1, max=160),
    )
    batch = torch.export.Dim("batch", min=1, max=64)
    source = Source(
        model=DepthNetwork(model, precision).eval(),
        example=torch.zeros(2, 10 * PATCH_PX, 12 * PATCH_PX, 3, dtype=torch.uint8),
        dynamic_shapes=({0: batch, 1: patches[0], 2: patches[1]},),
        reference=lambda pixels: _reference(model, pixels),
    )
    return {card.networks[0].name: source}


def reference_model(card: ModelCard, folder: Path) -> DepthAnythingForDepthEstimation:
    """Return the model as `transformers` has it, in fp32 and evaluation mode."""
    return pretrained.loaded(DepthAnythingForDepthEstimation, card, folder, config_of(card))


class DepthNetwork(nn.Module):
    """`DepthAnythingForDepthEstimation.forward` (modeling_depth_anything.py), re-expressed for export.

    What differs, and why:

    - uint8 pixels in; the normalisation is part of the graph, so nothing else can get it wrong and a quarter of the
      bytes travel;
    - the head's size is `h // 14 * 14` in integers; `int(patch_height * patch_size)` freezes the traced size without
      an error;
    - the layers are called one by one, without the all-zero attention mask that `Dinov2Backbone.forward` builds;
    - the position embedding is resampled by two small matrix products; as ONNX's cubic Resize it takes 6 % of the
      whole network's time on a CPU;
    - the attention scale is folded into the query's weights, which also keeps fp16 scores small;
    - in fp16 the normalisation and the last convolution stay in fp32: else the map has 2,000 distinct values.

    Shape: `(B, h, w, 3) uint8 RGB`, h and w multiples of 14, to `(B, h, w) float32`, relative inverse depth.
    """

    gain: torch.Tensor
    offset: torch.Tensor

    def __init__(self, model: DepthAnythingForDepthEstimation, precision: Precision) -> None:
        super().__init__()
        model = copy.deepcopy(model)
        model.set_attn_implementation("eager")
        backbone = model.backbone
        for layer in backbone.encoder.layer:
            layer.attention.q_proj.weight *= layer.attention.scaling
            layer.attention.q_proj.bias *= layer.attention.scaling
            layer.attention.scaling = 1.0
        self.dtype = torch.float16 if precision == "fp16" else torch.float32
        self.patches = backbone.embeddings.patch_embeddings.to(self.dtype)
        self.positions = _Positions(backbone.embeddings)
        self.layers = backbone.encoder.layer.to(self.dtype)
        self.layernorm = backbone.layernorm.to(self.dtype)
        self.feature_layers = frozenset(backbone.config.out_indices)
        self.neck = model.neck.to(self.dtype)
        self.conv1 = model.head.conv1.to(self.dtype)
        self.conv2 = model.head.conv2.to(self.dtype)
        self.conv3 = model.head.conv3.float()
        std = torch.tensor(STD, dtype=torch.float64)
        mean = torch.tensor(MEAN, dtype=torch.float64)
        self.register_buffer("gain", (1 / (255 * std)).float().reshape(1, 3, 1, 1))
        self.register_buffer("offset", (-mean / std).float().reshape(1, 3, 1, 1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the maps of photos; the shapes are the class's."""
        grid_h, grid_w = pixels.shape[1] // PATCH_PX, pixels.shape[2] // PATCH_PX
        # First to float: TensorRT takes uint8 as a network's input, and then wants a Cast and nothing else
        # (docs.nvidia.com/deeplearning/tensorrt, DataType.UINT8).
        x = pixels.float().permute(0, 3, 1, 2) * self.gain + self.offset
        hidden = self.positions(self.patches(x.to(self.dtype)), grid_h, grid_w)
        features = []
        for depth, layer in enumerate(self.layers, start=1):
            hidden = layer(hidden)
            if depth in self.feature_layers:
                features.append(self.layernorm(hidden))
        fused = self.neck(features, grid_h, grid_w)[-1]
        x = self.conv1(fused)
        x = F.interpolate(x, (grid_h * PATCH_PX, grid_w * PATCH_PX), mode="bilinear", align_corners=True)
        x = F.relu(self.conv2(x))
        x = F.relu(self.conv3(x.float()))
        return x.squeeze(1)


class _Positions(nn.Module):
    """`Dinov2Embeddings` after its patches: the class token goes before them, the position embedding onto them.

    It is resampled to the grid as `interpolate_pos_encoding` does (bicubic, a = −0.75, half-pixel centres, borders
    repeated, in fp32).
    """

    class_token: torch.Tensor
    table: torch.Tensor
    taps: torch.Tensor
    fold: torch.Tensor

    def __init__(self, embeddings: Dinov2Embeddings) -> None:
        super().__init__()
        positions = embeddings.position_embeddings.detach()
        self.side = round((positions.shape[1] - 1) ** 0.5)
        self.register_buffer("class_token", embeddings.cls_token.detach() + positions[:, :1])
        self.register_buffer("table", positions[:, 1:].reshape(self.side, self.side, -1))
        # Taps that fall outside go to the border: columns −2 … side + 1 folded onto 0 … side − 1.
        taps = torch.arange(-2, self.side + 2)
        self.register_buffer("taps", taps.float())
        self.register_buffer("fold", F.one_hot(taps.clamp(0, self.side - 1), self.side).float())

    def forward(self, patches: torch.Tensor, grid_h: int, grid_w: int) -> torch.Tensor:
        rows = self._weights(grid_h) @ self.table.flatten(1)
        table = self._weights(grid_w) @ rows.reshape(grid_h, self.side, -1)
        hidden = patches + table.flatten(0, 1).to(patches.dtype)
        class_token = self.class_token.to(patches.dtype).expand(patches.shape[0], -1, -1)
        return torch.cat((class_token, hidden), dim=1)

    def _weights(self, size: int) -> torch.Tensor:
        """`(size, side)`: what each sample takes of each entry; Keys' cubic (aten UpSample.h `cubic_convolution`)."""
        centres = (torch.arange(size, dtype=torch.float32) + 0.5) * (self.side / size) - 0.5
        x = (centres[:, None] - self.taps).abs()
        a = -0.75
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        return torch.where(x <= 1, near, torch.where(x < 2, far, 0.0)) @ self.fold


def _reference(model: DepthAnythingForDepthEstimation, pixels: Pixels) -> DepthMap:
    """Return the published model's maps for what its processor would feed it: rescaled by 1/255, normalised, NCHW."""
    x = pixels.astype(np.float32) / 255
    x = (x - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    with torch.inference_mode():
        depth = model(torch.from_numpy(x).permute(0, 3, 1, 2)).predicted_depth
    return depth.numpy()  # type: ignore[no-any-return]


def config_of(card: ModelCard) -> DepthAnythingConfig:
    """Return the card's architecture as `transformers` describes it."""
    facts: dict[str, Any] = dict(card.architecture)
    backbone = Dinov2Config(
        hidden_size=facts["hidden_size"],
        num_hidden_layers=facts["num_hidden_layers"],
        num_attention_heads=facts["num_attention_heads"],
        out_indices=list(facts["out_indices"]),
        image_size=PHOTO_SIDE_PX,
        patch_size=PATCH_PX,
        apply_layernorm=True,
        reshape_hidden_states=False,
    )
    return DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=facts["hidden_size"],
        neck_hidden_sizes=list(facts["neck_hidden_sizes"]),
        fusion_hidden_size=facts["fusion_hidden_size"],
        patch_size=PATCH_PX,
        # Published configs leave it empty for relative depth, and transformers 5 multiplies by it all the same.
        max_depth=1,
    )
