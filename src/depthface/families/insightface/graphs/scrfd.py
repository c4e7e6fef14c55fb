"""SCRFD, the face detector: from the published network to photos in, faces out.

Line numbers are those of insightface 2.1, model_zoo/scrfd.py.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from depthface.errors import ExportError
from depthface.families.insightface.facts import DETECTOR_MEAN, DETECTOR_STD, DETECTOR_STRIDES_PX
from depthface.families.insightface.graphs.surgery import (
    Part,
    again,
    assemble,
    constant,
    dims,
    inputs,
    network,
    normalise,
    stage,
    value,
)
from depthface.limits import MAX_FACES

__all__ = ["IOU_THRESHOLD", "detector"]

IOU_THRESHOLD = 0.4
"""Of two boxes that overlap by more, the one with the lower score goes (scrfd.py:548 `nms_thresh`)."""

POINTS = 5
"""Keypoints of a face: its left eye, right eye, nose, left and right corner of the mouth, as seen by the viewer."""


def detector(
    model: onnx.ModelProto,
    *,
    mean: float = DETECTOR_MEAN,
    std: float = DETECTOR_STD,
    max_faces: int = MAX_FACES,
    two_sizes: bool = False,
) -> onnx.ModelProto:
    """Return the graph that is served for a published SCRFD file of 3 strides and 2 anchors, with or without keypoints.

    Inputs:
        `pixels` `[N, H, W, 3] uint8 RGB`, H and W multiples of 32, or what the file is fixed to: the photo scaled to
        fit, top left, the rest zero.
        `scale` `[N, 1] float32`: pixels of `pixels` to one of the photo, `det_scale` of scrfd.py:819.
        `min_score` `[N, 1] float32`: faces of at least this score are kept.
        With `two_sizes` also `pixels_small` `[N, h, w, 3]` and `scale_small` `[N, 1]`: the same photo at a second
        size. The candidates of both pass one suppression, as `prepare(det_size=None)` has it with 128 and 640
        (scrfd.py:751-781); 640 alone misses faces that fill most of the photo. A pass of a negative scale finds
        nothing, whatever its pixels are.

    Outputs, faces by descending score, in pixels of the photo; rows from `count` on are zero:
        `boxes` `[N, max_faces, 4] float32` x1 y1 x2 y2, not clipped to the photo; `scores` `[N, max_faces] float32`;
        `keypoints` `[N, max_faces, 5, 2] float32`, if the file has them; `count` `[N, 1] int32`.

    Args:
        mean, std: what insightface feeds is `(pixels − mean) / std` (scrfd.py:600, 658).
        max_faces: nothing else limits how many candidates there may be.

    Raises:
        ExportError: the file is not such an SCRFD.
    """
    _, _, height, width = dims(inputs(model)[0])
    net = network(_let_batch(model))
    with_keypoints = len(net.outputs) == 9
    passes = [("small", again(net, "small/"))] if two_sizes else []
    passes.append(("large", net))
    parts: list[Part] = []
    for name, part in passes:
        suffix = "_small" if name == "small" else ""
        parts += [
            normalise(f"pixels{suffix}", part.inputs[0], mean, std),
            part,
            _decode(name, f"pixels{suffix}", f"scale{suffix}", part.outputs),
        ]
    parts.append(_union([name for name, _ in passes], with_keypoints))
    parts.append(_suppress(max_faces, with_keypoints))

    graph_inputs = [
        value("pixels", TensorProto.UINT8, "N", height or "H", width or "W", 3),
        value("scale", TensorProto.FLOAT, "N", 1),
        value("min_score", TensorProto.FLOAT, "N", 1),
    ]
    if two_sizes:
        graph_inputs += [
            value("pixels_small", TensorProto.UINT8, "N", "H_small", "W_small", 3),
            value("scale_small", TensorProto.FLOAT, "N", 1),
        ]
    graph_outputs = [
        value("boxes", TensorProto.FLOAT, "N", max_faces, 4),
        value("scores", TensorProto.FLOAT, "N", max_faces),
        value("count", TensorProto.INT32, "N", 1),
    ]
    if with_keypoints:
        graph_outputs.insert(2, value("keypoints", TensorProto.FLOAT, "N", max_faces, POINTS, 2))
    return assemble("detector", parts, graph_inputs, graph_outputs)


def _let_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose heads give `[N, anchors, C]` and whose two upsamplings are by a constant factor.

    Published heads are `Transpose(2, 3, 0, 1) → Reshape[−1, C]`, which mixes the photos of a batch; published
    upsamplings take their size from the map they are added to, through Shape, Gather, Slice and Concat, or, where
    the input is fixed, hold it as a constant, batch of one included.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    if len(inputs(copy)) != 1 or len(graph.output) not in (6, 9):
        raise ExportError(
            f"This is not an SCRFD with 3 strides and 2 anchors: it has {len(graph.output)} outputs, not 9 (or 6 "
            "without keypoints).",
            "Export a detector of the buffalo or antelope packs.",
        )
    producers = {name: node for node in graph.node for name in node.output}
    for index, output in enumerate(graph.output):
        channels = (1, 4, 2 * POINTS)[index // len(DETECTOR_STRIDES_PX)]
        _let_head_batch(graph, producers, output.name, channels)
        del output.type.tensor_type.shape.dim[:]
    for node in graph.node:
        if node.op_type == "Resize" and len(node.input) == 4 and node.input[3]:
            # H and W are multiples of 32, so each map is exactly twice the one below.
            scales = f"{node.output[0]}/scales"
            graph.initializer.append(numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), scales))
            roi = f"{node.output[0]}/roi"  # opset 11 wants one, though only tf_crop_and_resize reads it
            graph.initializer.append(numpy_helper.from_array(np.zeros(0, np.float32), roi))
            node_input = [node.input[0], roi, scales]
            del node.input[:]
            node.input.extend(node_input)
    return copy


def _let_head_batch(graph: onnx.GraphProto, producers: dict[str, onnx.NodeProto], output: str, channels: int) -> None:
    chain: dict[str, onnx.NodeProto] = {}
    name = output
    while name in producers and producers[name].op_type in ("Sigmoid", "Reshape", "Transpose"):
        node = producers[name]
        chain[node.op_type] = node
        name = node.input[0]
    shape = constant(graph, chain["Reshape"].input[1]) if "Reshape" in chain else None
    if shape is None or "Transpose" not in chain or int(shape[-1]) != channels:
        raise ExportError(
            f"Output {output!r} of the detector does not end in Transpose and Reshape to {channels} columns, as "
            "InsightFace's SCRFD files do.",
            "Export the file as published, not simplified or converted.",
        )
    permutation = chain["Transpose"].attribute[0]
    del permutation.ints[:]
    permutation.ints.extend((0, 2, 3, 1))
    target = f"{output}/columns"
    graph.initializer.append(numpy_helper.from_array(np.array([0, -1, channels], np.int64), target))
    chain["Reshape"].input[1] = target


def _decode(name: str, pixels: str, scale: str, outputs: tuple[str, ...]) -> Part:
    """Network outputs to candidates in pixels of the photo (scrfd.py:473-515, 676-738, 829-837).

    Gives `{name}/scores` `[N, P, 1]`, `{name}/boxes` `[N, P, 4]` and, if there are, `{name}/keypoints` `[N, P, 10]`,
    strides one after the other, rows of the map from top to bottom, two anchors at each centre = index · stride.
    """
    lines = [
        f"""
        "{name}/size" = Shape <start = 1, end = 3> ({pixels})
        "{name}/last" = Constant <value_ints = [2]> ()
        "{name}/scale" = Unsqueeze ({scale}, "{name}/last")
        "{name}/zero" = Constant <value = int64 {{0}}> ()
        "{name}/one" = Constant <value = int64 {{1}}> ()
        "{name}/is_x" = Constant <value = float[1, 1, 1, 4] {{1, 0, 1, 0}}> ()
        "{name}/is_y" = Constant <value = float[1, 1, 1, 4] {{0, 1, 0, 1}}> ()
        "{name}/as_rows" = Constant <value_ints = [1, -1, 1, 1]> ()
        "{name}/as_columns" = Constant <value_ints = [1, 1, -1, 1]> ()
        "{name}/as_points" = Constant <value_ints = [1, -1, 2]> ()
        "{name}/nil" = Constant <value = float {{0}}> ()
        "{name}/none" = Constant <value = float {{-1}}> ()
        "{name}/is_meant" = Greater ("{name}/scale", "{name}/nil")
        """
    ]
    count = len(DETECTOR_STRIDES_PX)
    for index, stride in enumerate(DETECTOR_STRIDES_PX):
        lines.append(_at_stride(name, stride, outputs[count + index]))
        if len(outputs) == 3 * count:
            lines.append(_points_at_stride(name, stride, outputs[2 * count + index]))

    def joined(what: str) -> str:
        return ", ".join(f'"{name}/{stride}/{what}"' for stride in DETECTOR_STRIDES_PX)

    scores = ", ".join(f'"{output}"' for output in outputs[:count])
    lines.append(
        f"""
        "{name}/network_scores" = Concat <axis = 1> ({scores})
        "{name}/scores" = Where ("{name}/is_meant", "{name}/network_scores", "{name}/none")
        "{name}/centres" = Concat <axis = 1> ({joined("centres")})
        "{name}/corners" = Concat <axis = 2> ("{name}/centres", "{name}/centres")
        "{name}/box" = Concat <axis = 1> ({joined("box")})
        "{name}/network_boxes" = Add ("{name}/corners", "{name}/box")
        "{name}/boxes" = Div ("{name}/network_boxes", "{name}/scale")
        """
    )
    if len(outputs) == 3 * count:
        five = ", ".join([f'"{name}/centres"'] * POINTS)
        lines.append(
            f"""
        "{name}/anchors" = Concat <axis = 2> ({five})
        "{name}/points" = Concat <axis = 1> ({joined("points")})
        "{name}/network_keypoints" = Add ("{name}/anchors", "{name}/points")
        "{name}/keypoints" = Div ("{name}/network_keypoints", "{name}/scale")
        """
        )
    return stage("".join(lines))


def _at_stride(name: str, stride: int, box: str) -> str:
    """Return a stride's centres, `{name}/{stride}/centres` `[1, P, 2]`, and the boxes from them, `…/box`."""
    at = f"{name}/{stride}"
    return f"""
        "{at}/stride" = Constant <value = int64 {{{stride}}}> ()
        "{at}/grid" = Div ("{name}/size", "{at}/stride")
        "{at}/rows" = Gather ("{at}/grid", "{name}/zero")
        "{at}/columns" = Gather ("{at}/grid", "{name}/one")
        "{at}/row" = Range ("{name}/zero", "{at}/rows", "{name}/one")
        "{at}/column" = Range ("{name}/zero", "{at}/columns", "{name}/one")
        "{at}/y_px" = Mul ("{at}/row", "{at}/stride")
        "{at}/x_px" = Mul ("{at}/column", "{at}/stride")
        "{at}/y_line" = Cast <to = 1> ("{at}/y_px")
        "{at}/x_line" = Cast <to = 1> ("{at}/x_px")
        "{at}/y_map" = Reshape ("{at}/y_line", "{name}/as_rows")
        "{at}/x_map" = Reshape ("{at}/x_line", "{name}/as_columns")
        "{at}/ys" = Mul ("{at}/y_map", "{name}/is_y")
        "{at}/xs" = Mul ("{at}/x_map", "{name}/is_x")
        "{at}/map" = Add ("{at}/xs", "{at}/ys")
        "{at}/centres" = Reshape ("{at}/map", "{name}/as_points")
        "{at}/sides" = Constant <value = float[4] {{{-stride}, {-stride}, {stride}, {stride}}}> ()
        "{at}/box" = Mul ("{box}", "{at}/sides")
        """


