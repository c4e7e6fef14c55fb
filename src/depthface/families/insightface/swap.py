"""The server's pipeline for swapping: one photo's face onto every face of another."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from depthface import image
from depthface.contract import Parameters
from depthface.errors import InvalidInput, NoFaceFound
from depthface.families.insightface import processing

__all__ = ["swap"]

Array = npt.NDArray[Any]
Infer = Callable[[str, Mapping[str, Array], Collection[str]], Awaitable[dict[str, Array]]]

DEFAULT_PACK = "buffalo_l"
"""inswapper was trained on the embeddings of this pack's recogniser."""

CROP_PX = 128

BATCH = 8
"""Faces swapped at once."""


async def swap(
    wanted: Collection[str],
    infer: Infer,
    parameters: Parameters,
    source_bytes: bytes,
    target_bytes: bytes,
    pack: bytes | None = None,
) -> dict[str, bytes]:
    """Server pipeline: give every face of the target the looks of the largest face of the source.

    Args:
        infer: asks a model: its name, batched inputs, the outputs wanted.
        parameters: its `networks` hold `swapper`.
        pack: which `face_analysis_<pack>` finds the faces; it must give embeddings of 512.

    Returns:
        `image`: a PNG of the target's size.

    Raises:
        InvalidInput: one of the photos is no photo or shows no face, or the pack's embeddings do not fit.
    """
    name = (pack or DEFAULT_PACK.encode()).decode("utf-8", "replace")
    analysis = f"face_analysis_{name}"
    sources, targets = await asyncio.gather(
        infer(analysis, {"image": _bytes(source_bytes)}, ("boxes", "embeddings")),
        infer(analysis, {"image": _bytes(target_bytes)}, ("boxes", "keypoints")),
    )
    embeddings, keypoints = sources["embeddings"][0], targets["keypoints"][0]
    for which, found in (("source", embeddings), ("target", keypoints)):
        if not len(found):
            raise NoFaceFound(f"There is no face in the {which} photo.", "Send one that shows a face.")
    if embeddings.shape[1] != 512:
        raise InvalidInput(f"The pack {name} gives embeddings of {embeddings.shape[1]}, the swapper takes 512.")
    sides = sources["boxes"][0][:, 2:] - sources["boxes"][0][:, :2]
    embedding = embeddings[int(np.argmax(sides[:, 0] * sides[:, 1]))]

    photo = image.decode(target_bytes)
    aligned = [processing.align(photo, points, CROP_PX) for points in keypoints]
    for start in range(0, len(aligned), BATCH):
        some = aligned[start : start + BATCH]
        faces = np.stack([crop for crop, _ in some])
        fed = {"faces": faces, "embedding": np.repeat(embedding[None], len(faces), axis=0)}
        swapped = (await infer(parameters.networks["swapper"], fed, ("faces_out",)))["faces_out"]
        for face, (_, matrix) in zip(swapped, some, strict=True):
            photo = processing.paste_back(photo, face, matrix)
    return {"image": image.encode_png(photo)}


def _bytes(data: bytes) -> Array:
    return np.array([[data]], np.object_)
