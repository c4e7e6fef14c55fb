"""Weights that are nobody's: for plumbing, speed and tests, where the published ones cannot be had or must not be used.

A family's stand-ins are a module or package of its own name here, that offers

- `load(card, weights, precision)`: as the family's `network.load`, for `Random` and, where the card says so,
  `Synthetic` weights;
- `pictures()`: what such networks see something in, `(H, W, 3) uint8 RGB` each, on which an export is proven beside
  the photographs; often none.

A client needs none of this; `depthface[export]` brings what it imports.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from depthface.spec import ModelCard

__all__ = ["module_of"]


def module_of(card: ModelCard) -> ModuleType:
    """Return the stand-ins of the card's family; imported only now, since they may need torch."""
    return importlib.import_module(f"{__name__}.{card.family}")
