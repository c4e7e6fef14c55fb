"""Depth Anything V2 with seeded random weights: the true architecture and speed, and maps that mean nothing."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from transformers import DepthAnythingForDepthEstimation

from depthface.contract import Precision
from depthface.families.depth_anything_v2 import network
from depthface.spec import ModelCard, Source
from depthface.weights import Random
from depthface_standins.seeding import seeded

__all__ = ["load", "pictures", "random_model"]


def load(card: ModelCard, weights: Random, precision: Precision) -> dict[str, Source]:
    """As `network.load`."""
    return network.sources(card, random_model(card, weights.seed), precision)


def random_model(card: ModelCard, seed: int = Random().seed) -> DepthAnythingForDepthEstimation:
    """Return the card's architecture as `transformers` has it, in fp32, for evaluation; a seed is a set of weights."""
    return seeded(DepthAnythingForDepthEstimation, network.config_of(card), seed)


def pictures() -> list[npt.NDArray[np.uint8]]:
    """None: random weights see as much in a photograph as in anything."""
    return []
