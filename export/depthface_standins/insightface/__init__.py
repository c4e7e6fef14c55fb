"""Packs of InsightFace's form whose weights are seeded at random, or set by hand for drawn faces."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx

from depthface.contract import Precision
from depthface.families.insightface import network
from depthface.families.insightface.card import PackFile
from depthface.spec import ModelCard, Source
from depthface.weights import Random, Synthetic
from depthface_standins.insightface import architectures, scenes, synthetic

__all__ = ["load", "pictures"]

SYNTHETIC_FILES = {
    "detector": "det_synthetic.onnx",
    "recognizer": "w600k_synthetic.onnx",
    "landmarks_106": "2d106det.onnx",
    "landmarks_68": "1k3d68.onnx",
    "attributes": "genderage.onnx",
}


def load(card: ModelCard, weights: Random | Synthetic, precision: Precision) -> dict[str, Source]:
    """Return the graphs of a pack whose files are made here; as `network.load`."""

    def original(file: PackFile) -> onnx.ModelProto:
        if isinstance(weights, Random):
            return architectures.random_model(file.random, weights.seed)  # type: ignore[arg-type]
        return synthetic.pack()[SYNTHETIC_FILES[file.kind]]

    return network.sources(card, original, precision, is_published=False)


def pictures() -> list[npt.NDArray[np.uint8]]:
    """Return a drawn scene of six faces."""
    return [scenes.draw_crowd(6).image]
