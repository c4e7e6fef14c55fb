"""Photos to request tensors and responses to results: what the two clients share."""

from __future__ import annotations

import os
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps
from tritonclient.http import InferInput, InferRequestedOutput

from depthface.contract import Parameters
from depthface.errors import InvalidImage, InvalidInput
from depthface.families.depth_anything_v2.result import Depth

__all__ = [
    "DEFAULT_MODEL",
    "TEST_PHOTO",
    "Photo",
    "bytes_input",
    "depth_from",
    "host_of",
    "image_input",
    "leaving_with",
    "networks_of",
    "outputs",
    "png_output",
    "upright",
    "weights_from",
]

Photo = str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[np.uint8]
"""A path, the bytes of an encoded photo, a PIL image, or an array `(H, W, 3) uint8 RGB` or `(H, W) uint8 grey`."""

DEFAULT_MODEL = "depth_anything_v2_small"


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
    return bytes_input(name, _encoded(photo))


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
    """Which weights a model serves, from its config."""
    return Parameters.of_config(config).weights


def networks_of(config: Mapping[str, Any]) -> list[str]:
    """The networks that a pipeline asks; none for any other model."""
    return [*Parameters.of_config(config).networks.values()]


def leaving_with(model: str, configs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What is to be unloaded, in this order, for a model to leave memory: itself, and its networks that no other has.

    A pipeline that loads its networks when they are first used stays, to do so again.

    Args:
        configs: of every model that is loaded.
    """
    networks = {name: networks_of(config) for name, config in configs.items()}
    own = networks.pop(model, [])
    shared = {network for others in networks.values() for network in others}
    stays = Parameters.of_config(configs.get(model, {})).is_lazy
    return [*([] if stays else [model]), *(network for network in own if network not in shared)]


def upright(photo: Photo) -> Image.Image:
    """The photo as an RGB picture, turned as its EXIF orientation says: what the server's pixels count."""
    if isinstance(photo, Image.Image):
        return ImageOps.exif_transpose(photo).convert("RGB")
    try:
        with Image.open(BytesIO(_encoded(photo))) as picture:
            return ImageOps.exif_transpose(picture).convert("RGB")
    except (OSError, SyntaxError) as error:
        raise InvalidImage("The bytes are not a photo that can be drawn on. Save it as JPEG or PNG.") from error


def _encoded(photo: Photo) -> bytes:
    if isinstance(photo, bytes | bytearray | memoryview):
        return bytes(photo)
    if isinstance(photo, str | os.PathLike):
        try:
            return Path(photo).read_bytes()
        except OSError as error:
            raise InvalidImage(f"{photo} cannot be read ({error.strerror}).") from error
    if isinstance(photo, np.ndarray):
        if photo.dtype != np.uint8 or not (photo.ndim == 2 or (photo.ndim == 3 and photo.shape[2] == 3)):
            raise InvalidImage(
                f"An array of {photo.dtype} and shape {photo.shape} is not a photo. Give (H, W, 3) uint8 RGB or "
                "(H, W) uint8 grey."
            )
        photo = Image.fromarray(photo)
    if not isinstance(photo, Image.Image):
        raise InvalidImage(f"{type(photo).__name__} is not a photo. Give a path, bytes, a PIL image or an array.")
    buffer = BytesIO()
    ImageOps.exif_transpose(photo).convert("RGB").save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _test_photo() -> bytes:
    return _encoded(np.add.outer(np.arange(48), np.arange(64)).astype(np.uint8))


TEST_PHOTO = _test_photo()
"""A small picture, for asking whether a server truly answers."""
