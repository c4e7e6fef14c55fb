"""Attention as one node: ONNX Runtime's own, which CUDA computes without writing the scores to memory.

In ONNX attention is three operators, with the scores of all pairs of patches between them. On a GPU these are most
of the bytes that a transformer moves. `MultiHeadAttention` (ONNX Runtime, docs/ContribOperators.md) is one kernel in
fp16. TensorRT makes the same of the three operators, and does not know this one.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import helper

__all__ = ["fuse", "fused"]

_DOMAIN = "com.microsoft"

_HEADS_FIRST = [0, 2, 1, 3]
_KEYS_ACROSS = [0, 2, 3, 1]


def fuse(path: Path) -> None:
    """Have a file's attention be `fused`."""
    onnx.save(fused(onnx.load(path)), path)


def fused(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which each attention is one node; what is written in another way, or has a mask, stays as it is.

    The scale is 1: a network that scales its scores has another node there, and that stays too.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = _Graph(copy)
    softmaxes = [node for node in copy.graph.node if node.op_type == "Softmax"]
    if sum([_fuse(graph, softmax) for softmax in softmaxes]):
        if _DOMAIN not in {one.domain for one in copy.opset_import}:
            copy.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
        _drop_unused(copy)
    return copy


class _Graph:
    """What makes and what takes each tensor."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.makers = {name: node for node in model.graph.node for name in node.output}
        self.takers: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self.takers.setdefault(name, []).append(node)
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph.value_info
        self.shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in inferred}
        self.types = {value.name: value.type.tensor_type.elem_type for value in inferred}

    def only_taker(self, node: onnx.NodeProto, kind: str) -> onnx.NodeProto | None:
        """Return the one node that takes this one's output, if it is of that kind; a Cast on the way is no node."""
        takers = self.takers.get(node.output[0], [])
        if len(takers) != 1:
            return None
        if takers[0].op_type == "Cast" != kind:
            return self.only_taker(takers[0], kind)
        return takers[0] if takers[0].op_type == kind else None

    def maker(self, name: str, kind: str) -> onnx.NodeProto | None:
        """Return the node that makes a tensor, if it is of that kind; a Cast on the way is no node."""
        node = self.makers.get(name)
        if node is not None and node.op_type == "Cast" != kind:
            return self.maker(node.input[0], kind)
        return node if node is not None and node.op_type == kind else None


def _fuse(graph: _Graph, softmax: onnx.NodeProto) -> bool:
    """Put one node in the place of those round this Softmax, if they are an attention without a mask.

    A Softmax in fp32 between products in fp16 is what that node has too.
    """
    scores, mixed = graph.maker(softmax.input[0], "MatMul"), graph.only_taker(softmax, "MatMul")
    back = None if mixed is None else graph.only_taker(mixed, "Transpose")
    joined = None if back is None else graph.only_taker(back, "Reshape")
    if scores is None or mixed is None or back is None or joined is None or _order(back) != _HEADS_FIRST:
        return False
    mixing = graph.maker(mixed.input[0], "Softmax")
    if mixing is None or mixing.name != softmax.name:
        return False
    sides = (
        _split(graph, scores.input[0], _HEADS_FIRST),
        _split(graph, scores.input[1], _KEYS_ACROSS),
        _split(graph, mixed.input[1], _HEADS_FIRST),
    )
    inputs = [side[0] for side in sides if side is not None]
    heads = {side[1] for side in sides if side is not None}
    types = {graph.types.get(name) for name in (*inputs, joined.output[0])}
    if len(inputs) != len(sides) or len(heads) != 1 or len(types) != 1:
        return False
    node = helper.make_node(
        "MultiHeadAttention",
        inputs,
        [joined.output[0]],
        name=f"{softmax.name}/attention",
        domain=_DOMAIN,
        num_heads=heads.pop(),
        scale=1.0,
    )
    nodes = graph.model.graph.node
    nodes.insert([one.name for one in nodes].index(joined.name), node)
    joined.output[0] = f"{joined.output[0]}/unfused"
    return True


def _split(graph: _Graph, name: str, order: list[int]) -> tuple[str, int] | None:
    """Return what is split into heads to this tensor, and into how many; None if it is made in another way."""
    moved = graph.maker(name, "Transpose")
    split = None if moved is None or _order(moved) != order else graph.maker(moved.input[0], "Reshape")
    if split is None:
        return None
    whole, parted = graph.shapes.get(split.input[0], []), graph.shapes.get(split.output[0], [])
    if len(whole) != 3 or len(parted) != 4 or not whole[-1] or not parted[-1]:
        return None
    return split.input[0], whole[-1] // parted[-1]


def _order(node: onnx.NodeProto) -> list[int]:
    return next((list(one.ints) for one in node.attribute if one.name == "perm"), [])


def _drop_unused(model: onnx.ModelProto) -> None:
    """Drop the nodes and the constants that nobody takes any more."""
    wanted = {value.name for value in model.graph.output}
    kept = []
    for node in reversed(model.graph.node):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(kept))
    constants = [one for one in model.graph.initializer if one.name in wanted]
    del model.graph.initializer[:]
    model.graph.initializer.extend(constants)
