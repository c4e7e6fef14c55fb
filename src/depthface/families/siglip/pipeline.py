"""The coroutines that the server runs: a photo, or a text, to its vector; whole, and the step before the network."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt

from depthface.contract import MODEL_VERSION, Parameters
from depthface.families.siglip import processing
from depthface.families.siglip.card import TOKENIZER_FILE
from depthface.spec import AskNetwork
from depthface.tasks.embedding import CUT_TOKENS, text_from_bytes

__all__ = ["embed_image", "embed_text", "prepare_image"]

Array = npt.NDArray[Any]


async def embed_image(
    wanted: Collection[str], infer: AskNetwork, parameters: Parameters, image_bytes: bytes
) -> dict[str, Array]:
    """Server pipeline: the vector of a photo, as CLIP's `embed_image`.

    Raises:
        InvalidInput: as `processing.preprocess`.
    """
    made = await prepare_image(wanted, infer, parameters, image_bytes)
    found = await infer(parameters.networks["image"], {"pixels": made["pixels"][None]}, ("embedding",))
    return {"embedding": found["embedding"][0]}


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
    text, network = text_from_bytes(text_bytes), parameters.networks["text"]
    assert parameters.repository is not None, "the server says where its models lie"
    tokenizer = processing.tokenizer(parameters.repository / network / MODEL_VERSION / TOKENIZER_FILE)
    reading = processing.read(tokenizer, text)
    out: dict[str, Array] = {CUT_TOKENS: np.array([reading.cut], np.int32)}
    if set(wanted) <= out.keys():
        return out
    found = await infer(network, {"tokens": reading.tokens[None]}, ("embedding",))
    return out | {"embedding": found["embedding"][0]}
