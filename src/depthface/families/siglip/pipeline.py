"""The coroutines that the server runs: a photo, or a text, to its vector; whole, and the step before the network."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy.typing as npt

from depthface.contract import Parameters
from depthface.families.clip.pipeline import answer_image, answer_text, tokenizer_file
from depthface.families.siglip import processing
from depthface.spec import AskNetwork
from depthface.tasks.embedding import text_from_bytes

__all__ = ["embed_image", "embed_text", "prepare_image"]

Array = npt.NDArray[Any]


async def embed_image(
    wanted: Collection[str], infer: AskNetwork, parameters: Parameters, image_bytes: bytes
) -> dict[str, Array]:
    """Server pipeline: the vector of a photo, as CLIP's `embed_image`.

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
    """Server pipeline: the vector of a text, as CLIP's `embed_text`.

    Raises:
        InvalidInput: the text is empty, too long, or not UTF-8.
    """
    text = text_from_bytes(text_bytes)
    reading = processing.read(processing.tokenizer(tokenizer_file(parameters)), text)
    return await answer_text(wanted, infer, parameters, reading)
