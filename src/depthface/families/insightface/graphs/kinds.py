"""What an original file is, by InsightFace's own rules, and what InsightFace feeds it with.

File and line numbers are those of insightface 2.1.
"""

from __future__ import annotations

from typing import Literal

import onnx

from depthface.errors import ExportError
from depthface.families.insightface.facts import (
    ATTRIBUTE_COLUMNS,
    ATTRIBUTE_CROP_PX,
    DETECTOR_MEAN,
    DETECTOR_STD,
    LANDMARK_CROP_PX,
    LANDMARKS_68_COLUMNS,
    LANDMARKS_106_COLUMNS,
    RECOGNITION_CROP_PX,
    SWAP_CROP_PX,
)
from depthface.families.insightface.graphs import surgery
from depthface.tasks.faces import DET_SIZE_STRIDE_PX, MAX_DET_SIZE_PX

__all__ = ["Kind", "check_size", "fixed_side", "kind", "normalization"]

Kind = Literal["detector", "recognizer", "landmarks_106", "landmarks_68", "attributes", "swapper"]

MAX_RECOGNITION_CROP_PX = 512
"""The largest crop that a recogniser may ask for; published ones take 112."""


def kind(model: onnx.ModelProto) -> Kind:
    """Return what an original file is, by insightface's rule: count of outputs, then input size (model_zoo.py:127-159).

    Raises:
        ExportError: insightface knows no such file, or depthface does not serve it.
    """
    graph = model.graph
    fed = surgery.inputs(model)
    if len(graph.output) >= 5:
        return "detector"
    dims = surgery.dims(fed[0]) if fed else []
    sides = tuple(dims[2:4])
    columns = [*surgery.dims(graph.output[0]), 0, 0][1]
    if sides == (LANDMARK_CROP_PX,) * 2 and columns == LANDMARKS_68_COLUMNS:
        return "landmarks_68"
    if sides == (LANDMARK_CROP_PX,) * 2 and columns == LANDMARKS_106_COLUMNS:
        return "landmarks_106"
    if sides == (ATTRIBUTE_CROP_PX,) * 2 and columns == ATTRIBUTE_COLUMNS:
        return "attributes"
    if len(fed) == 2 and sides == (SWAP_CROP_PX,) * 2:
        return "swapper"
    side = sides[0] if len(sides) == 2 and sides[0] == sides[1] and sides[0] % 16 == 0 else 0
    is_alone = len(fed) == 1 and len(graph.output) == 1
    if is_alone and RECOGNITION_CROP_PX <= side <= MAX_RECOGNITION_CROP_PX and side != LANDMARK_CROP_PX:
        return "recognizer"
    raise ExportError(
        f"This is not an InsightFace network: it has {len(fed)} inputs, the first {dims}, and {len(graph.output)} "
        f"outputs, the first of {columns} columns.",
        "Use the ONNX files of an InsightFace pack as they were published.",
    )


def normalization(model: onnx.ModelProto) -> tuple[float, float]:
    """Return the mean and standard deviation that insightface feeds an original file with: `(pixels − mean) / std`.

    A file exported from MXNet normalises in its graph; insightface tells by the names of its first nodes
    (arcface_onnx.py:30-45, landmark.py:31-49, attribute.py:31-49). Simplifying or renaming a file changes the answer:
    read it off the published one.

    Raises:
        ExportError: as `kind`.
    """
    what = kind(model)
    if what == "detector":
        return DETECTOR_MEAN, DETECTOR_STD
    if what == "swapper":
        return 0.0, 255.0  # inswapper.py:20-21
    names = [node.name for node in model.graph.node[:8]]
    subtracts = any(name.startswith(("Sub", "_minus")) for name in names)
    multiplies = any(name.startswith(("Mul", "_mul")) for name in names)
    if what == "recognizer":
        return (0.0, 1.0) if subtracts and multiplies else (127.5, 127.5)
    return (0.0, 1.0) if (subtracts and multiplies) or "bn_data" in names[:3] else (127.5, 128.0)


def check_size(model: onnx.ModelProto) -> None:
    """Raise `ExportError` for a network that takes crops of another size than those that are served.

    Or that takes several at once alone: InsightFace gives it one at a time.
    """
    (batch, *_), side = surgery.dims(surgery.inputs(model)[0]), surgery.dims(surgery.inputs(model)[0])[-1]
    if batch > 1:
        raise ExportError(f"It takes batches of {batch} alone.", "Export it to ONNX for one, or for any number.")
    if kind(model) == "recognizer" and side != RECOGNITION_CROP_PX:
        raise ExportError(
            f"It takes faces of {side}×{side} pixels; those that are served are of {RECOGNITION_CROP_PX}.",
            f"Use a recogniser of {RECOGNITION_CROP_PX}×{RECOGNITION_CROP_PX}.",
        )


def fixed_side(model: onnx.ModelProto) -> int | None:
    """Return the side of the one square, in pixels, that a detector takes; None for one that takes any size.

    InsightFace gives such a detector each photo at that size, whatever `det_size` it is asked for (scrfd.py
    `static_input_size`).

    Raises:
        ExportError: its size is fixed, and not to a square that the strides divide; or half of it is fixed.
    """
    dims = surgery.dims(surgery.inputs(model)[0])
    height, width = dims[2:4] if len(dims) == 4 else (-1, -1)
    if height == width == 0:
        return None
    if height != width or height % DET_SIZE_STRIDE_PX or not 0 < height <= MAX_DET_SIZE_PX:
        raise ExportError(
            f"Its input is fixed to {' × '.join(str(dim or '?') for dim in dims)}, and only squares are served, with "
            f"sides that are multiples of {DET_SIZE_STRIDE_PX} up to {MAX_DET_SIZE_PX}.",
            "Export it to ONNX for any height and width, as the published files are, or for such a square.",
        )
    return height
