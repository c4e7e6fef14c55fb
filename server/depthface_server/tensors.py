"""A tensor of Triton's Python backend as an array, looked at before it is touched."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from depthface.errors import InvalidInput

__all__ = ["array_of", "refuse_no_numbers", "refuse_shape"]

_MAX_SIDE = 2**31 - 1
"""Runtimes compute with sides of 32 bits."""

_MAX_ITEMS = 2**31


def array_of(name: str, tensor: Any) -> npt.NDArray[Any]:
    """Return a read-only view of a tensor; raises `InvalidInput` for a shape that is refused."""
    refuse_shape(name, [int(side) for side in tensor.shape()])
    return np.from_dlpack(tensor)


def refuse_shape(name: str, shape: list[int]) -> None:
    """Raise `InvalidInput` for a shape without items, or with more than memory holds.

    Triton compares the product of the sides with the bytes sent, in 64 bits, where it may wrap round to 0; Python's
    whole numbers do not.
    """
    items = 1
    for side in shape:
        items *= side
    if not all(0 < side <= _MAX_SIDE for side in shape) or items > _MAX_ITEMS:
        raise InvalidInput(f"{name} has the shape {shape}.", "Send a tensor that the network can run on.")


def refuse_no_numbers(found: Mapping[str, npt.NDArray[Any]]) -> None:
    """Raise `FloatingPointError` for what a network gives by name, if a float is NaN or infinite.

    Of it all that follows would make something that looks like an answer: a black map, strangers. The least and the
    most tell, since NaN is both; of the largest depth map that takes half a millisecond.
    """
    for name, array in found.items():
        if array.dtype.kind == "f" and array.size and not (math.isfinite(array.min()) and math.isfinite(array.max())):
            raise FloatingPointError(f"The network gives {name} that is not finite.")
