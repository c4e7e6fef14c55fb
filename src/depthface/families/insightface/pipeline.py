"""The server's pipelines for faces: the analysis, the detection, and the swap.

The detection is the analysis with the detector's outputs alone, whole and in its two steps; the swap puts one photo's
face onto the faces of another. They ask the networks only for what is wanted, and none behind the detector where there
is no face.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from depthface import image, limits
from depthface.asking import bytes_tensor
from depthface.contract import Parameters
from depthface.errors import InvalidInput, NoFaceFound
from depthface.families.insightface import processing
from depthface.families.insightface.facts import (
    ATTRIBUTE_CROP_PX,
    LANDMARK_CROP_PX,
    MAX_BATCH_SIZE,
    PACK_NAME,
    PACK_NAME_RULE,
    RECOGNITION_CROP_PX,
    SWAP_CROP_PX,
    SWAP_EMBEDDING_COLUMNS,
)
from depthface.spec import AskNetwork
from depthface.tasks import swap as swaps
from depthface.tasks.faces import DET_SIZE_AUTO, DETECTOR_SIDE, EMBEDDING_SIZE, Options

__all__ = ["analyse", "finish_detection", "prepare_detection", "swap"]

Array = npt.NDArray[Any]
Pixels = npt.NDArray[np.uint8]

DEFAULT_PACK = "buffalo_l"
"""inswapper was trained on the embeddings of this pack's recogniser."""

SWAP_BATCH = 8
"""Faces swapped at once."""

_FOUND = ("boxes", "scores", "keypoints", "count")
"""What the detector gives."""


async def analyse(
    wanted: Collection[str],
    infer: AskNetwork,
    parameters: Parameters,
    image_bytes: bytes,
    *options: Array | None,
) -> dict[str, Array]:
    """Server pipeline: all that a pack can say of the faces in a photo, as far as it is wanted.

    Args:
        infer: asks a model: its name, batched inputs, the outputs wanted.
        parameters: the pack's networks by kind; to detect, `detector` will do. Its facts are those of `card.py`.
        options: the inputs `min_score`, `max_faces` and `det_size`, `(1,)` each; None where one was left out. See
            `tasks.faces.Options`.

    Returns:
        The public outputs in `wanted`, and what came with them; `size` is `(2,) int32`, the upright photo's height and
        width.

    Raises:
        InvalidInput: not a photo, over a limit, an option out of range, or more faces than this server analyses.
    """
    photo, out = await _find(wanted, infer, parameters, image_bytes, Options.of_tensors(*options))
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
    wanted: Collection[str], infer: AskNetwork, parameters: Parameters, image_bytes: bytes, options: Options
) -> tuple[Pixels, dict[str, Array]]:
    """Return the decoded photo; its `size`, and the faces in it unless the size alone is wanted."""
    photo = _decoded(parameters, image_bytes, options)
    size = np.array(photo.shape[:2], np.int32)
    if set(wanted) <= {"size"}:
        return photo, {"size": size}
    fed = {name: value[None] for name, value in _boxed(parameters, photo, options).items()}
    found = await infer(parameters.networks["detector"], fed, _FOUND)
    chosen = _chosen([found[name][0] for name in _FOUND], size, options.max_faces)
    return photo, {"size": size, **chosen}


async def prepare_detection(
    wanted: Collection[str],
    infer: AskNetwork,
    parameters: Parameters,
    image_bytes: bytes,
    *options: Array | None,
) -> dict[str, Array]:
    """Step before the detector; the options are those of `analyse`.

    Returns:
        What the detector takes; `size`, and the same once more as `photo_size`: in an ensemble an output may not be
        what another step takes; and the option `max_faces`, `(1,) int32`.
    """
    asked = Options.of_tensors(*options)
    photo = _decoded(parameters, image_bytes, asked)
    size = np.array(photo.shape[:2], np.int32)
    most = np.array([asked.max_faces], np.int32)
    return {**_boxed(parameters, photo, asked), "size": size, "photo_size": size, "max_faces": most}


