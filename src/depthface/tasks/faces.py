"""The task `faces`: a photo in, the faces in it out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from depthface.asking import Asker, Description, Infer, Steps, Together, bytes_tensor, operation
from depthface.errors import InvalidInput, NoFaceFound
from depthface.operations import naming
from depthface.photos import Photo, encoded, probe_picture

__all__ = [
    "DEFAULT_MIN_SCORE",
    "DETECTOR_SIDE",
    "DET_SIZE_AUTO",
    "DET_SIZE_STRIDE_PX",
    "EMBEDDING_SIZE",
    "MAX_DET_SIZE_PX",
    "NAME",
    "PARTS",
    "SAME_PERSON_SIMILARITY",
    "Comparison",
    "Face",
    "FaceMethods",
    "Options",
    "probe",
]

NAME = "faces"

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

DEFAULT_MIN_SCORE = 0.5
"""InsightFace's own (scrfd.py:548 `det_thresh`)."""

DET_SIZE_AUTO = 0
"""`det_size` for InsightFace 2's own: 128 and 640 together; 640 alone misses faces that fill most of the photo."""

DET_SIZE_STRIDE_PX = 32
"""A detector's square is a multiple of its coarsest stride."""

MAX_DET_SIZE_PX = 1920
"""The largest square that may be asked for."""

DETECTOR_SIDE = "detector_side_px"
EMBEDDING_SIZE = "embedding_size"
"""The facts that a model's config tells of its pack: the side of the one square that its detector takes, if there is
but one; and the length of its embeddings, if it has any."""

PARTS: Mapping[str, tuple[str, ...]] = {
    "embedding": ("embeddings",),
    "landmarks_106": ("landmarks_106",),
    "landmarks_68": ("landmarks_68",),
    "pose": ("pose",),
    "attributes": ("gender", "age"),
    "crop": ("crops",),
}
"""What may be asked of a face besides box, score and keypoints, and the outputs that are it."""

_ALWAYS = ("boxes", "scores", "keypoints")
_UNASKED = "crop"  # the only part that is left out unless it is named: 37 KB a face

_GENDERS: tuple[Literal["female", "male"], ...] = ("female", "male")

SAME_PERSON_SIMILARITY = 0.28
"""The cosine from which two faces are called the same person.

InsightFace's own demo says so of buffalo_l's w600k_r50 (deepinsight/insightface, web-demos/src_recognition/main.py:
below 0.2 not the same, from 0.28 the same). It is a convention, not a calibrated rate of errors: choose your own on
pairs of your own, above all with another pack.
"""

_PIXEL_DECIMALS = 3
_COSINE_DECIMALS = 8


