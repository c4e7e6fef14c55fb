"""A torch module to an ONNX file."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path
from typing import Any

import onnx

from depthface.spec import Network, Source

__all__ = ["IR_VERSION", "OPSET", "onnx_from_source", "versions"]

OPSET = 20
"""The newest that TensorRT 10.0 and every ONNX Runtime since 1.17 know; the first with Gelu as one node."""

IR_VERSION = 10
"""Pinned: a runtime refuses a file of an IR newer than its own."""


def onnx_from_source(source: Source, network: Network, path: Path) -> None:
    """Write the network to one self-contained ONNX file whose varying dimensions vary."""
    model = source.model if isinstance(source.model, onnx.ModelProto) else onnx_from_torch(source, network)
    _cast_bytes_first(model.graph)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def onnx_from_torch(source: Source, network: Network) -> onnx.ModelProto:
    """Export a torch module."""
    import torch  # here, since it takes seconds and a finished ONNX file needs none

    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _hush("torch.onnx"):
        warnings.simplefilter("ignore")  # torch and onnxscript deprecate parts of each other
        program = torch.onnx.export(
            source.model,
            (source.example,),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=source.dynamic_shapes,
            input_names=[tensor.name + _PUBLIC for tensor in network.inputs],
            output_names=[tensor.name + _PUBLIC for tensor in network.outputs],
            verbose=False,
        )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    model.ir_version = IR_VERSION
    for part in (model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output):
        part.ClearField("metadata_props")  # stack traces with this machine's paths
        part.ClearField("doc_string")
    del model.graph.value_info[:]
    _name_publicly(model.graph)
    return model


def versions(path: Path) -> dict[str, int]:
    """Return the opset and IR version of a file."""
    model = onnx.load(path, load_external_data=False)
    return {"opset": model.opset_import[0].version, "ir_version": model.ir_version}


_PUBLIC, _INNER = "/public", "/inner"


def _name_publicly(graph: onnx.GraphProto) -> None:
    """Give inputs and outputs their own names, and other names to what torch named so inside: it names by operation.

    An output `embedding` would else be two, if the network looks something up (aten's `embedding`).
    """
    public = {value.name: value.name.removesuffix(_PUBLIC) for value in (*graph.input, *graph.output)}
    new = public | {name: name + _INNER for name in public.values()}
    for node in graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]
    for named in (*graph.input, *graph.output, *graph.initializer):
        named.name = new.get(named.name, named.name)


def _cast_bytes_first(graph: onnx.GraphProto) -> None:
    """Let nothing but its Cast read an input of uint8: TensorRT takes no other layer there, not even Shape.

    docs.nvidia.com/deeplearning/tensorrt: `DataType.UINT8`, and the data types of the operators Shape and Shuffle.
    """
    for name in [value.name for value in graph.input if value.type.tensor_type.elem_type == onnx.TensorProto.UINT8]:
        cast = next(node for node in graph.node if node.op_type == "Cast" and name in node.input)
        for node in graph.node:
            if node.op_type == "Shape" and name in node.input:
                node.input[0] = cast.output[0]
        first = onnx.NodeProto()
        first.CopyFrom(cast)
        graph.node.remove(cast)
        graph.node.insert(0, first)


@contextlib.contextmanager
def _hush(logger: str) -> Any:
    """Hide a logger's warnings: the exporter reports each of its own fallbacks as one."""
    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
