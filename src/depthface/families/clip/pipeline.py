"""The coroutines that the server runs: a photo, or a text, to its vector; whole, and the step before the network."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

import numpy.typing as npt

from depthface.contract import MODEL_VERSION, Parameters
from depthface.families.clip import processing
from depthface.families.clip.card import TOKENIZER_FILE
from depthface.tasks.embedding import text_from_bytes

__all__ = ["embed_image", "embed_text", "prepare_image", "prepare_text"]

Array = npt.NDArray[Any]
Infer = Callable[[str, Mapping[str, Array], Collection[str]], Awaitable[dict[str, Array]]]


async def embed_image(
    wanted: Collection[str], infer: Infer, parameters: Parameters, image_bytes: bytes
) -> dict[str, Array]:
    """Server pipeline: the vector of a photo.

    Args:
        wanted: the outputs asked for.
        infer: asks a model: its name, batched inputs, the outputs wanted.
        parameters: its `networks` hold `image`.
        image_bytes: an encoded photo.

    Returns:
        `embedding`: `(D,) float32` of unit length.

    Raises:
        InvalidInput: as `processing.preprocess`.
    """
    made = await prepare_image(wanted, infer, parameters, image_bytes)
    found = await infer(parameters.networks["image"], {"pixels": made["pixels"][None]}, ("embedding",))
    return {"embedding": found["embedding"][0]}


async def prepare_image(
    wanted: Collection[str], infer: Infer, parameters: Parameters, image_bytes: bytes
) -> dict[str, Array]:
    """Step before the network: `pixels`, what it sees of a photo; as `embed_image`."""
    return {"pixels": processing.preprocess(image_bytes, parameters.precision or "fp32")}


async def embed_text(
    wanted: Collection[str], infer: Infer, parameters: Parameters, text_bytes: bytes
) -> dict[str, Array]:
    """Server pipeline: the vector of a text; what is too long for the network is cut off at its end.

    Args:
        wanted: the outputs asked for.
        infer: asks a model: its name, batched inputs, the outputs wanted.
        parameters: its `networks` hold `text`, and beside that network's artefact lies its tokenizer.
        text_bytes: UTF-8.

    Returns:
        `embedding`: `(D,) float32` of unit length.

    Raises:
        InvalidInput: the text is empty, too long, or not UTF-8.
    """
    made = await prepare_text(wanted, infer, parameters, text_bytes)
    found = await infer(parameters.networks["text"], {"tokens": made["tokens"][None]}, ("embedding",))
    return {"embedding": found["embedding"][0]}


async def prepare_text(
    wanted: Collection[str], infer: Infer, parameters: Parameters, text_bytes: bytes
) -> dict[str, Array]:
    """Step before the network: `tokens`, what it sees of a text; as `embed_text`."""
    text = text_from_bytes(text_bytes)
    assert parameters.repository is not None, "the server says where its models lie"
    folder = parameters.repository / parameters.networks["text"] / MODEL_VERSION
    return {"tokens": processing.tokens_of(processing.tokenizer(folder / TOKENIZER_FILE), text)}
