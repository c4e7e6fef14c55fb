"""What a reference has given is not computed again: an export is proven by each runtime that may serve it."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy.typing as npt

__all__ = ["recalling"]


def recalling(reference: Any) -> Any:
    """Return the reference of a `depthface.spec.Source`, which computes each input once.

    One that is a function of an array, that is: InsightFace's models are none, and come back as they are.
    """
    if not callable(reference):
        return reference
    known: dict[tuple[tuple[int, ...], str, bytes], Any] = {}

    def recall(inputs: npt.NDArray[Any]) -> Any:
        key = inputs.shape, inputs.dtype.str, hashlib.sha256(inputs.tobytes()).digest()
        if key not in known:
            known[key] = reference(inputs)
        return known[key]

    return recall
