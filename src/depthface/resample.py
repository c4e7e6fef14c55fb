"""Bicubic resampling of float maps in numpy, for those who have no cv2 and no torch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["upsample_bicubic"]

_A = -0.75
"""Keys' cubic parameter as `torch.nn.functional.interpolate` and OpenCV use it (Keys 1981; aten UpSample.h:
`cubic_convolution1`)."""


def upsample_bicubic(array: npt.NDArray[np.float32], height: int, width: int) -> npt.NDArray[np.float32]:
    """Resize as `torch.nn.functional.interpolate(mode="bicubic", align_corners=False)` does, without antialiasing.

    Args:
        array: `(h, w) float32`.

    Returns:
        `(height, width) float32`; equal to torch's to 2e-5 of the range.
    """
    if array.min() == array.max():  # else rounding would make a picture of nothing
        return np.full((height, width), array.flat[0])
    rows, row_weights = _taps(array.shape[0], height)
    tall = sum(array[rows[:, k]] * row_weights[:, k, None] for k in range(4))
    columns, column_weights = _taps(array.shape[1], width)
    out = np.zeros((height, width), np.float32)
    for k in range(4):
        out += np.take(tall, columns[:, k], axis=1) * column_weights[:, k]
    return out


def _taps(size: int, new_size: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float32]]:
    """Return the four source indices and weights of each new sample: `(new_size, 4)` both, borders repeated."""
    position = (np.arange(new_size, dtype=np.float64) + 0.5) * (size / new_size) - 0.5
    base = np.floor(position)
    near = np.abs(position[:, None] - (base[:, None] + np.arange(-1, 3)))
    inner = ((_A + 2) * near - (_A + 3)) * near**2 + 1
    outer = ((_A * near - 5 * _A) * near + 8 * _A) * near - 4 * _A
    weights = np.where(near <= 1, inner, outer).astype(np.float32)
    indices = np.clip(base[:, None].astype(np.intp) + np.arange(-1, 3), 0, size - 1)
    return indices, weights
