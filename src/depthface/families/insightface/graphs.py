"""From published InsightFace networks to the graphs that are served.

Each function takes an original file's model and returns a new one; the argument is left as it is. Pixels go in as
uint8 RGB, channels last, and the graph normalises: nothing else can get it wrong, and a quarter of the bytes travel.

File and line numbers are those of insightface 2.1.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper

from depthface.errors import ExportError
from depthface.families.insightface import surgery
from depthface.families.insightface.scrfd import detector
from depthface.families.insightface.surgery import Part, assemble, network, normalise, stage, value

__all__ = [
    "Kind",
    "attributes",
    "detector",
    "emap",
    "kind",
    "landmarks",
    "normalization",
    "recognizer",
    "swapper",
]

Kind = Literal["detector", "recognizer", "landmarks_106", "landmarks_68", "attributes", "swapper"]

LANDMARKS_106 = 212
"""Columns of 2d106det's output: x and y of 106 points."""

LANDMARKS_68 = 3309
"""Columns of 1k3d68's output: x, y and z of 1103 points, of which the last 68 are used (landmark.py:65, 100)."""

ATTRIBUTES = 3
"""Columns of genderage's output: female, male, age in centuries (attribute.py:65, 86)."""

MAX_SIDE_PX = 512
"""The largest crop that a recogniser may ask for; published ones take 112."""

SMALLEST_NORM = 1e-12
"""Instead of dividing by zero: a vector of zeros stays one."""


def kind(model: onnx.ModelProto) -> Kind:
    """What an original file is, by insightface's own rule: count of outputs, then input size (model_zoo.py:127-159).

    Raises:
        ExportError: insightface knows no such file, or depthface does not serve it.
    """
    graph = model.graph
    fed = surgery.inputs(model)
    if len(graph.output) >= 5:
        return "detector"
    dims = _dims(fed[0]) if fed else []
    sides = tuple(dims[2:4])
    columns = [*_dims(graph.output[0]), 0, 0][1]
    if sides == (192, 192) and columns == LANDMARKS_68:
        return "landmarks_68"
    if sides == (192, 192) and columns == LANDMARKS_106:
        return "landmarks_106"
    if sides == (96, 96) and columns == ATTRIBUTES:
        return "attributes"
    if len(fed) == 2 and sides == (128, 128):
        return "swapper"
    square = len(sides) == 2 and sides[0] == sides[1] and 112 <= sides[0] <= MAX_SIDE_PX and sides[0] % 16 == 0
    if square and sides != (192, 192) and len(fed) == 1 and len(graph.output) == 1:
        return "recognizer"
    raise ExportError(
        f"This is not an InsightFace network: it has {len(fed)} inputs, the first {dims}, and {len(graph.output)} "
        f"outputs, the first of {columns} columns. Use the ONNX files of an InsightFace pack as they were published."
    )


def normalization(model: onnx.ModelProto) -> tuple[float, float]:
    """The mean and standard deviation that insightface feeds an original file with: `(pixels − mean) / std`.

    A file exported from MXNet normalises in its graph; insightface tells by the names of its first nodes
    (arcface_onnx.py:30-45, landmark.py:31-49, attribute.py:31-49). Simplifying or renaming a file changes the answer:
    read it off the published one.

    Raises:
        ExportError: as `kind`.
    """
    what = kind(model)
    if what == "detector":
        return 127.5, 128.0  # scrfd.py:600-601
    if what == "swapper":
        return 0.0, 255.0  # inswapper.py:20-21
    names = [node.name for node in model.graph.node[:8]]
    subtracts = any(name.startswith(("Sub", "_minus")) for name in names)
    multiplies = any(name.startswith(("Mul", "_mul")) for name in names)
    if what == "recognizer":
        return (0.0, 1.0) if subtracts and multiplies else (127.5, 127.5)
    return (0.0, 1.0) if (subtracts and multiplies) or "bn_data" in names[:3] else (127.5, 128.0)


def emap(model: onnx.ModelProto) -> npt.NDArray[np.float32]:
    """The matrix that turns a recogniser's embedding into the swapper's latent, `[512, 512] float32`.

    It is the last initializer of the original file and no node uses it (inswapper.py:19): whatever optimises the file
    drops it, and then insightface takes another tensor for it.

    Raises:
        ExportError: the last initializer cannot be that matrix.
    """
    graph = model.graph
    fed = surgery.inputs(model)
    if len(fed) != 2 or not graph.initializer:
        raise ExportError(f"This is not the swapper: it has {len(fed)} inputs, not a face and an embedding.")
    last = graph.initializer[-1]
    size = [0, *_dims(fed[1])][-1]
    if list(last.dims) != [size, size] or any(last.name in node.input for node in graph.node):
        raise ExportError(
            f"The swapper's last initializer is {list(last.dims)}, not the {size}×{size} map of embeddings: the file "
            "was optimised or converted. Use inswapper_128.onnx as it was published."
        )
    return np.asarray(numpy_helper.to_array(last), np.float32)


