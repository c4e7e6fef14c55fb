"""CompreFace's scale of similarity, and embeddings that are compared on it."""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, Field

from depthface.errors import InvalidInput

__all__ = ["MOST_NUMBERS", "Embeddings", "compared", "similarity_of"]

MOST_NUMBERS = 100_000
"""The most in one request: some 190 embeddings of 512."""

_MIDDLE_DISTANCE, _STEEPNESS = 1.23132175, 6.602259425
"""CompreFace's `similarity_coefficients` of `arcface_r100_v1`."""

_Number = Annotated[float, Field(ge=-1e30, le=1e30)]  # their squares and sums are still finite
_Embedding = Annotated[list[_Number], Field(fail_fast=True)]


class Embeddings(BaseModel):
    """What is compared: `source` with each of `targets`, of any length but 0."""

    source: _Embedding = []
    targets: Annotated[list[_Embedding], Field(fail_fast=True)] = []


def similarity_of(cosine: float) -> float:
    """Return how similar CompreFace calls two faces, 0…1, of the cosine of their embeddings, −1…1.

    It is (tanh((c₀ − d) c₁) + 1) / 2 of the distance d = √(2 − 2 cos) of vectors of unit length, as in its
    `EuclideanDistanceClassifier`; c₀ and c₁ are those of its InsightFace plugin for `arcface_r100_v1`. So a threshold
    that its users have set stays right: 0.5 is where the distance is c₀, at a cosine of 0.24.
    """
    distance = math.sqrt(max(2 - 2 * cosine, 0.0))
    return round((math.tanh((_MIDDLE_DISTANCE - distance) * _STEEPNESS) + 1) / 2, 5)


def compared(embeddings: Embeddings) -> list[dict[str, Any]]:
    """Return each target as `embedding` with its `similarity`, the most similar first.

    Raises:
        InvalidInput: they are of several widths, or one of them has no length.
    """
    vectors = [embeddings.source, *embeddings.targets]
    if len({len(vector) for vector in vectors}) > 1:
        raise InvalidInput("The embeddings are of several widths.", "Send those of one model.")
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not (lengths > 0).all():
        raise InvalidInput("An embedding consists of zeros.", "Send what the plugin calculator gave.")
    source, *targets = np.array(vectors) / lengths
    rows = [
        {"embedding": said, "similarity": similarity_of(float(source @ target))}
        for said, target in zip(embeddings.targets, targets, strict=True)
    ]
    return sorted(rows, key=lambda row: -row["similarity"])
