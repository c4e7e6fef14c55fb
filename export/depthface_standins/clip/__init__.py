"""CLIP with weights that are nobody's: seeded random ones in the true architecture, or set by hand for drawn shapes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from depthface.contract import Precision
from depthface.families.clip import network
from depthface.spec import ModelCard, Source
from depthface.weights import Random, Synthetic
from depthface_standins.clip import architectures, scenes, synthetic

__all__ = ["load", "pictures"]


def load(card: ModelCard, weights: Random | Synthetic, precision: Precision) -> dict[str, Source]:
    """As `network.load`."""
    if isinstance(weights, Synthetic):
        return synthetic.sources(card)
    model = architectures.random_model(card, weights.seed)
    return network.sources(card, model, architectures.byte_tokenizer(), precision)


def pictures() -> list[npt.NDArray[np.uint8]]:
    """Return a drawing of each shape, in several colours."""
    return [scenes.draw(colour, shape) for colour, shape in zip(scenes.COLOURS, 2 * scenes.SHAPES, strict=False)]
