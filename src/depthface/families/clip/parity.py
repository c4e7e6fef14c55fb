"""Embeddings compared in their own units: angles."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from depthface.families.clip.card import TEXT_TOKENS, TOKENIZER_FILE
from depthface.families.clip.processing import centre_crop, filled, read, tokenizer_from_bytes
from depthface.spec import Samples, Source

__all__ = ["compared", "measure", "measurements", "views"]

Pixels = npt.NDArray[np.uint8]
Vectors = npt.NDArray[np.float32]

_BATCH = 8


def measurements(
    source: Source, run: Callable[[dict[str, Any]], dict[str, Any]], samples: Samples
) -> Iterator[tuple[str, dict[str, float]]]:
    """Compare an export with its reference: on photos, or on sentences.

    A sentence goes through the export at its own length, and through the reference filled up to 77 tokens.

    Args:
        source: of the network of photos, or of that of texts, whose files hold its tokenizer.
        run: the exported network, inputs by name to outputs by name.
        samples: of both.

    Yields:
        The name of each case and its metrics, as `measure` has them.
    """
    if TOKENIZER_FILE in source.files:
        tokenizer = tokenizer_from_bytes(source.files[TOKENIZER_FILE])
        name = "tokens"
        fed: list[npt.NDArray[Any]] = sorted((read(tokenizer, text).tokens for text in samples.sentences), key=len)
        expected = source.reference(np.stack([filled(tokens, TEXT_TOKENS) for tokens in fed]))
    else:
        name = "pixels"
        shown = [view for photo in samples.photos for view in views(photo)]
        fed = [centre_crop(view, exact=samples.is_exact) for view in shown]
        expected = source.reference(np.stack([centre_crop(view) for view in shown]))
    yield compared(name, fed, expected, run)


def views(photo: Pixels) -> tuple[Pixels, ...]:
    """Return a photo as it is, as in a mirror, its upper half, and upside down."""
    return photo, photo[:, ::-1], photo[: len(photo) // 2], photo[::-1]


def compared(
    name: str,
    fed: Sequence[npt.NDArray[Any]],
    expected: Vectors,
    run: Callable[[dict[str, Any]], dict[str, Any]],
) -> tuple[str, dict[str, float]]:
    """Return a case of `measurements`: what the export gives for its input `name`, item by item, against `expected`."""
    got = np.concatenate([run({name: batch})["embedding"] for batch in _batches(fed)])
    return f"{len(fed)} {name}", measure(expected, got)


def _batches(items: Sequence[npt.NDArray[Any]]) -> Iterator[npt.NDArray[Any]]:
    """Yield them in their order, those of one shape together, a few at once."""
    for _, alike in itertools.groupby(items, key=np.shape):
        of_one_shape = np.stack(list(alike))
        yield from (of_one_shape[start : start + _BATCH] for start in range(0, len(of_one_shape), _BATCH))


def measure(expected: Vectors, got: Vectors) -> dict[str, float]:
    """How far `got` is from `expected`, `(N, D) float32` both, in 1 − cosine; the largest of all.

    Returns:
        - `cosine_loss`: of the vectors;
        - `centred_loss`: of the vectors less the mean of the expected ones: what tells photos apart.

        A value that is not finite, or a vector that is not of unit length, makes both infinite.
    """
    is_unit = np.isfinite(got).all() and np.allclose(np.linalg.norm(got, axis=1), 1, atol=1e-3)
    if got.shape != expected.shape or not is_unit:
        return {"cosine_loss": float("inf"), "centred_loss": float("inf")}
    mean = expected.astype(np.float64).mean(axis=0)
    return {"cosine_loss": _loss(expected, got), "centred_loss": _loss(expected - mean, got - mean)}


def _loss(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    cosines = (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return float(np.max(1 - cosines))