@dataclass(frozen=True)
class Options:
    """What a request may ask, each an input of its own.

    Attributes:
        min_score: the least score of a face, above 0 and at most 1.
        max_faces: the most faces, the largest and most central; 0 for all.
        det_size: the side in pixels of the square in which faces are looked for; `DET_SIZE_AUTO` for two at once.

    Raises:
        InvalidInput: a value is out of range, or no number.
    """

    min_score: float = DEFAULT_MIN_SCORE
    max_faces: int = 0
    det_size: int = DET_SIZE_AUTO

    def __post_init__(self) -> None:
        if not (_is_number(self.min_score) and 0 < self.min_score <= 1):
            raise InvalidInput(f"min_score is {self.min_score!r}.", "Give a number above 0 and at most 1.")
        if not (_is_whole(self.max_faces) and 0 <= self.max_faces < 2**31):
            raise InvalidInput(f"max_faces is {self.max_faces!r}.", "Give a whole number, or 0 for all.")
        side = self.det_size
        if not (_is_whole(side) and 0 <= side <= MAX_DET_SIZE_PX and side % DET_SIZE_STRIDE_PX == 0):
            raise InvalidInput(
                f"det_size is {side!r}.",
                f"Give a multiple of {DET_SIZE_STRIDE_PX} up to {MAX_DET_SIZE_PX}, such as 640, or 0 for auto.",
            )

    @classmethod
    def of(cls, min_score: float | None, max_faces: int | None, det_size: int | None) -> Options:
        """Return the options of which None is as the default."""
        given = {"min_score": min_score, "max_faces": max_faces, "det_size": det_size}
        return cls(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]

    @classmethod
    def of_tensors(
        cls, min_score: Array | None = None, max_faces: Array | None = None, det_size: Array | None = None
    ) -> Options:
        """Return the options of a request's tensors, `(1,)` each; None where one was left out, or cannot be given."""
        return cls.of(*(None if tensor is None else tensor[0].item() for tensor in (min_score, max_faces, det_size)))

    def tensors(self) -> dict[str, Array]:
        """Return the inputs of a request: `(1, 1)` float32 and int32; those that are as the defaults are left out."""
        default = Options()
        types = {"min_score": np.float32, "max_faces": np.int32, "det_size": np.int32}
        values = {name: getattr(self, name) for name in types}
        return {
            name: np.array([[value]], types[name]) for name, value in values.items() if value != getattr(default, name)
        }


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _is_whole(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


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
        for name, value in vars(self).items():
            if isinstance(value, np.ndarray):
                view = value.view()
                view.setflags(write=False)
                object.__setattr__(self, name, view)

    @property
    def area(self) -> float:
        """The box's area, in square pixels."""
        x1, y1, x2, y2 = (float(side) for side in self.box)
        return max(x2 - x1, 0.0) * max(y2 - y1, 0.0)

    def similarity(self, other: Face) -> float:
        """Return the cosine of two embeddings, −1…1: near 0 for strangers, larger for the same person.

        Raises:
            InvalidInput: one of the faces has no embedding, or one that is no number; or they are of different packs.
        """
        if self.embedding is None or other.embedding is None:
            raise InvalidInput("A face has no embedding.", "Ask for it: faces(photo, parts=['embedding']).")
        if self.embedding.shape != other.embedding.shape:
            raise InvalidInput(
                f"Embeddings of {self.embedding.size} and {other.embedding.size} numbers cannot be compared.",
                "Take both from the same model.",
            )
        mine, others = self.embedding.astype(np.float64), other.embedding.astype(np.float64)
        if not (np.isfinite(mine).all() and np.isfinite(others).all()):
            raise InvalidInput("An embedding is not of finite numbers.", "Ask for the face anew.")
        lengths = float(np.linalg.norm(mine) * np.linalg.norm(others))
        return float(np.clip(mine @ others / lengths, -1.0, 1.0)) if lengths else 0.0

    def crop(self) -> Image.Image:
        """Return the aligned face as an RGB picture of 112×112.

        Raises:
            InvalidInput: the crop was not asked for.
        """
        if self.aligned is None:
            raise InvalidInput("The face came without its crop.", "Ask for it: faces(photo, parts=['crop']).")
        return Image.fromarray(self.aligned)

    def as_dict(self) -> dict[str, Any]:
        """Return all but the crop, in the types of JSON; coordinates to 1/1000 of a pixel, None for what is absent."""
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
        if not (_is_number(threshold) and -1 <= threshold <= 1):
            raise InvalidInput(f"threshold is {threshold!r}.", "Give a cosine from -1 to 1.")
        similarity = one.similarity(other)
        return cls(similarity, similarity >= threshold, threshold)


class FaceMethods(Asker):
    """What a client asks about faces."""

    @operation
    def faces(  # noqa: PLR0913  most by keyword
        self,
        photo: Photo,
        *,
        model: str | None = None,
        parts: Iterable[str] | None = None,
        min_score: float | None = None,
        max_faces: int | None = None,
        det_size: int | None = None,
        request_id: str | None = None,
    ) -> Steps[list[Face]]:
        """Return the faces in a photo, the surest first (with `max_faces` the largest); an empty list without any.

        Args:
            photo: a path, the bytes of a file, a PIL picture, or an array `(H, W, 3)` RGB or `(H, W)` grey, of uint8,
                uint16 (white is 65535) or bool (white is True).
            model: None for the one that the server serves.
            parts: what to find out besides box, score and keypoints, of `embedding`, `landmarks_106`, `landmarks_68`,
                `pose`, `attributes` (gender and age) and `crop`. None for all that the model offers but the crop,
                `()` for nothing more. What is not asked for is not computed.
            min_score: the least score of a face, above 0 and at most 1; 0.5 if None.
            max_faces: the most faces to return, the largest and most central; 0 or None for all.
            det_size: the side in pixels of the square in which faces are looked for, a multiple of 32: 640 as
                insightface 0.7. 0 or None for insightface 2's way, 128 and 640 together.
            request_id: what the server's log and an error name the request by; None for one made up.

        Raises:
            InvalidInput: the photo or an option cannot be used, or the model does not offer a part.
            ClientError: no answer.
        """
        options = Options.of(min_score, max_faces, det_size)
        data = yield from self._read(photo)
        model = model or (yield from self._serving(NAME))
        asked = _outputs_of((yield from self._describe(model)), parts)
        inputs = {"image": bytes_tensor(data), **options.tensors()}
        return _faces_from((yield from self._infer(model, inputs, asked, {}, request_id)))

    @operation
    def compare(
        self, a: Photo, b: Photo, *, model: str | None = None, threshold: float = SAME_PERSON_SIMILARITY
    ) -> Steps[Comparison]:
        """Return whether the largest face of one photo and that of another are the same person's.

        Args:
            a: a photo, as for `faces`.
            b: another.
            model: None for the one that the server serves.
            threshold: the cosine from which they are; `SAME_PERSON_SIMILARITY` says what the default is worth.

        Raises:
            NoFaceFound: one of the photos has no face.
            InvalidInput: a photo or the threshold cannot be used, or the model gives no embeddings.
            ClientError: no answer.
        """
        model = model or (yield from self._serving(NAME, PARTS["embedding"]))
        way = FaceMethods.faces.way
        found = yield Together(
            [
                naming(way(self, photo, model=model, parts=("embedding",)), f"The {place} photo", photo)
                for place, photo in (("first", a), ("second", b))
            ]
        )
        return Comparison.of(_largest(found[0], a, "first"), _largest(found[1], b, "second"), threshold)

    @operation
    def face_model(self) -> Steps[str]:
        """Return the model that a request about faces takes which names none: an analysis, or else a detection.

        Raises:
            ModelUnavailable: there is none.
            InvalidInput: there are several.
        """
        return (yield from self._serving(NAME))


def probe(description: Description) -> Infer:
    """Return the smallest request that proves that a model answers.

    There is no face in it, so that the detector answers and the networks after it stay idle.
    """
    return Infer(description.name, {"image": bytes_tensor(encoded(probe_picture()))}, _ALWAYS)


def _outputs_of(model: Description, parts: Iterable[str] | None) -> list[str]:
    """Return the outputs to ask for; raise `InvalidInput` for a part that there is not, or not of this model."""
    offers = [part for part in PARTS if set(model.outputs).issuperset(PARTS[part])]
    if parts is None:
        asked = [part for part in offers if part != _UNASKED]
    else:
        asked = list(dict.fromkeys((parts,) if isinstance(parts, str) else parts))
    for part in asked:
        if part not in PARTS:
            raise InvalidInput(f"{part!r} is no part of a face.", f"Choose from: {', '.join(PARTS)}.")
        if part not in offers:
            raise InvalidInput(
                f"{model.name} does not offer {part}: it was exported without a network for it.",
                f"It offers {', '.join(offers) or 'boxes, scores and keypoints alone'}.",
            )
    return [*_ALWAYS, *(output for part in asked for output in PARTS[part])]


def _faces_from(outputs: Mapping[str, Array]) -> list[Face]:
    """Return the faces of a response's outputs, each `(1, F, …)`."""
    rows = {name: array[0] for name, array in outputs.items()}

    def row(name: str, index: int, dtype: type[np.generic] = np.float32) -> Array | None:
        return rows[name][index].astype(dtype) if name in rows else None

    return [
        Face(
            box=rows["boxes"][index].astype(np.float32),
            score=float(rows["scores"][index]),
            keypoints=rows["keypoints"][index].astype(np.float32),
            embedding=row("embeddings", index),
            landmarks_106=row("landmarks_106", index),
            landmarks_68=row("landmarks_68", index),
            pose=row("pose", index),
            gender=_GENDERS[int(rows["gender"][index])] if "gender" in rows else None,
            age=int(rows["age"][index]) if "age" in rows else None,
            aligned=row("crops", index, np.uint8),
        )
        for index in range(len(rows["boxes"]))
    ]


def _largest(faces: Sequence[Face], photo: Photo, which: str) -> Face:
    """Return the face of the largest box; raise `NoFaceFound` naming `which` photo has none."""
    if not faces:
        name = f" ({os.fspath(photo)})" if isinstance(photo, str | os.PathLike) else ""
        raise NoFaceFound(f"No face was found in the {which} photo{name}.", "Give one that shows a face more clearly.")
    return max(faces, key=lambda face: face.area)


def _numbers(array: Floats | None, decimals: int = _PIXEL_DECIMALS) -> list[Any] | None:
    return None if array is None else array.astype(np.float64).round(decimals).tolist()