async def finish_detection(
    wanted: Collection[str], infer: AskNetwork, parameters: Parameters, *found: Array
) -> dict[str, Array]:
    """Step after the detector: the faces that are asked for.

    Args:
        found: the detector's `boxes`, `scores`, `keypoints` and `count`; `photo_size` and `max_faces`.
    """
    *detected, size, most = found
    return _chosen(detected, size, int(most[0]))


def _decoded(parameters: Parameters, image_bytes: bytes, options: Options) -> Pixels:
    _fixed_side_px(parameters, options.det_size)
    return image.decode(image_bytes)


def _boxed(parameters: Parameters, photo: Pixels, options: Options) -> dict[str, Array]:
    side_px = _fixed_side_px(parameters, options.det_size)
    return processing.letterboxes(photo, options.min_score, options.det_size, side_px)


def _chosen(detected: Sequence[Array], size: Array, max_faces: int) -> dict[str, Array]:
    """Return `boxes`, `scores` and `keypoints` of the faces that are asked for.

    Args:
        detected: what `_FOUND` names, of one photo.
        size: `(2,) int32`.
    """
    *faces, count = detected
    boxes, scores, keypoints = (rows[: int(count[0])] for rows in faces)
    kept = processing.select(boxes, (int(size[0]), int(size[1])), max_faces)
    most = limits.current().max_faces
    if len(kept) > most:
        raise InvalidInput(
            f"There are {len(kept)} faces in the photo, this server takes {most}.",
            f"Ask for the largest alone with max_faces={most}, or raise min_score.",
        )
    return {"boxes": boxes[kept], "scores": scores[kept], "keypoints": keypoints[kept]}


def _fixed_side_px(parameters: Parameters, det_size: int) -> int | None:
    """Return the side of the one square that the pack's detector takes, if there is but one; `det_size` must be it."""
    said = parameters.facts.get(DETECTOR_SIDE)
    if said is not None and det_size not in (DET_SIZE_AUTO, int(said)):
        raise InvalidInput(
            f"det_size is {det_size}; this pack's detector takes photos at {said} alone.",
            f"Give {said}, or leave it out.",
        )
    return None if said is None else int(said)


async def _recognise(
    wanted: Collection[str], infer: AskNetwork, parameters: Parameters, photo: Pixels, keypoints: Array
) -> dict[str, Array]:
    if not {"embeddings", "crops"} & set(wanted):
        return {}
    crops = _stacked([processing.align(photo, points)[0] for points in keypoints], RECOGNITION_CROP_PX)
    if "embeddings" not in wanted:
        return {"crops": crops}
    embeddings = await _ask(infer, parameters.networks["recognizer"], crops, "embeddings")
    if not len(crops):
        embeddings = np.zeros((0, int(parameters.facts[EMBEDDING_SIZE])), np.float32)
    return {"crops": crops, "embeddings": embeddings}


async def _landmarks_106(
    wanted: Collection[str], infer: AskNetwork, parameters: Parameters, photo: Pixels, boxes: Array
) -> dict[str, Array]:
    if "landmarks_106" not in wanted:
        return {}
    return {"landmarks_106": await _landmarks(infer, parameters.networks["landmarks_106"], photo, boxes, (106, 2))}


async def _landmarks_68(
    wanted: Collection[str], infer: AskNetwork, parameters: Parameters, photo: Pixels, boxes: Array
) -> dict[str, Array]:
    if not {"landmarks_68", "pose"} & set(wanted):
        return {}
    points = await _landmarks(infer, parameters.networks["landmarks_68"], photo, boxes, (68, 3))
    poses = [processing.pose(face) for face in points]
    return {"landmarks_68": points, "pose": np.array(poses, np.float32).reshape(-1, 3)}


async def _landmarks(
    infer: AskNetwork, network: str, photo: Pixels, boxes: Array, shape: tuple[int, int]
) -> npt.NDArray[np.float32]:
    cut = [processing.crop_box(photo, box, LANDMARK_CROP_PX) for box in boxes]
    raw = await _ask(infer, network, _stacked([crop for crop, _ in cut], LANDMARK_CROP_PX), "landmarks")
    placed = [processing.place_landmarks(row, matrix) for row, (_, matrix) in zip(raw, cut, strict=True)]
    return np.array(placed, np.float32).reshape(-1, *shape)


