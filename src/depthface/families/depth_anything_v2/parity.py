"""Depth compared in depth's own units."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from depthface import image
from depthface.spec import Samples, Source

__all__ = ["measure", "measurements"]

Pixels = npt.NDArray[np.uint8]
DepthMap = npt.NDArray[np.float32]

# Batch, height, width, at two batch sizes, none the traced one: wide, tall, square and one patch high, what photos of
# 4:3 give lying and upright, and a panorama of 2:1. Every profile of an engine is the first that one of them fits.
_SHAPES = ((1, 518, 518), (1, 518, 686), (3, 308, 210), (1, 252, 518), (3, 14, 70), (1, 686, 518), (1, 518, 1036))


def measurements(
    source: Source, run: Callable[[dict[str, Any]], dict[str, Any]], samples: Samples
) -> Iterator[tuple[str, dict[str, float]]]:
    """Compare an export with its reference on the photos of `samples`.

    Args:
        run: the exported network, inputs by name to outputs by name.

    Yields:
        The name of each case (batch×height×width) and its metrics, as `measure` has them.
    """
    for index, (batch, height, width) in enumerate(_SHAPES):
        chosen = [samples.photos[(index + k) % len(samples.photos)] for k in range(batch)]
        expected = source.reference(_stacked(chosen, height, width, exact=True))
        shown = _stacked(chosen, height, width, exact=samples.is_exact)
        yield f"{batch}×{height}×{width}", measure(expected, run({"pixels": shown})["depth"])


def _stacked(photos: Sequence[Pixels], height: int, width: int, *, exact: bool) -> Pixels:
    return np.stack([image.resize_bicubic(photo, height, width, exact=exact) for photo in photos])


def measure(expected: DepthMap, got: DepthMap) -> dict[str, float]:
    """How far `got` is from `expected`, `(B, h, w) float32` both.

    Returns:
        - `max_error`, `mean_error`: of the absolute difference, as a fraction of the reference's range;
        - `delta1_loss`: the share of pixels whose depth ratio, after bringing both to 0.1…1.1 by the reference's
          range, is 1.25 or more: 1 − δ₁ of Eigen et al. 2014 (arXiv:1406.2283, section 4.3), against the reference.

        A value that is not finite, in either, makes all three infinite; so does a reference without a range.
    """
    if got.shape != expected.shape or not (np.isfinite(got).all() and 0 < np.ptp(expected) < np.inf):
        return dict.fromkeys(("max_error", "mean_error", "delta1_loss"), float("inf"))
    low, span = expected.min(), np.ptp(expected)
    error = np.abs(got - expected) / span
    a, b = (expected - low) / span + 0.1, np.maximum((got - low) / span + 0.1, 1e-6)
    return {
        "max_error": float(error.max()),
        "mean_error": float(error.mean()),
        "delta1_loss": float((np.maximum(a / b, b / a) >= 1.25).mean()),
    }
