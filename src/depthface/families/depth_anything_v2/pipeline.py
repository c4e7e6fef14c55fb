"""The server's pipeline for depth: decode, network, what is wanted of its map; whole, and in its two steps."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt

from depthface import limits
from depthface.contract import Parameters
from depthface.families.depth_anything_v2.processing import postprocess, preprocess, refuse_unfit
from depthface.spec import AskNetwork
from depthface.tasks.depth import Options

__all__ = ["estimate", "finish", "prepare"]

Array = npt.NDArray[Any]


async def estimate(
    wanted: Collection[str],
    infer: AskNetwork,
    parameters: Parameters,
    image_bytes: bytes,
    *,
    fast_decode: bool = False,
) -> dict[str, Array | bytes]:
    """Server pipeline: the depth of a photo, in the forms that are wanted.

    Args:
        infer: asks a model: its name, batched inputs, the outputs wanted.
        parameters: its `networks` hold `network`.
        fast_decode: a request's own wish; see `preprocess`.

    Returns:
        The public outputs in `wanted`, and `size`: `(2,) int32`, the upright photo's height and width.

    Raises:
        InvalidInput: as `preprocess`.
    """
    made = await prepare(wanted, infer, parameters, image_bytes, fast_decode=fast_decode)
    out: dict[str, Array | bytes] = {"size": made["size"]}
    if set(wanted) <= {"size"}:
        return out
    found = await infer(parameters.networks["network"], {"pixels": made["pixels"][None]}, ("depth",))
    return out | await finish(wanted, infer, parameters, found["depth"][0], made["photo_size"])


async def prepare(
    wanted: Collection[str],
    infer: AskNetwork,
    parameters: Parameters,
    image_bytes: bytes,
    *,
    fast_decode: bool = False,
) -> dict[str, Array]:
    """Step before the network; the options are those of `estimate`.

    Returns:
        `pixels`, what the network takes; `size`, and the same once more as `photo_size`: in an ensemble an output may
        not be what another step takes.
    """
    options = Options(fast_decode)
    pixels, size = preprocess(image_bytes, parameters.precision or "fp32", fast_decode=options.fast_decode)
    return {"pixels": pixels, "size": np.array(size, np.int32), "photo_size": np.array(size, np.int32)}


async def finish(
    wanted: Collection[str], infer: AskNetwork, parameters: Parameters, depth: Array, photo_size: Array
) -> dict[str, Array | bytes]:
    """Step after the network: what of `depth`, `png16` and `png8` is wanted.

    Args:
        depth: `(h, w) float32`, the network's.
        photo_size: `(2,) int32`; of whoever asks for this step itself, and so looked at once more.

    Raises:
        InvalidInput: there is no such photo for which there could be a depth.
    """
    height, width = (int(side) for side in photo_size)
    refuse_unfit(height, width)
    limits.refuse_too_large(width, height, limits.current().max_pixels)
    return postprocess(wanted, depth, (height, width))
