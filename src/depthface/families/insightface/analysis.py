"""The server's pipeline for faces: `face_analysis_<pack>`, and, offering only what its detector gives,
`face_detection_<pack>`.

It asks the networks only for what is wanted, and none behind the detector where there is no face.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from depthface import image, limits
from depthface.contract import Parameters
from depthface.errors import InvalidInput
from depthface.families.insightface import processing
from depthface.families.insightface.card import (
    DETECTOR_SIDE_PX,
    DETECTOR_SMALL_SIDE_PX,
    MAX_BATCH_SIZE,
)
from depthface.tasks.faces import DET_SIZE_AUTO, DET_SIZE_STRIDE_PX, Options

__all__ = ["analyse", "letterboxes"]

Array = npt.NDArray[Any]
Pixels = npt.NDArray[np.uint8]
Infer = Callable[[str, Mapping[str, Array], Collection[str]], Awaitable[dict[str, Array]]]

# What stands for the small pass where one size is asked for: nothing is found in black.
_NOTHING = np.zeros((DET_SIZE_STRIDE_PX, DET_SIZE_STRIDE_PX, 3), np.uint8)


async def analyse(
    wanted: Collection[str],
    infer: Infer,
    parameters: Parameters,
    image_bytes: bytes,
    min_score: Array | None = None,
    max_faces: Array | None = None,
    det_size: Array | None = None,
) -> dict[str, Array]:
    """Server pipeline: all that a pack can say of the faces in a photo, as far as it is wanted.

    Args:
        infer: asks a model: its name, batched inputs, the outputs wanted.
        parameters: the pack's networks by kind; to detect, `detector` will do. With a recogniser its facts hold the
            `embedding_size`.
        min_score: `(1,) float32`, 0…1; without it 0.5.
        max_faces: `(1,) int32`; without it, or 0, all.
        det_size: `(1,) int32`; without it, or 0, InsightFace 2's auto; else the side of one square in pixels.

    Returns:
        The public outputs that are in `wanted`; `size` is `(2,) int32`, the upright photo's height and width.

    Raises:
        InvalidInput: not a photo, over a limit, an option out of range, or more faces than this server analyses.
    """
    options = Options.of_tensors(min_score, max_faces, det_size)
    photo, out = await _find(wanted, infer, parameters.networks["detector"], image_bytes, options)
    if set(wanted) <= set(out):
        return out
    boxes, keypoints = out["boxes"], out["keypoints"]
    answers = await asyncio.gather(
        _recognise(wanted, infer, parameters, photo, keypoints),
        _landmarks_106(wanted, infer, parameters, photo, boxes),
        _landmarks_68(wanted, infer, parameters, photo, boxes),
        _attributes(wanted, infer, parameters, photo, boxes),
    )
    for answer in answers:
        out |= answer
    return out


async def _find(
    wanted: Collection[str], infer: Infer, detector: str, image_bytes: bytes, options: Options
) -> tuple[Pixels, dict[str, Array]]:
    """The decoded photo; its `size`, and the faces in it unless the size alone is wanted."""
    photo = image.decode(image_bytes)
    height, width, _ = photo.shape
    size = np.array([height, width], np.int32)
    if set(wanted) <= {"size"}:
        return photo, {"size": size}
    fed = {name: value[None] for name, value in letterboxes(photo, options.min_score, options.det_size).items()}
    found = await infer(detector, fed, ("boxes", "scores", "keypoints", "count"))
    count = int(found["count"][0, 0])
    boxes, scores, keypoints = (found[name][0, :count] for name in ("boxes", "scores", "keypoints"))
    kept = processing.select(boxes, (height, width), options.max_faces)
    most = limits.current().max_faces
    if 0 < most < len(kept):
        raise InvalidInput(
            f"There are {len(kept)} faces in the photo, this server takes {most}. Ask for the largest alone with "
            f"max_faces={most}, or raise min_score."
        )
    return photo, {"size": size, "boxes": boxes[kept], "scores": scores[kept], "keypoints": keypoints[kept]}


def letterboxes(photo: Pixels, min_score: float, det_size: int) -> dict[str, Array]:
    """The detector's inputs for one photo, without batch dimension; their meaning is in `scrfd.detector`."""
    pixels, scale = processing.letterbox(photo, det_size or DETECTOR_SIDE_PX)
    small, small_scale = (
        processing.letterbox(photo, DETECTOR_SMALL_SIDE_PX) if det_size == DET_SIZE_AUTO else (_NOTHING, 1.0)
    )
    return {
        "pixels": pixels,
        "scale": np.array([scale], np.float32),
        "pixels_small": small,
        "scale_small": np.array([small_scale], np.float32),
        "min_score": np.array([min_score], np.float32),
    }


