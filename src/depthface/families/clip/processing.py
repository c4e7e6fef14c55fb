"""What is done before the networks, as `transformers` does it (pinned reference: transformers 5.23)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

from depthface import image
from depthface.families.clip.card import FEWEST_TOKENS, PHOTO_SIDE_PX, TEXT_TOKENS
from depthface.limits import refuse_too_long

__all__ = [
    "END",
    "MAX_ASPECT",
    "Reading",
    "centre_crop",
    "cut_of",
    "filled",
    "parsed",
    "preprocess",
    "read",
    "read_once",
    "tokenizer",
    "tokenizer_from_bytes",
]

Pixels = npt.NDArray[np.uint8]

END = "<|endoftext|>"
"""The token of a text's end, the largest of all."""

MAX_ASPECT = 50.0
"""Photos longer than this are refused: the square in their middle shows next to nothing of them, and the rest is
scaled for nothing."""


@dataclass(frozen=True)
class Reading:
    """A text as the network reads it.

    Attributes:
        tokens: `(L,) int32`, from the start to the end; L is a multiple of 8, or 77, and filled up by the end.
        cut: how many of the text's tokens, its last, are not among them.
    """

    tokens: npt.NDArray[np.int32]
    cut: int


def preprocess(image_bytes: bytes, precision: str = "fp32") -> Pixels:
    """Return what the network sees of an encoded photo: `(224, 224, 3) uint8 RGB`.

    Transparency is dropped, as `transformers`' `load_image`, OpenCLIP and immich drop it; the bare processor would put
    the photo on white.

    Args:
        image_bytes: of any format that `image.decode` takes.
        precision: the network's. For fp32 the resize is the reference's to the bit; below, the faster one (see
            `image.resize_bicubic`).

    Raises:
        InvalidInput: not a photo, over a limit, or longer than `MAX_ASPECT`.
    """
    height, width = image.size_of(image_bytes)
    refuse_too_long(width, height, MAX_ASPECT)
    exact = precision == "fp32"
    return centre_crop(image.decode(image_bytes, padded=not exact), exact=exact)


def centre_crop(pixels: Pixels, *, exact: bool = True) -> Pixels:
    """Return the square in the middle, after the shorter side was scaled to 224 pixels.

    The longer side is cut down to whole pixels, and the square's corner too (image_transforms.py,
    `get_resize_output_image_size` and `center_crop`).

    Args:
        pixels: `(H, W, 3)` or `(H, W, 4) uint8`, as of `image.resize_bicubic`.
        exact: as of `image.resize_bicubic`.
    """
    height, width = pixels.shape[:2]
    short = min(height, width)
    size = (int(PHOTO_SIDE_PX * height / short), int(PHOTO_SIDE_PX * width / short))
    resized = image.resize_bicubic(pixels, *size, exact=exact)
    top, left = (size[0] - PHOTO_SIDE_PX) // 2, (size[1] - PHOTO_SIDE_PX) // 2
    return np.ascontiguousarray(resized[top : top + PHOTO_SIDE_PX, left : left + PHOTO_SIDE_PX])


def tokenizer(path: Path) -> Tokenizer:
    """Return the tokenizer in a file, as `read_once` keeps it."""
    return read_once(path, tokenizer_from_bytes)


def read_once(path: Path, made: Callable[[bytes], Tokenizer]) -> Tokenizer:
    """Return what is made of a tokenizer's file: once, and anew when an export has put another file in its place."""
    found = path.stat()
    return _read(path, made, (found.st_ino, found.st_mtime_ns, found.st_size))


@functools.lru_cache(maxsize=4)
def _read(path: Path, made: Callable[[bytes], Tokenizer], version: tuple[int, int, int]) -> Tokenizer:
    return made(path.read_bytes())


def tokenizer_from_bytes(data: bytes) -> Tokenizer:
    """Return a tokenizer that makes up to 77 tokens of a text, and cuts off before the token of the end what is longer.

    So does the reference's `truncation=True`.

    Args:
        data: a tokenizer.json.

    Raises:
        ValueError: it is none, or has no token of the end.
    """
    made = parsed(data, END)
    made.enable_truncation(TEXT_TOKENS)
    made.no_padding()
    return made


def parsed(data: bytes, *tokens: str) -> Tokenizer:
    """Return the tokenizer of a tokenizer.json; raise `ValueError` if it is none, or lacks one of the tokens."""
    try:
        made = Tokenizer.from_str(data.decode())
    except Exception as error:  # the library raises a bare one
        raise ValueError(f"not a tokenizer ({error})") from error
    for token in tokens:
        if made.token_to_id(token) is None:
            raise ValueError(f"it has no {token}")
    return made


def read(made: Tokenizer, text: str) -> Reading:
    """Return the tokens of a text, and how many were cut off.

    The network answers the same for a text of any length that holds it: no token sees a later one. So a short text is
    not filled up to 77, where most of the work would be for nothing.
    """
    encoded = made.encode(text)
    length = min(-(-len(encoded.ids) // FEWEST_TOKENS) * FEWEST_TOKENS, TEXT_TOKENS)
    return Reading(filled(np.array(encoded.ids, np.int32), length), cut_of(encoded))


def cut_of(encoded: Encoding) -> int:
    """Return how many of a text's own tokens did not fit in."""
    return sum(part.special_tokens_mask.count(0) for part in encoded.overflowing)


def filled(tokens: npt.NDArray[np.int32], length: int) -> npt.NDArray[np.int32]:
    """Return tokens made up to a length, `(length,) int32`, with that of the end, as `padding="max_length"` does."""
    return np.pad(tokens, (0, length - len(tokens)), mode="edge")
