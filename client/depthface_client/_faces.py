"""What is asked about faces and what comes back: what the two clients share."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from tritonclient.http import InferInput

from depthface.errors import InvalidInput, ModelUnavailable
from depthface.families.insightface.result import Face
from depthface_client._protocol import Photo, image_input
from depthface_client.errors import NoFaceFound

__all__ = [
    "ANALYSIS",
    "DETECTION",
    "EMBEDDING",
    "PARTS",
    "SWAP",
    "SWAPPER",
    "faces_from",
    "is_public",
    "largest",
    "only_served",
    "outputs_of",
    "request",
    "served",
]

ANALYSIS, DETECTION, SWAP = "face_analysis_", "face_detection_", "face_swap_"

SWAPPER = f"{SWAP}inswapper_128"

EMBEDDING = "embedding"

PARTS: Mapping[str, tuple[str, ...]] = {
    EMBEDDING: ("embeddings",),
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


def is_public(model: str) -> bool:
    """Whether this is a face model that a user may ask, and not a network of one."""
    return model.startswith((ANALYSIS, DETECTION, SWAP))


def served(statistics: Mapping[str, Any]) -> list[str]:
    """The face models that a server serves, from Triton's statistics: unlike its index they are for everyone."""
    return sorted({entry["name"] for entry in statistics["model_stats"] if is_public(entry["name"])})


def only_served(host: str, statistics: Mapping[str, Any]) -> str:
    """The one face model that is ready: an analysis, or else a detection.

    Raises:
        ModelUnavailable: there is none.
        InvalidInput: there are several.
    """
    ready = served(statistics)
    for kind in (ANALYSIS, DETECTION):
        models = [name for name in ready if name.startswith(kind)]
        if len(models) > 1:
            raise InvalidInput(f"{host} serves several face models. Choose one with model=: {', '.join(models)}.")
        if models:
            return models[0]
    raise ModelUnavailable(f"{host} serves no face model. Export one: `depthface export`.")


def outputs_of(model: str, parts: Iterable[str] | None, offered: Collection[str]) -> list[str]:
    """The outputs to ask for.

    Args:
        parts: names of `PARTS`; None for all that the model offers but the crop.
        offered: the outputs of the model.

    Raises:
        InvalidInput: there is no such part, or the model does not offer it.
    """
    offers = [part for part in PARTS if set(offered).issuperset(PARTS[part])]
    if parts is None:
        asked = [part for part in offers if part != _UNASKED]
    else:
        asked = list(dict.fromkeys((parts,) if isinstance(parts, str) else parts))
    for part in asked:
        if part not in PARTS:
            raise InvalidInput(f"{part!r} is no part of a face. Choose from: {', '.join(PARTS)}.")
        if part not in offers:
            raise InvalidInput(
                f"{model} does not offer {part}: it was exported without a network for it. It offers "
                f"{', '.join(offers) or 'boxes, scores and keypoints alone'}."
            )
    return [*_ALWAYS, *(output for part in asked for output in PARTS[part])]


def request(
    photo: Photo, min_score: float | None = None, max_faces: int | None = None, det_size: int | None = None
) -> list[InferInput]:
    """The input tensors; what is None is left to the server."""
    if min_score is not None and not 0.0 <= min_score <= 1.0:
        raise InvalidInput(f"A min_score of {min_score:g} is no score. Give one from 0 to 1.")
    for name, value in (("max_faces", max_faces), ("det_size", det_size)):
        if value is not None and not 0 <= value < 2**31:
            raise InvalidInput(f"A {name} of {value} means nothing. Give a number from 0.")
    tensors = [image_input(photo)]
    if min_score is not None:
        tensors.append(_option("min_score", "FP32", np.float32(min_score)))
    if max_faces is not None:
        tensors.append(_option("max_faces", "INT32", np.int32(max_faces)))
    if det_size is not None:
        tensors.append(_option("det_size", "INT32", np.int32(det_size)))
    return tensors


def faces_from(response: Any, asked: Collection[str]) -> list[Face]:
    """The faces in a response that holds these outputs, each `(1, F, …)`."""
    rows = {name: response.as_numpy(name)[0] for name in asked}

    def row(name: str, index: int, dtype: type[np.generic] = np.float32) -> npt.NDArray[Any] | None:
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


def largest(faces: Sequence[Face], photo: Photo, which: str) -> Face:
    """The face of the largest box; raises `NoFaceFound` naming `which` photo has none."""
    if not faces:
        name = f" ({os.fspath(photo)})" if isinstance(photo, str | os.PathLike) else ""
        raise NoFaceFound(f"No face was found in the {which} photo{name}. Give one that shows a face more clearly.")
    return max(faces, key=lambda face: face.area)


def _option(name: str, datatype: str, value: np.generic) -> InferInput:
    tensor = InferInput(name, [1, 1], datatype)
    tensor.set_data_from_numpy(np.array([[value]]))
    return tensor
