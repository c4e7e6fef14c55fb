"""What the client hands back for faces. numpy and Pillow only."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from depthface.errors import InvalidInput

__all__ = ["SAME_PERSON_SIMILARITY", "Comparison", "Face"]

Floats = npt.NDArray[np.float32]

SAME_PERSON_SIMILARITY = 0.28
"""The cosine from which two faces are called the same person.

InsightFace's own demo says so of buffalo_l's w600k_r50 (deepinsight/insightface, web-demos/src_recognition/main.py:
below 0.2 not the same, from 0.28 the same). It is a convention, not a calibrated rate of errors: choose your own on
pairs of your own, above all with another pack.
"""

_PIXEL_DECIMALS = 3
_COSINE_DECIMALS = 8


@dataclass(frozen=True, eq=False)
class Face:
    """A face in a photo. Coordinates are pixels of the upright photo, x to the right, y down; arrays are read-only.

    What was not asked for, or what the served pack has no network for, is None.

    Attributes:
        box: x1, y1, x2, y2: `(4,) float32`; may reach beyond the photo's edge.
        score: how sure the detector is, 0…1.
        keypoints: left eye, right eye, nose, left and right corner of the mouth, left as the viewer sees it:
            `(5, 2) float32`.
        embedding: who it is: `(D,) float32` of unit length; comparable between photos, not between packs.
        landmarks_106: `(106, 2) float32`.
        landmarks_68: x, y, and depth on the same scale: `(68, 3) float32`.
        pose: pitch, yaw, roll in degrees: `(3,) float32`.
        gender: what the network takes it for.
        age: in years.
        aligned: the face turned upright and scaled to 112×112: `(112, 112, 3) uint8 RGB`; see `crop()`.
    """

    box: Floats
    score: float
    keypoints: Floats
    embedding: Floats | None = None
    landmarks_106: Floats | None = None
    landmarks_68: Floats | None = None
    pose: Floats | None = None
    gender: Literal["female", "male"] | None = None
    age: int | None = None
    aligned: npt.NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                view = value.view()
                view.setflags(write=False)
                object.__setattr__(self, field.name, view)

    @property
    def area(self) -> float:
        """Of the box, in square pixels."""
        x1, y1, x2, y2 = (float(side) for side in self.box)
        return max(x2 - x1, 0.0) * max(y2 - y1, 0.0)

    def similarity(self, other: Face) -> float:
        """The cosine of two embeddings, −1…1: near 0 for strangers, larger for the same person.

        Raises:
            InvalidInput: one of the faces has no embedding, or they are of different packs.
        """
        if self.embedding is None or other.embedding is None:
            raise InvalidInput("A face has no embedding. Ask for it: faces(photo, parts=['embedding']).")
        if self.embedding.shape != other.embedding.shape:
            raise InvalidInput(
                f"Embeddings of {self.embedding.size} and {other.embedding.size} numbers cannot be compared. Take "
                "both from the same model."
            )
        mine, others = self.embedding.astype(np.float64), other.embedding.astype(np.float64)
        lengths = float(np.linalg.norm(mine) * np.linalg.norm(others))
        return float(np.clip(mine @ others / lengths, -1.0, 1.0)) if lengths else 0.0

    def crop(self) -> Image.Image:
        """The aligned face as an RGB picture of 112×112.

        Raises:
            InvalidInput: the crop was not asked for.
        """
        if self.aligned is None:
            raise InvalidInput("The face came without its crop. Ask for it: faces(photo, parts=['crop']).")
        return Image.fromarray(self.aligned)

    def as_dict(self) -> dict[str, Any]:
        """All but the crop, in the types of JSON; coordinates to 1/1000 of a pixel, None where there is nothing."""
        return {
            "box": _numbers(self.box),
            "score": round(self.score, 4),
            "keypoints": _numbers(self.keypoints),
            "embedding": _numbers(self.embedding, _COSINE_DECIMALS),
            "landmarks_106": _numbers(self.landmarks_106),
            "landmarks_68": _numbers(self.landmarks_68),
            "pose": _numbers(self.pose),
            "gender": self.gender,
            "age": self.age,
        }


@dataclass(frozen=True)
class Comparison:
    """Whether two faces are one person's.

    Attributes:
        similarity: the cosine of their embeddings, −1…1.
        same: whether it reaches the threshold.
        threshold: where the line was drawn; `SAME_PERSON_SIMILARITY` says what the default is worth.
    """

    similarity: float
    same: bool
    threshold: float

    @classmethod
    def of(cls, one: Face, other: Face, threshold: float = SAME_PERSON_SIMILARITY) -> Comparison:
        """Compare two faces that have embeddings; raises `InvalidInput` if they cannot be compared."""
        if not -1.0 <= threshold <= 1.0:
            raise InvalidInput(f"A threshold of {threshold:g} is no cosine. Give one from -1 to 1.")
        similarity = one.similarity(other)
        return cls(similarity, similarity >= threshold, threshold)


def _numbers(array: Floats | None, decimals: int = _PIXEL_DECIMALS) -> list[Any] | None:
    return None if array is None else array.astype(np.float64).round(decimals).tolist()