async def _attributes(
    wanted: Collection[str], infer: AskNetwork, parameters: Parameters, photo: Pixels, boxes: Array
) -> dict[str, Array]:
    if not {"gender", "age"} & set(wanted):
        return {}
    crops = _stacked([processing.crop_box(photo, box, ATTRIBUTE_CROP_PX)[0] for box in boxes], ATTRIBUTE_CROP_PX)
    raw = await _ask(infer, parameters.networks["attributes"], crops, "attributes")
    read = np.array([processing.gender_and_age(row) for row in raw], np.int32).reshape(-1, 2)
    return {"gender": read[:, 0], "age": read[:, 1]}


async def _ask(infer: AskNetwork, network: str, crops: Pixels, output: str) -> Array:
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


async def swap(
    wanted: Collection[str],
    infer: AskNetwork,
    parameters: Parameters,
    source_bytes: bytes,
    target_bytes: bytes,
    pack: bytes | None = None,
    *options: Any,
) -> dict[str, bytes]:
    """Server pipeline: give faces of the target the looks of a face of the source.

    Args:
        infer: asks a model: its name, batched inputs, the outputs wanted.
        parameters: its `networks` hold `swapper`.
        pack: which `face_analysis_<pack>` finds the faces; it must give embeddings of 512.
        options: the inputs `source_face`, `target_faces` and `det_size`; None where one was left out. See
            `tasks.swap.Options`.

    Returns:
        `image`: a PNG of the target's size.

    Raises:
        InvalidInput: one of the photos is no photo or shows no face, no pack can be called so, its embeddings do not
            fit, or an option is none.
    """
    asked = swaps.Options.of_tensors(*options)
    name = (pack or DEFAULT_PACK.encode()).decode("utf-8", "replace")
    if not PACK_NAME.fullmatch(name):
        raise InvalidInput(
            f"No pack can be called {name!r:.60}.",
            f"Name one in {PACK_NAME_RULE}.",
        )
    analysis = f"face_analysis_{name}"
    size = {"det_size": np.array([[asked.det_size]], np.int32)}
    sources, targets = await asyncio.gather(
        infer(analysis, {"image": bytes_tensor(source_bytes), **size}, ("boxes", "embeddings")),
        infer(analysis, {"image": bytes_tensor(target_bytes), **size}, ("boxes", "keypoints")),
    )
    embeddings, keypoints = sources["embeddings"][0], targets["keypoints"][0]
    for which, found in (("source", embeddings), ("target", keypoints)):
        if not len(found):
            raise NoFaceFound(f"There is no face in the {which} photo.", "Send one that shows a face.")
    if embeddings.shape[1] != SWAP_EMBEDDING_COLUMNS:
        raise InvalidInput(
            f"The pack {name} gives embeddings of {embeddings.shape[1]}, the swapper takes {SWAP_EMBEDDING_COLUMNS}.",
            "Name a pack whose embeddings are as long.",
        )
    embedding = embeddings[_which(asked.source_face, sources["boxes"][0])][0]
    keypoints = keypoints[_which(asked.target_faces, targets["boxes"][0])]

    photo = image.decode(target_bytes)
    aligned = [processing.align(photo, points, SWAP_CROP_PX) for points in keypoints]
    for start in range(0, len(aligned), SWAP_BATCH):
        some = aligned[start : start + SWAP_BATCH]
        faces = np.stack([crop for crop, _ in some])
        fed = {"faces": faces, "embedding": np.repeat(embedding[None], len(faces), axis=0)}
        swapped = (await infer(parameters.networks["swapper"], fed, ("faces_out",)))["faces_out"]
        for face, (_, matrix) in zip(swapped, some, strict=True):
            photo = processing.paste_back(photo, face, matrix)
    return {"image": image.encode_png(photo)}


def _which(wanted: str, boxes: Array) -> slice:
    """Return where the faces stand that are `all`, the `surest` (the first), or the `largest`."""
    if wanted == "all":
        return slice(None)
    sides = boxes[:, 2:] - boxes[:, :2]
    first = 0 if wanted == "surest" else int(np.argmax(sides[:, 0] * sides[:, 1]))
    return slice(first, first + 1)
