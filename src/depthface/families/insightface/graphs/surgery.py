"""Taking a published ONNX network apart and putting it into a larger graph.

A stage around a network is written as ONNX text (`onnx.parser`), which reads as the formula that it is. Tensors of the
network get the prefix `net/`, so that a published name such as `input` or `embeddings` never meets one of ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
import onnx.parser
from onnx import numpy_helper, version_converter

__all__ = [
    "IR",
    "OPSET",
    "Part",
    "again",
    "assemble",
    "constant",
    "dims",
    "inputs",
    "network",
    "normalise",
    "stage",
    "value",
]

OPSET = 17
"""The newest in which ReduceMean and its like take `axes` as an attribute, as networks of all ages write it."""

IR = 10
"""What ONNX Runtime 1.22 and TensorRT 10 read; `onnx` by itself writes the newest it knows."""


@dataclass(frozen=True)
class Part:
    """A piece of a graph: nodes in topological order, the initializers they use, and the ends that are left open."""

    nodes: tuple[onnx.NodeProto, ...]
    initializers: tuple[onnx.TensorProto, ...] = ()
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


def inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Return the inputs that a caller feeds: IR 3 lists every initializer among the inputs too."""
    held = {tensor.name for tensor in model.graph.initializer}
    return [each for each in model.graph.input if each.name not in held]


def dims(info: onnx.ValueInfoProto) -> list[int]:
    """Return declared dimensions, 0 for one that varies."""
    return [int(dim.dim_value) for dim in info.type.tensor_type.shape.dim]


def constant(graph: onnx.GraphProto, name: str) -> npt.NDArray[np.generic] | None:
    """Return the value of tensor `name` if the graph holds it as an initializer or a `Constant`; None otherwise."""
    for tensor in graph.initializer:
        if tensor.name == name:
            return np.asarray(numpy_helper.to_array(tensor))
    for node in graph.node:
        if node.op_type == "Constant" and name in node.output and node.attribute[0].name == "value":
            return np.asarray(numpy_helper.to_array(node.attribute[0].t))
    return None


def network(model: onnx.ModelProto, prefix: str = "net/") -> Part:
    """Return a published network as a part: at `OPSET`, any batch size, every name prefixed. `model` stays as it is."""
    model = _let_batch_vary(_at_opset(model))
    graph = model.graph
    names = {name: prefix + name for node in graph.node for name in (*node.input, *node.output) if name}
    initializers = []
    for tensor in graph.initializer:
        if tensor.name in names:
            initializers.append(onnx.TensorProto())
            initializers[-1].CopyFrom(tensor)
            initializers[-1].name = names[tensor.name]
    return Part(
        nodes=tuple(_rename(graph.node, names)),
        initializers=tuple(initializers),
        inputs=tuple(prefix + each.name for each in inputs(model)),
        outputs=tuple(prefix + each.name for each in graph.output),
    )


def again(part: Part, prefix: str) -> Part:
    """Return the same network a second time, on the same initializers."""
    held = {tensor.name for tensor in part.initializers}
    used = {name for node in part.nodes for name in (*node.input, *node.output) if name}
    names = {name: prefix + name for name in used - held}
    return Part(
        nodes=tuple(_rename(part.nodes, names)),
        inputs=tuple(names[name] for name in part.inputs),
        outputs=tuple(names[name] for name in part.outputs),
    )


def _rename(nodes: Iterable[onnx.NodeProto], names: Mapping[str, str]) -> list[onnx.NodeProto]:
    """Return copies of `nodes` with their tensors named by `names`; a name that is not in it stays."""
    copies = []
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        del copy.input[:], copy.output[:]
        copy.input.extend(names.get(name, name) for name in node.input)
        copy.output.extend(names.get(name, name) for name in node.output)
        copy.name = ""  # ONNX Runtime wants node names unique or none; ours would meet the network's
        copies.append(copy)
    return copies


def stage(text: str) -> Part:
    """Nodes written as ONNX text, one `y = Op <attribute = value> (x)` a line."""
    graph = onnx.parser.parse_graph(f"stage () => () {{\n{text}\n}}")
    return Part(nodes=tuple(graph.node))


