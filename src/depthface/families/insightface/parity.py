"""Faces compared in the units of faces: each served graph against InsightFace's own model of the file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from depthface.families.insightface import processing
from depthface.families.insightface.facts import (
    DETECTOR_SIDE_PX,
    DETECTOR_SMALL_SIDE_PX,
    LANDMARK_CROP_PX,
    SWAP_CROP_PX,
    SWAP_EMBEDDING_COLUMNS,
)
from depthface.spec import Samples, Source
from depthface.tasks.faces import DEFAULT_MIN_SCORE, DET_SIZE_AUTO

__all__ = ["measurements"]

Pixels = npt.NDArray[np.uint8]
Arrays = dict[str, npt.NDArray[Any]]
Run = Callable[[Arrays], Arrays]

BATCH = 4

_LEAST_SCORE = 1e-6
"""So low that whatever is looked at is a face."""

LENGTH_OFF = 1e-2
"""How far the length of an embedding may be from 1. In bf16, whose numbers near 1 are 1/128 apart, it is by 1/256."""


def measurements(source: Source, run: Run, samples: Samples) -> Iterator[tuple[str, dict[str, float]]]:
    """Compare an export with InsightFace's model on photographs.

    Args:
        run: the exported network, inputs by name to outputs by name.
        samples: whose photos it is.

    Yields:
        The name of each case and its metrics: of a detector `faces_differ` (count), `box_error_px`,
        `keypoint_error_px`, `score_error`; of a recogniser `cosine_loss` (1 − cosine of the two embeddings of a crop);
        of landmarks `landmark_error_px` in the 192 px crop; of attributes `attribute_error`, of its three numbers; of
        a swapper `swap_error_levels`, of 255. Of a detector of any size also how many faces there are in what stands
        for the small pass where one size is asked for.

        All are infinite where a value is not finite, in either; where no face was found, by either, in any photo; and
        where an embedding is not of unit length.
    """
    photos = list(samples.photos)
    if not hasattr(source.reference, "taskname"):
        yield from _swap(source.reference, run, photos)
    elif source.reference.taskname == "detection":
        yield from _detection(source.reference, run, photos)
    else:
        yield from _crops(source.reference, run, photos)


def _detection(reference: Any, run: Run, pictures: list[Pixels]) -> Iterator[tuple[str, dict[str, float]]]:
    small, large = (DETECTOR_SMALL_SIDE_PX,) * 2, (DETECTOR_SIDE_PX,) * 2
    ways: list[tuple[str, int, object]] = [("auto", DET_SIZE_AUTO, [small, large])]
    fixed_side_px = reference.static_input_size[0] if reference.static_input_size else None
    if fixed_side_px is None:
        ways.append((str(DETECTOR_SIDE_PX), DETECTOR_SIDE_PX, large))
    for name, det_size, sizes in ways:
        fed = [processing.letterboxes(picture, DEFAULT_MIN_SCORE, det_size, fixed_side_px) for picture in pictures]
        batch = run({key: np.stack([one[key] for one in fed]) for key in fed[0]})
        worst = dict.fromkeys(("faces_differ", "box_error_px", "keypoint_error_px", "score_error"), 0.0)
        found = 0
        for index, picture in enumerate(pictures):
            boxes, keypoints = reference.detect(picture[:, :, ::-1], input_size=sizes, det_thresh=DEFAULT_MIN_SCORE)
            count = int(batch["count"][index, 0])
            found += count + len(boxes)
            worst["faces_differ"] = max(worst["faces_differ"], abs(count - len(boxes)))
            if count == len(boxes) > 0:
                errors = {
                    "box_error_px": batch["boxes"][index, :count] - boxes[:, :4],
                    "score_error": batch["scores"][index, :count] - boxes[:, 4],
                    "keypoint_error_px": batch["keypoints"][index, :count] - keypoints,
                }
                for metric, error in errors.items():
                    # Not max(): of a number and NaN it gives the number.
                    worst[metric] = float(np.maximum(worst[metric], _largest(error)))
        if not found:  # that both are blind says nothing of faces
            worst = dict.fromkeys(worst, float("inf"))
        yield f"{name if fixed_side_px is None else fixed_side_px}, batch of {len(pictures)}", worst
    if fixed_side_px is None:
        one_size = processing.letterboxes(pictures[0], _LEAST_SCORE, DETECTOR_SIDE_PX)
        without_photo = one_size | {"scale": np.full_like(one_size["scale"], processing.NO_SCALE)}
        found = int(run({name: value[None] for name, value in without_photo.items()})["count"][0, 0])
        yield "no photo", {"faces_differ": float(found)}


def _crops(reference: Any, run: Run, pictures: list[Pixels]) -> Iterator[tuple[str, dict[str, float]]]:
    import cv2

    side = reference.input_size[0]
    crops = np.stack([cv2.resize(picture, (side, side)) for picture in pictures])
    for batch in (1, BATCH):
        (got,) = run({"faces": crops[:batch]}).values()
        expected = np.concatenate([_raw(reference, crop) for crop in crops[:batch]])
        yield f"{batch}×{side}×{side}", _distance(reference.taskname, expected, got)


def _swap(reference: Any, run: Run, pictures: list[Pixels]) -> Iterator[tuple[str, dict[str, float]]]:
    """Any crop will do, and any unit vector; the reference is INSwapper.get without paste-back (inswapper.py:50-60)."""
    import cv2

    crops = np.stack([cv2.resize(picture, (SWAP_CROP_PX, SWAP_CROP_PX)) for picture in pictures[:BATCH]])
    latent = np.random.default_rng(0).normal(size=(len(crops), SWAP_EMBEDDING_COLUMNS)).astype(np.float32)
    latent /= np.linalg.norm(latent, axis=1, keepdims=True)
    got = run({"faces": crops, "embedding": latent})["faces_out"].astype(int)
    worst = 0.0
    for crop, source, swapped in zip(crops, latent, got, strict=True):
        mapped = source[None] @ reference.emap
        mapped /= np.linalg.norm(mapped)
        blob = cv2.dnn.blobFromImage(crop[:, :, ::-1], 1 / 255, (SWAP_CROP_PX, SWAP_CROP_PX), (0, 0, 0), swapRB=True)
        names = reference.input_names
        (picture,) = reference.session.run(reference.output_names, {names[0]: blob, names[1]: mapped})
        worst = max(worst, _levels(picture[0].transpose(1, 2, 0), swapped))
    yield f"{len(crops)}×{SWAP_CROP_PX}×{SWAP_CROP_PX}", {"swap_error_levels": worst}


def _levels(expected: npt.NDArray[np.float32], got: npt.NDArray[np.int_]) -> float:
    """Return the largest difference in levels; InsightFace makes them of `expected`, 0…1 (inswapper.py:57-60)."""
    if not np.isfinite(expected).all():
        return float("inf")
    return float(np.abs(got - np.clip(255 * expected, 0, 255).astype(np.uint8)).max())


def _raw(reference: Any, crop: Pixels) -> npt.NDArray[np.float32]:
    """InsightFace's blob of a crop through its session (arcface_onnx.py:92, landmark.py:94, attribute.py:85)."""
    import cv2

    mean = (reference.input_mean,) * 3
    blob = cv2.dnn.blobFromImage(crop[:, :, ::-1], 1.0 / reference.input_std, crop.shape[:2], mean, swapRB=True)
    output: npt.NDArray[np.float32] = reference.session.run(reference.output_names, {reference.input_name: blob})[0]
    return output.reshape(1, -1)


def _distance(task: str, expected: npt.NDArray[np.float32], got: npt.NDArray[np.float32]) -> dict[str, float]:
    if task == "recognition":
        lengths = np.linalg.norm(got, axis=1)
        if not (np.isfinite(expected).all() and np.allclose(lengths, 1, atol=LENGTH_OFF)):
            return {"cosine_loss": float("inf")}
        products = (expected * got).sum(axis=1)
        return {"cosine_loss": float(1 - (products / (np.linalg.norm(expected, axis=1) * lengths)).min())}
    error = _largest(got - expected)
    if task.startswith("landmark"):
        return {"landmark_error_px": error * (LANDMARK_CROP_PX // 2)}
    return {"attribute_error": error}


def _largest(error: npt.NDArray[np.float32]) -> float:
    """Return the largest magnitude; infinite if a value is not finite."""
    return float(np.abs(error).max()) if np.isfinite(error).all() else float("inf")
