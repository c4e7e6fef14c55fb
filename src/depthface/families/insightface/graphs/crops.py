"""The networks behind the detector: crops of faces in, answers out.

Each function takes an original file's model and returns a new one; the argument is left as it is. Pixels go in as
uint8 RGB, channels last, and the graph normalises: nothing else can get it wrong, and a quarter of the bytes travel.

File and line numbers are those of insightface 2.1.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper

from depthface.errors import ExportError
from depthface.families.insightface.graphs import surgery
from depthface.families.insightface.graphs.surgery import Part, assemble, network, normalise, stage, value

__all__ = ["attributes", "emap", "landmarks", "recognizer", "swapper"]

SMALLEST_NORM = 1e-12
"""Instead of dividing by zero: a vector of zeros stays one."""


def emap(model: onnx.ModelProto) -> npt.NDArray[np.float32]:
    """Return the matrix that turns a recogniser's embedding into the swapper's latent, `[512, 512] float32`.

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
    size = [0, *surgery.dims(fed[1])][-1]
    if list(last.dims) != [size, size] or any(last.name in node.input for node in graph.node):
        raise ExportError(
            f"The swapper's last initializer is {list(last.dims)}, not the {size}×{size} map of embeddings: the file "
            "was optimised or converted.",
            "Use inswapper_128.onnx as it was published.",
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

    K is 212 or 3309 (`facts`); `processing.place_landmarks` makes points of them. landmark.py:94-95.
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
    size = surgery.dims(source)[-1]
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
    height, width = surgery.dims(faces)[2:4]
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
            f"The network has {len(net.inputs)} inputs and {len(net.outputs)} outputs where one of each is expected.",
            "Use the ONNX files of an InsightFace pack as they were published.",
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
    _, channels, height, width = surgery.dims(surgery.inputs(model)[0])
    return value("faces", TensorProto.UINT8, "N", height, width, channels)


def _columns(model: onnx.ModelProto) -> int | str:
    """Columns of the only output: a number, as published files declare it, or a dimension that varies."""
    return [*surgery.dims(model.graph.output[0]), 0, 0][1] or "D"
