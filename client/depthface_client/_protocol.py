"""Photos to request tensors and responses to results: what the two clients share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from tritonclient.http import InferInput, InferRequestedOutput

from depthface.errors import InvalidInput
from depthface.families.depth_anything_v2.result import Depth
from depthface_client.photos import Photo, encoded, test_photo

__all__ = [
    "DEFAULT_MODEL",
    "TEST_PHOTO",
    "UNKNOWN_WEIGHTS",
    "Photo",
    "bytes_input",
    "depth_from",
    "host_of",
    "image_input",
    "leaving_with",
    "networks_of",
    "outputs",
    "png_output",
    "weights_from",
]

DEFAULT_MODEL = "depth_anything_v2_small"

UNKNOWN_WEIGHTS = "unknown"
"""What is said of a model whose server was not told."""


def host_of(url: str) -> tuple[str, bool]:
    """`host:port` and whether to use TLS, of `host:port`, `http://host:port` or `https://host:port`."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url.rstrip("/"), False
    if scheme not in ("http", "https"):
        raise InvalidInput(f"{url} is not an HTTP address. Give host:port, such as 127.0.0.1:8000.")
    return rest.rstrip("/"), scheme == "https"


def image_input(photo: Photo, name: str = "image") -> InferInput:
    """The tensor of one photo. Files and bytes travel as they are; pictures in memory as lossless PNG."""
    return bytes_input(name, encoded(photo))


def bytes_input(name: str, data: bytes) -> InferInput:
    """A BYTES tensor of one element."""
    tensor = InferInput(name, [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[data]], np.object_))
    return tensor


def outputs(*names: str) -> list[InferRequestedOutput]:
    """Ask for these outputs and no others: what is not asked for is not computed."""
    return [InferRequestedOutput(name) for name in names]


def png_output(bits: int) -> str:
    """The output that is a PNG of 8 or 16 bits."""
    if bits not in (8, 16):
        raise InvalidInput(f"There are PNGs of 8 and of 16 bits, not of {bits}.")
    return f"png{bits}"


def depth_from(response: Any, weights: str) -> Depth:
    """The result in a response that holds `depth` and `size`."""
    array = response.as_numpy("depth")[0]
    array.setflags(write=False)
    height, width = (int(side) for side in response.as_numpy("size")[0])
    return Depth(array=array, size=(height, width), weights=weights)


def weights_from(config: Mapping[str, Any]) -> str:
    """Which weights a model serves, from its config; `UNKNOWN_WEIGHTS` if that does not say."""
    return config.get("parameters", {}).get("weights", {}).get("string_value") or UNKNOWN_WEIGHTS


def networks_of(config: Mapping[str, Any]) -> list[str]:
    """The networks that a pipeline asks; none for any other model."""
    names = config.get("parameters", {}).get("networks", {}).get("string_value", "")
    return names.split(",") if names else []


def leaving_with(model: str, configs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What is to be unloaded, in this order, for a model to leave memory: itself, and its networks that no other has.

    A pipeline that loads its networks when they are first used stays, to do so again.

    Args:
        configs: of every model that is loaded.
    """
    networks = {name: networks_of(config) for name, config in configs.items()}
    own = networks.pop(model, [])
    shared = {network for others in networks.values() for network in others}
    stays = "lazy" in configs.get(model, {}).get("parameters", {})
    return [*([] if stays else [model]), *(network for network in own if network not in shared)]


TEST_PHOTO = test_photo()
"""A small picture, for asking whether a server truly answers."""