def recognizer(model: onnx.ModelProto, *, mean: float, std: float) -> onnx.ModelProto:
    """ArcFace: `faces` `[N, S, S, 3] uint8 RGB`, aligned, to `embeddings` `[N, D] float32` of unit length.

    S is the file's (112). arcface_onnx.py:79-90; `normed_embedding` of app/common.py:39.
    """
    net = _single(model)
    width = _columns(model)
    parts = (
        normalise("faces", net.inputs[0], mean, std),
        net,
        _rows("embedding", net.outputs[0]),
        _unit("embedding", "embeddings"),
    )
    return assemble("recognizer", parts, [_faces(model)], [value("embeddings", TensorProto.FLOAT, "N", width)])


def landmarks(model: onnx.ModelProto, *, mean: float, std: float) -> onnx.ModelProto:
    """2d106det or 1k3d68: `faces` `[N, 192, 192, 3] uint8 RGB` to `landmarks` `[N, K] float32`, the network's own.

    K is 212 or 3309; `processing.place_landmarks` makes points of them. landmark.py:94-95.
    """
    return _raw(model, "landmarks", mean, std)


def attributes(model: onnx.ModelProto, *, mean: float, std: float) -> onnx.ModelProto:
    """Genderage: `faces` `[N, 96, 96, 3] uint8 RGB` to `attributes` `[N, 3] float32`, the network's own.

    `processing.gender_and_age` reads them. attribute.py:85-86.
    """
    return _raw(model, "attributes", mean, std)


def swapper(model: onnx.ModelProto) -> onnx.ModelProto:
    """Inswapper: a face and another's embedding to that face with the other's looks (inswapper.py:50-60).

    Inputs:
        `faces` `[N, 128, 128, 3] uint8 RGB`, aligned at 128.
        `embedding` `[N, 512] float32` of unit length, as `recognizer` gives it.

    Output:
        `faces_out` `[N, 128, 128, 3] uint8 RGB`, fractions cut off as insightface does.
    """
    matrix = numpy_helper.from_array(emap(model), "emap")
    net = network(model)
    faces, source = surgery.inputs(model)
    size = _dims(source)[-1]
    parts = (
        normalise("faces", net.inputs[0], 0.0, 255.0),
        Part(stage("mapped = MatMul (embedding, emap)").nodes, (matrix,)),
        _unit("mapped", net.inputs[1]),
        net,
        stage(
            f"""
            white = Constant <value = float {{255}}> ()
            black = Constant <value = float {{0}}> ()
            grey = Mul ("{net.outputs[0]}", white)
            in_range = Clip (grey, black, white)
            whole = Floor (in_range)
            pixels = Transpose <perm = [0, 2, 3, 1]> (whole)
            faces_out = Cast <to = 2> (pixels)
            """
        ),
    )
    height, width = _dims(faces)[2:4]
    return assemble(
        "swapper",
        parts,
        [_faces(model), value("embedding", TensorProto.FLOAT, "N", size)],
        [value("faces_out", TensorProto.UINT8, "N", height, width, 3)],
    )


def _raw(model: onnx.ModelProto, output: str, mean: float, std: float) -> onnx.ModelProto:
    net = _single(model)
    parts = (normalise("faces", net.inputs[0], mean, std), net, _rows(output, net.outputs[0]))
    return assemble(output, parts, [_faces(model)], [value(output, TensorProto.FLOAT, "N", _columns(model))])


def _single(model: onnx.ModelProto) -> Part:
    net = network(model)
    if len(net.inputs) != 1 or len(net.outputs) != 1:
        raise ExportError(
            f"The network has {len(net.inputs)} inputs and {len(net.outputs)} outputs where one of each is expected. "
            "Use the ONNX files of an InsightFace pack as they were published."
        )
    return net


def _rows(name: str, output: str) -> Part:
    return stage(f'"{name}" = Identity ("{output}")')


def _unit(name: str, result: str) -> Part:
    """Rows of `name` divided by their Euclidean length."""
    return stage(
        f"""
        "{name}/length" = ReduceL2 <axes = [1], keepdims = 1> ("{name}")
        "{name}/smallest" = Constant <value = float {{{SMALLEST_NORM}}}> ()
        "{name}/divisor" = Max ("{name}/length", "{name}/smallest")
        "{result}" = Div ("{name}", "{name}/divisor")
        """
    )


def _faces(model: onnx.ModelProto) -> onnx.ValueInfoProto:
    _, channels, height, width = _dims(surgery.inputs(model)[0])
    return value("faces", TensorProto.UINT8, "N", height, width, channels)


def _columns(model: onnx.ModelProto) -> int | str:
    """Columns of the only output: a number, as published files declare it, or a dimension that varies."""
    return [*_dims(model.graph.output[0]), 0, 0][1] or "D"


def _dims(info: onnx.ValueInfoProto) -> list[int]:
    """Declared dimensions, 0 for one that varies."""
    return [int(dim.dim_value) for dim in info.type.tensor_type.shape.dim]
