"""Depth Anything V2 with seeded random weights: the true architecture and speed, and maps that mean nothing."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from transformers import DepthAnythingForDepthEstimation

from depthface.contract import Precision
from depthface.families.depth_anything_v2 import network
from depthface.spec import ModelCard, Source
from depthface.weights import Random

__all__ = ["load", "pictures", "random_model"]

RANDOM_GAIN = 2.0
"""Random matrices are scaled by this: with transformers' own initialisation the depth map is nearly flat, and 8-bit
comparisons say nothing. With it photos give about 240 distinct levels."""


def load(card: ModelCard, weights: Random, precision: Precision) -> dict[str, Source]:
    """As `network.load`."""
    return network.sources(card, random_model(card, weights.seed), precision)


def random_model(card: ModelCard, seed: int = Random().seed) -> DepthAnythingForDepthEstimation:
    """Return the card's architecture as `transformers` has it, in fp32, for evaluation; a seed is a set of weights."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model = DepthAnythingForDepthEstimation(network.config_of(card))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter *= RANDOM_GAIN
    return model.eval().requires_grad_(False)


def pictures() -> list[npt.NDArray[np.uint8]]:
    """None: random weights see as much in a photograph as in anything."""
    return []
