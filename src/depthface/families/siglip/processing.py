"""What is done before the networks, as `transformers` does it (pinned reference: transformers 5.23)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, normalizers

from depthface import image
from depthface.families.clip.processing import Reading, cut_of, parsed, read_once
from depthface.families.siglip.card import PHOTO_SIDE_PX, TEXT_TOKENS

__all__ = ["END", "PAD", "preprocess", "read", "squashed", "tokenizer", "tokenizer_from_bytes"]

Pixels = npt.NDArray[np.uint8]

END, PAD = "<eos>", "<pad>"
"""The tokens of a text's end, and of what is filled up behind it."""


def preprocess(image_bytes: bytes, precision: str = "fp32") -> Pixels:
    """Return what the network sees of an encoded photo: `(224, 224, 3) uint8 RGB`, all of it, whatever its shape.

    Transparency is dropped, as `transformers`' `load_image` and immich drop it.

    Args:
        image_bytes: of any format that `image.decode` takes.
        precision: the network's. For fp32 the resize is the reference's to the bit; below, a faster one.

    Raises:
        InvalidInput: not a photo, or over a limit.
    """
    exact = precision == "fp32"
    return squashed(image.decode(image_bytes, padded=not exact), exact=exact)


def squashed(pixels: Pixels, *, exact: bool = True) -> Pixels:
    """Return a photo, `(H, W, 3 or 4) uint8`, at 224×224: bilinear, antialiased (preprocessor_config.json)."""
    return image.resize_bilinear(pixels, PHOTO_SIDE_PX, PHOTO_SIDE_PX, exact=exact)


def tokenizer(path: Path) -> Tokenizer:
    """Return the tokenizer in a file, as CLIP's `read_once` keeps it."""
    return read_once(path, tokenizer_from_bytes)


def tokenizer_from_bytes(data: bytes) -> Tokenizer:
    """Return a tokenizer that makes exactly 64 tokens of a text, in lower case.

    The published one does not lower the case, which training did (arXiv:2502.14786, section 2.1; transformers 5's
    `Siglip2Tokenizer`). What is longer is cut off before the token of the end, what is shorter is filled up behind it.

    Args:
        data: a tokenizer.json.

    Raises:
        ValueError: it is none, or has no token of the end or to fill up with.
    """
    made = parsed(data, PAD, END)
    own = [made.normalizer] if made.normalizer is not None else []
    made.normalizer = normalizers.Sequence([normalizers.Lowercase(), *own])
    made.enable_truncation(TEXT_TOKENS)
    made.enable_padding(direction="right", pad_id=made.token_to_id(PAD), pad_token=PAD, length=TEXT_TOKENS)
    return made


def read(made: Tokenizer, text: str) -> Reading:
    """Return the tokens of a text, `(64,) int32`, and how many were cut off."""
    encoded = made.encode(text)
    return Reading(np.array(encoded.ids, np.int32), cut_of(encoded))
