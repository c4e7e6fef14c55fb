"""The server's pipeline for depth: decode, network, what is wanted of its map."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from depthface.contract import Parameters
from depthface.families.depth_anything_v2.processing import postprocess, preprocess
from depthface.spec import AskNetwork
from depthface.tasks.depth import Options

__all__ = ["estimate"]


async def estimate(
    wanted: Collection[str],
    infer: AskNetwork,
    parameters: Parameters,
    image_bytes: bytes,
    *,
    fast_decode: bool = False,
) -> dict[str, npt.NDArray[np.generic] | bytes]:
    """Server pipeline: the depth of a photo, in the forms that are wanted.

    Args:
        infer: asks a model: its name, batched inputs, the outputs wanted.
        parameters: its `networks` hold `network`.
        fast_decode: a request's own wish; see `preprocess`.

    Returns:
        The public outputs that are in `wanted`; `size` is `(2,) int32`, the upright photo's height and width.

    Raises:
        InvalidInput: as `preprocess`.
    """
    options = Options(fast_decode)
    pixels, size = preprocess(image_bytes, parameters.precision or "fp32", fast_decode=options.fast_decode)
    out: dict[str, npt.NDArray[np.generic] | bytes] = {"size": np.array(size, np.int32)}
    if set(wanted) <= {"size"}:
        return out
    found = await infer(parameters.networks["network"], {"pixels": pixels[None]}, ("depth",))
    return out | postprocess(wanted, found["depth"][0], size)