async def _recognise(
    wanted: Collection[str], infer: Infer, parameters: Parameters, photo: Pixels, keypoints: Array
) -> dict[str, Array]:
    if not {"embeddings", "crops"} & set(wanted):
        return {}
    crops = _stacked([processing.align(photo, points)[0] for points in keypoints], 112)
    if "embeddings" not in wanted:
        return {"crops": crops}
    embeddings = await _ask(infer, parameters.networks["recognizer"], crops, "embeddings")
    if not len(crops):
        embeddings = np.zeros((0, int(parameters.facts["embedding_size"])), np.float32)
    return {"crops": crops, "embeddings": embeddings}


async def _landmarks_106(
    wanted: Collection[str], infer: Infer, parameters: Parameters, photo: Pixels, boxes: Array
) -> dict[str, Array]:
    if "landmarks_106" not in wanted:
        return {}
    return {"landmarks_106": await _landmarks(infer, parameters.networks["landmarks_106"], photo, boxes, (106, 2))}


async def _landmarks_68(
    wanted: Collection[str], infer: Infer, parameters: Parameters, photo: Pixels, boxes: Array
) -> dict[str, Array]:
    if not {"landmarks_68", "pose"} & set(wanted):
        return {}
    points = await _landmarks(infer, parameters.networks["landmarks_68"], photo, boxes, (68, 3))
    poses = [processing.pose(face) for face in points]
    return {"landmarks_68": points, "pose": np.array(poses, np.float32).reshape(-1, 3)}


async def _landmarks(
    infer: Infer, network: str, photo: Pixels, boxes: Array, shape: tuple[int, int]
) -> npt.NDArray[np.float32]:
    cut = [processing.crop_box(photo, box, 192) for box in boxes]
    raw = await _ask(infer, network, _stacked([crop for crop, _ in cut], 192), "landmarks")
    placed = [processing.place_landmarks(row, matrix) for row, (_, matrix) in zip(raw, cut, strict=True)]
    return np.array(placed, np.float32).reshape(-1, *shape)


async def _attributes(
    wanted: Collection[str], infer: Infer, parameters: Parameters, photo: Pixels, boxes: Array
) -> dict[str, Array]:
    if not {"gender", "age"} & set(wanted):
        return {}
    crops = _stacked([processing.crop_box(photo, box, 96)[0] for box in boxes], 96)
    raw = await _ask(infer, parameters.networks["attributes"], crops, "attributes")
    read = np.array([processing.gender_and_age(row) for row in raw], np.int32).reshape(-1, 2)
    return {"gender": read[:, 0], "age": read[:, 1]}


async def _ask(infer: Infer, network: str, crops: Pixels, output: str) -> Array:
    """One network on all crops, `MAX_BATCH_SIZE` at a time and all at once; none for none."""
    if not len(crops):
        return np.zeros((0, 0), np.float32)
    starts = range(0, len(crops), MAX_BATCH_SIZE)
    answers = await asyncio.gather(
        *(infer(network, {"faces": crops[start : start + MAX_BATCH_SIZE]}, (output,)) for start in starts)
    )
    return np.concatenate([answer[output] for answer in answers])


def _stacked(crops: list[Pixels], side_px: int) -> Pixels:
    return np.stack(crops) if crops else np.zeros((0, side_px, side_px, 3), np.uint8)
