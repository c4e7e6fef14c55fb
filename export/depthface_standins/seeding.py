"""Seeded random weights in a true architecture of `transformers`."""

from __future__ import annotations

from typing import TypeVar

import torch
from transformers import PretrainedConfig, PreTrainedModel

__all__ = ["RANDOM_GAIN", "seeded"]

RANDOM_GAIN = 2.0
"""Matrices are scaled by this. With transformers' own initialisation a depth map is nearly flat, and 8-bit comparisons
say nothing (with it photos give about 240 distinct levels); and embeddings of all photos are nearly one vector."""

Model = TypeVar("Model", bound=PreTrainedModel)


def seeded(architecture: type[Model], config: PretrainedConfig, seed: int) -> Model:
    """Return a model in fp32, for evaluation; the same seed, the same weights."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model: Model = architecture(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter *= RANDOM_GAIN
    model.eval().requires_grad_(False)
    return model
