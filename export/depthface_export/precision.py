"""Parts of an fp16 ONNX graph back to fp32: attention scores, normalisations, and what comes near fp16's limit.

Precision lives in the ONNX file: an engine is built strongly typed, and has no flag for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

__all__ = ["HEADROOM", "attention_scores", "in_fp32", "near_overflow", "normalisations"]

Arrays = dict[str, npt.NDArray[Any]]

HEADROOM = 8.0
"""A value within this factor of fp16's largest (65504) is too near: sums on the way to it may already be past it."""

_POINTWISE = frozenset(("Add", "Div", "Mul", "Sub", "Where"))
"""What may stand between the product of queries and keys and its softmax: a scale, a mask."""


def attention_scores(model: onnx.ModelProto) -> frozenset[str]:
    """Return the names of every Softmax, of the MatMul that it is of, and of what stands between."""
    producers = _producers(model)
    names: set[str] = set()
    for node in model.graph.node:
        if node.op_type != "Softmax":
            continue
        names.add(node.name)
        above = producers.get(node.input[0])
        while above is not None and above.op_type in (*_POINTWISE, "MatMul"):
            names.add(above.name)
            above = None if above.op_type == "MatMul" else producers.get(above.input[0])
    return frozenset(names)


def normalisations(model: onnx.ModelProto) -> frozenset[str]:
    """Return the names of every LayerNormalization."""
    return frozenset(node.name for node in model.graph.node if node.op_type == "LayerNormalization")


def near_overflow(
    model: onnx.ModelProto, feeds: Iterable[Arrays], runner: Callable[[bytes], Callable[[Arrays], Arrays]]
) -> frozenset[str]:
    """Return the names of the nodes that give or take a value near fp16's limit, on these inputs.

    The values are those of the graph in fp32: in fp16 the first that is too large makes all that follow it so.

    Args:
        runner: makes a serialized model into a function.
    """
    probe, peaks = _with_peaks(in_fp32(model, frozenset(node.name for node in model.graph.node)))
    run = runner(probe.SerializeToString())
    limit = float(np.finfo(np.float16).max) / HEADROOM
    large: set[str] = set()
    for feed in feeds:
        found = run(feed)
        large |= {tensor for tensor, peak in peaks.items() if not float(found[peak]) < limit}
    return frozenset(
        node.name
        for node in model.graph.node
        if large.intersection(_raised(name) for name in (*node.input, *node.output))
    )


def in_fp32(model: onnx.ModelProto, names: frozenset[str]) -> onnx.ModelProto:
    """Return a copy of the graph in which the nodes of these names compute in fp32, with casts round them.

    Between two such nodes nothing is cast, so no value is rounded or lost on the way. Inputs and outputs stay as they
    are.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    halves = _halves(copy)

    def is_chosen(node: onnx.NodeProto) -> bool:
        return node.name in names and node.op_type != "Cast"

    made = {name for node in copy.graph.node if is_chosen(node) for name in node.output if name in halves}
    wanted = {name for node in copy.graph.node if not is_chosen(node) for name in node.input}
    wanted |= {value.name for value in copy.graph.output}

    nodes: list[onnx.NodeProto] = []
    raised: set[str] = set()
    for node in copy.graph.node:
        if not is_chosen(node):
            nodes.append(node)
            continue
        for index, name in enumerate(node.input):
            if name not in halves:
                continue
            if name not in made | raised:
                nodes.append(_cast(name, _raised(name), TensorProto.FLOAT))
                raised.add(name)
            node.input[index] = _raised(name)
        for attribute in node.attribute:
            if attribute.name == "value" and attribute.t.data_type == TensorProto.FLOAT16:
                values = onnx.numpy_helper.to_array(attribute.t).astype(np.float32)
                attribute.t.CopyFrom(onnx.numpy_helper.from_array(values))
        outputs = [name for name in node.output if name in halves]
        node.output[:] = [_raised(name) if name in halves else name for name in node.output]
        nodes.append(node)
        nodes += [_cast(_raised(name), name, TensorProto.FLOAT16) for name in outputs if name in wanted]
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    del copy.graph.value_info[:]
    onnx.checker.check_model(copy)
    return copy


def _with_peaks(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Return the model with each raised tensor's largest magnitude as its outputs, and their names by the tensor's."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    tensors = [name for node in copy.graph.node for name in node.output if name.endswith(_RAISED)]
    peaks = {name: f"{name}/peak" for name in tensors}
    del copy.graph.output[:]
    for name, peak in peaks.items():
        copy.graph.node.append(onnx.helper.make_node("Abs", [name], [f"{name}/size"]))
        copy.graph.node.append(onnx.helper.make_node("ReduceMax", [f"{name}/size"], [peak], keepdims=0))
        copy.graph.output.append(onnx.helper.make_tensor_value_info(peak, TensorProto.FLOAT, []))
    return copy, peaks


_RAISED = "/fp32"


def _raised(name: str) -> str:
    return name + _RAISED


def _cast(source: str, target: str, to: int) -> onnx.NodeProto:
    return onnx.helper.make_node("Cast", [source], [target], name=f"{target}/cast", to=to)


def _halves(model: onnx.ModelProto) -> set[str]:
    """Return the names of all fp16 tensors."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = (*graph.value_info, *graph.input, *graph.output)
    names = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT16}
    return names | {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT16}


def _producers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {name: node for node in model.graph.node for name in node.output}