def normalise(pixels: str, x: str, mean: float, std: float) -> Part:
    """`pixels` `[N, H, W, 3] uint8` to `x` `[N, 3, H, W] float32 = (pixels − mean) / std` (cv2.dnn.blobFromImage)."""
    # First to float: TensorRT takes uint8 as a network's input, and then wants a Cast and nothing else
    # (docs.nvidia.com/deeplearning/tensorrt, DataType.UINT8); for an output the Cast comes last.
    text = f"""
        "{x}_hwc" = Cast <to = 1> ({pixels})
        "{x}_float" = Transpose <perm = [0, 3, 1, 2]> ("{x}_hwc")
    """
    if (mean, std) == (0.0, 1.0):
        return stage(text + f'"{x}" = Identity ("{x}_float")')
    return stage(
        text
        + f"""
        "{x}_mean" = Constant <value = float {{{mean!r}}}> ()
        "{x}_gain" = Constant <value = float {{{1 / std!r}}}> ()
        "{x}_centred" = Sub ("{x}_float", "{x}_mean")
        "{x}" = Mul ("{x}_centred", "{x}_gain")
    """
    )


def value(name: str, dtype: int, *dims: int | str) -> onnx.ValueInfoProto:
    """Return a graph input or output; a dimension with a name varies."""
    return onnx.helper.make_tensor_value_info(name, dtype, dims)


def assemble(
    name: str,
    parts: Sequence[Part],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
) -> onnx.ModelProto:
    """One checked model of `parts`, in order; nodes and initializers that no output needs are left out."""
    needed = {each.name for each in outputs}
    nodes: list[onnx.NodeProto] = []
    for node in reversed([node for part in parts for node in part.nodes]):
        if needed.intersection(node.output):
            nodes.insert(0, node)
            needed.update(node.input)
    initializers = [tensor for part in parts for tensor in part.initializers if tensor.name in needed]
    graph = onnx.helper.make_graph(nodes, name, inputs, outputs, initializers)
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=IR, producer_name="depthface"
    )
    onnx.checker.check_model(model)
    return model


def _at_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    opsets = {each.domain: each.version for each in model.opset_import}
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    # Declared shapes of intermediate tensors are for one batch size, and wrong at other picture sizes.
    del copy.graph.value_info[:]
    version = opsets.get("", opsets.get("ai.onnx", OPSET))
    return copy if version == OPSET else version_converter.convert_version(copy, OPSET)


def _let_batch_vary(model: onnx.ModelProto) -> onnx.ModelProto:
    """Let the first dimension vary, in place: a Reshape to `[1, …]` of a batch of one keeps the batch instead."""
    graph = model.graph
    reshapes = [node for node in graph.node if node.op_type == "Reshape"]
    targets = {node.output[0]: constant(graph, node.input[1]) for node in reshapes}
    if not any(target is not None and target.size and int(target[0]) == 1 for target in targets.values()):
        return model
    single = onnx.ModelProto()
    single.CopyFrom(model)
    for each in inputs(single):
        each.type.tensor_type.shape.dim[0].dim_value = 1
    del single.graph.output[:]
    single.graph.output.extend(onnx.ValueInfoProto(name=each.name, type=_untyped(each)) for each in graph.output)
    known = onnx.shape_inference.infer_shapes(single).graph
    first = {
        each.name: each.type.tensor_type.shape.dim[0].dim_value
        for each in (*known.value_info, *known.input)
        if each.type.tensor_type.shape.dim
    }
    held = {tensor.name for tensor in graph.initializer}
    for node in reshapes:
        target = targets[node.output[0]]
        if target is None or not target.size or int(target[0]) != 1:
            continue
        if node.input[0] not in held and first.get(node.input[0]) == 1:
            name = f"{node.output[0]}/any_batch"
            shape = np.concatenate([np.zeros(1, np.int64), target[1:].astype(np.int64)])
            graph.initializer.append(numpy_helper.from_array(shape, name))
            node.input[1] = name
    return model


def _untyped(each: onnx.ValueInfoProto) -> onnx.TypeProto:
    return onnx.helper.make_tensor_type_proto(each.type.tensor_type.elem_type, None)