def _points_at_stride(name: str, stride: int, points: str) -> str:
    """Return a stride's keypoints from its centres: `{name}/{stride}/points` `[N, P, 10]`."""
    at = f"{name}/{stride}"
    return f"""
        "{at}/stride_px" = Constant <value = float {{{stride}}}> ()
        "{at}/points" = Mul ("{points}", "{at}/stride_px")
        """


def _union(names: list[str], with_keypoints: bool) -> Part:
    """All candidates of a photo in one list, the small pass first: ties keep that order (scrfd.py:775-777)."""
    lines = []
    for what in ("scores", "boxes", "keypoints") if with_keypoints else ("scores", "boxes"):
        sources = ", ".join(f'"{name}/{what}"' for name in names)
        lines.append(f'"all/{what}" = Concat <axis = 1> ({sources})')
    return stage("\n".join(lines))


def _suppress(max_faces: int, with_keypoints: bool) -> Part:
    """Candidates `all/…` to the padded outputs (scrfd.py:697, 771-784, 887-912).

    insightface counts a box as one pixel wider and higher than x2 − x1 and y2 − y1, and keeps overlaps of exactly the
    threshold; NonMaxSuppression keeps them too, and gets the boxes one pixel larger. Equal scores keep the candidates'
    order in it and in TopK, as in insightface's stable sort. Rejected candidates score −1, under its own threshold
    of −½, since that one keeps only what is above it.
    """
    text = f"""
        none = Constant <value = float {{-1}}> ()
        nil = Constant <value = float {{0}}> ()
        last = Constant <value_ints = [2]> ()
        channel = Constant <value_ints = [1]> ()
        extra = Constant <value = float[4] {{0, 0, 1, 1}}> ()
        iou_threshold = Constant <value = float {{{IOU_THRESHOLD}}}> ()
        above = Constant <value = float {{-0.5}}> ()
        limit = Constant <value_ints = [{max_faces}]> ()
        photo_and_candidate = Constant <value_ints = [0, 2]> ()
        padding = Constant <value_ints = [0, 0, 0, {max_faces}]> ()

        score = Squeeze ("all/scores", last)
        good = GreaterOrEqual (score, min_score)
        ranked = Where (good, score, none)
        ranked_channel = Unsqueeze (ranked, channel)
        larger = Add ("all/boxes", extra)
        selected = NonMaxSuppression (larger, ranked_channel, limit, iou_threshold, above)

        where = Gather <axis = 1> (selected, photo_and_candidate)
        selected_score = GatherND (ranked, where)
        every = Shape (ranked)
        nothing = ConstantOfShape <value = float[1] {{-1}}> (every)
        kept = ScatterND (nothing, where, selected_score)
        kept_padded = Pad (kept, padding, none)
        best, best_index = TopK <axis = 1, largest = 1, sorted = 1> (kept_padded, limit)
        is_face = Greater (best, above)
        is_face_column = Unsqueeze (is_face, last)
        is_face_number = Cast <to = 7> (is_face)
        index = Mul (best_index, is_face_number)
        index_column = Unsqueeze (index, last)

        is_face_count = Cast <to = 6> (is_face)
        count = ReduceSum <keepdims = 1> (is_face_count, channel)
        scores = Where (is_face, best, nil)
        best_boxes = GatherND <batch_dims = 1> ("all/boxes", index_column)
        boxes = Where (is_face_column, best_boxes, nil)
    """
    if with_keypoints:
        text += f"""
        as_keypoints = Constant <value_ints = [0, {max_faces}, {POINTS}, 2]> ()
        best_points = GatherND <batch_dims = 1> ("all/keypoints", index_column)
        points = Where (is_face_column, best_points, nil)
        keypoints = Reshape (points, as_keypoints)
        """
    return stage(text)
