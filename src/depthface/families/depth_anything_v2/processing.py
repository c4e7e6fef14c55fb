"""What is done round the network, as `transformers` does it (pinned reference: transformers 5.23)."""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeVar, cast

import cv2
import numpy as np
import numpy.typing as npt

from depthface import image
from depthface.errors import InvalidImage
from depthface.families.depth_anything_v2.card import MAX_GRID_SIDE_PX, PATCH_PX, PHOTO_SIDE_PX
from depthface.limits import refuse_too_long

__all__ = [
    "MAX_ASPECT",
    "MAX_GRID_SIDE_PX",
    "grey_levels",
    "grid_size",
    "postprocess",
    "preprocess",
    "refuse_unfit",
    "upsample",
]

Level = TypeVar("Level", np.uint8, np.uint16)

_DEPTHS = {np.uint8: cv2.CV_8U, np.uint16: cv2.CV_16U}
"""How OpenCV names the types of grey levels."""

_ROUNDS_UP_BY = 2.0**-22
"""Of the range: what float32 has so little below a whole level is that level, as the most has to be."""

FAST_DECODE_FACTOR = 2
"""A fast decode gives at least this many pixels for one of the grid, on each side: what it leaves out, the resize would
have smoothed away nearly all the same."""

MAX_ASPECT = 10.0
"""Photos longer than this are refused: what is left of them at `MAX_GRID_SIDE_PX` is too thin to see anything in."""


def grid_size(height: int, width: int) -> tuple[int, int]:
    """Return the network's grid for a photo of `height` × `width` pixels.

    The scale is whichever of 518/height and 518/width is nearer 1; then both sides go to the nearest multiple of 14
    (image_processing_pil_dpt.py `get_resize_output_image_size`), never below 14 or above `MAX_GRID_SIDE_PX`.
    """
    scale_height, scale_width = PHOTO_SIDE_PX / height, PHOTO_SIDE_PX / width
    scale = scale_width if abs(1 - scale_width) < abs(1 - scale_height) else scale_height
    scale = min(scale, MAX_GRID_SIDE_PX / max(height, width))
    return _nearest_patch(height * scale), _nearest_patch(width * scale)


def _nearest_patch(side_px: float) -> int:
    return max(round(side_px / PATCH_PX), 1) * PATCH_PX  # Python's round: half to even, as the reference


def upsample(depth: npt.NDArray[np.float32], height: int, width: int) -> npt.NDArray[np.float32]:
    """Bring a depth map from the grid to the photo's size: bicubic, a = −0.75, half-pixel centres, no antialiasing.

    `cv2.INTER_CUBIC` equals `torch.nn.functional.interpolate(mode="bicubic", align_corners=False)` to 2e-5 of the
    range and is 17 times faster.

    Args:
        depth: `(h, w) float32`.

    Returns:
        `(height, width) float32`, a new array.
    """
    if depth.min() == depth.max():  # else rounding would make a picture of nothing
        return np.full((height, width), depth.flat[0])
    return np.asarray(cv2.resize(depth, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)


def grey_levels(depth: npt.NDArray[np.float32], size: tuple[int, int], dtype: type[Level]) -> npt.NDArray[Level]:
    """Return a depth map at the photo's size, as by `upsample`, from its least to its most in whole levels.

    They are rounded down (transformers depth_estimation.py `postprocess`).

    Args:
        depth: `(h, w) float32`.
        size: the photo's height and width.

    Returns:
        `(height, width)`, 0…255 or 0…65535, larger is nearer; all zero where the depth is constant, or not finite.
    """
    low = float(depth.min())
    span = float(depth.max()) - low
    if not 0 < span < np.inf:
        return np.zeros(size, dtype)
    large = upsample((depth - np.float32(low)) / np.float32(span), *size)  # on the grid a large offset costs no digits
    most = np.iinfo(dtype).max
    down = _ROUNDS_UP_BY * most - 0.5  # OpenCV rounds to the nearest
    return cast(
        "npt.NDArray[Level]",
        cv2.normalize(large, np.empty(size, dtype), down, most + down, cv2.NORM_MINMAX, _DEPTHS[dtype]),
    )


def refuse_unfit(height: int, width: int) -> None:
    """Raise `InvalidImage` for a photo that is under one patch a side, or longer than `MAX_ASPECT`."""
    if min(height, width) < PATCH_PX:
        raise InvalidImage(
            f"The photo is {width}×{height}; the network sees patches of {PATCH_PX}×{PATCH_PX}.",
            "Send a larger photo.",
        )
    refuse_too_long(width, height, MAX_ASPECT)


def preprocess(
    image_bytes: bytes, precision: str = "fp32", *, fast_decode: bool = False
) -> tuple[npt.NDArray[np.uint8], tuple[int, int]]:
    """Return an encoded photo's pixels at the network's grid.

    Args:
        precision: the network's. For fp32 the resize is the reference's to the bit. Below, it is the faster one (see
            `image.resize_bicubic`), which moves the map by 2e-4 of its range on average, 3e-3 at most (random
            weights): on average, less than the network does.
        fast_decode: decode a JPEG only to what the grid needs, and resize it the faster way. A 12-megapixel photo is
            ready in a quarter of the time in fp32, below in two thirds, and the 8-bit map is off by about half a level
            on average.

    Returns:
        The pixels, `(h, w, 3) uint8 RGB`; the upright photo's height and width.

    Raises:
        InvalidInput: not a photo, over a limit, under one patch a side, or longer than `MAX_ASPECT`.
    """
    height, width = image.size_of(image_bytes)
    refuse_unfit(height, width)
    grid_h, grid_w = grid_size(height, width)
    enough = (FAST_DECODE_FACTOR * grid_h, FAST_DECODE_FACTOR * grid_w) if fast_decode else None
    exact = precision == "fp32" and not fast_decode
    photo = image.decode(image_bytes, at_least=enough, padded=not exact)
    return image.resize_bicubic(photo, grid_h, grid_w, exact=exact), (height, width)


def postprocess(
    wanted: Collection[str], depth: npt.NDArray[np.float32], size: tuple[int, int]
) -> dict[str, npt.NDArray[np.generic] | bytes]:
    """Return the outputs that were asked for, made of the network's depth.

    Args:
        wanted: what of `depth`, `png16`, `png8` to compute; other names do no harm.
        depth: `(h, w) float32` at the grid.
        size: the photo's height and width.

    Returns:
        `depth` as it came; `png16`, `png8`: PNGs of the photo's size.
    """
    out: dict[str, npt.NDArray[np.generic] | bytes] = {}
    if "depth" in wanted:
        out["depth"] = depth
    if "png16" in wanted:
        out["png16"] = image.encode_png(grey_levels(depth, size, np.uint16))
    if "png8" in wanted:
        out["png8"] = image.encode_png(grey_levels(depth, size, np.uint8))
    return out
