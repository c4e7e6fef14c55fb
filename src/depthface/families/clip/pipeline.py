"""The coroutines that the server runs: a photo, or a text, to its vector; whole, and the step before the network."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from depthface.contract import MODEL_VERSION, Parameters
from depthface.families.clip import processing
from depthface.families.clip.card import TOKENIZER_FILE
from depthface.spec import AskNetwork
from depthface.tasks.embedding import CUT_TOKENS, text_from_bytes

__all__ = ["answer_image", "answer_text", "embed_image", "embed_text", "prepare_image", "tokenizer_file"]

Array = npt.NDArray[Any]


async def embed_image(
    wanted: Collection[str], infer: AskNetwork, parameters: Parameters, image_bytes: bytes
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
    return await answer_image(infer, parameters, await prepare_image(wanted, infer, parameters, image_bytes))


async def prepare_image(
    wanted: Collection[str], infer: AskNetwork, parameters: Parameters, image_bytes: bytes
) -> dict[str, Array]:
    """Step before the network: `pixels`, what it sees of a photo; as `embed_image`."""
    return {"pixels": processing.preprocess(image_bytes, parameters.precision or "fp32")}


async def embed_text(
    wanted: Collection[str], infer: AskNetwork, parameters: Parameters, text_bytes: bytes
) -> dict[str, Array]:
    """Server pipeline: the vector of a text; what is too long for the network is cut off at its end.

    Args:
        wanted: the outputs asked for.
        infer: asks a model: its name, batched inputs, the outputs wanted.
        parameters: its `networks` hold `text`, and beside that network's artefact lies its tokenizer.
        text_bytes: UTF-8.

    Returns:
        `embedding`: `(D,) float32` of unit length; `cut_tokens`: `(1,) int32`, how many of the text's tokens were cut
        off; those that are wanted.

    Raises:
        InvalidInput: the text is empty, too long, or not UTF-8.
    """
    text = text_from_bytes(text_bytes)
    reading = processing.read(processing.tokenizer(tokenizer_file(parameters)), text)
    return await answer_text(wanted, infer, parameters, reading)


def tokenizer_file(parameters: Parameters) -> Path:
    """Return where the tokenizer of a text model lies: beside its network's artefact."""
    assert parameters.repository is not None, "the server says where its models lie"
    return parameters.repository / parameters.networks["text"] / MODEL_VERSION / TOKENIZER_FILE


async def answer_image(infer: AskNetwork, parameters: Parameters, made: Mapping[str, Array]) -> dict[str, Array]:
    """Return `embedding`, what the network says of the `pixels` that were made of a photo."""
    found = await infer(parameters.networks["image"], {"pixels": made["pixels"][None]}, ("embedding",))
    return {"embedding": found["embedding"][0]}


async def answer_text(
    wanted: Collection[str], infer: AskNetwork, parameters: Parameters, reading: processing.Reading
) -> dict[str, Array]:
    """Return `cut_tokens` of a text as it was read and, if it is wanted, `embedding`, what the network says of it."""
    out: dict[str, Array] = {CUT_TOKENS: np.array([reading.cut], np.int32)}
    if set(wanted) <= out.keys():
        return out
    found = await infer(parameters.networks["text"], {"tokens": reading.tokens[None]}, ("embedding",))
    return out | {"embedding": found["embedding"][0]}
