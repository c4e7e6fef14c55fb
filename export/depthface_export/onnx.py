"""A torch module to an ONNX file."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path
from typing import Any

import onnx
import torch

from depthface.spec import Network

__all__ = ["IR_VERSION", "OPSET", "onnx_from_torch"]

OPSET = 20
"""The newest that TensorRT 10.0 and every ONNX Runtime since 1.17 know; the first with Gelu as one node."""

IR_VERSION = 10
"""Pinned: a runtime refuses a file of an IR newer than its own."""


def onnx_from_torch(
    module: torch.nn.Module,
    example: torch.Tensor,
    dynamic_shapes: tuple[dict[int, Any], ...],
    network: Network,
    path: Path,
) -> None:
    """Export `module` to one self-contained ONNX file whose batch, height and width vary."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _quiet("torch.onnx"):
        warnings.simplefilter("ignore")  # torch and onnxscript deprecate parts of each other
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=dynamic_shapes,
            input_names=[tensor.name for tensor in network.inputs],
            output_names=[tensor.name for tensor in network.outputs],
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    model.ir_version = IR_VERSION
    for part in (model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output):
        part.ClearField("metadata_props")  # stack traces with this machine's paths
        part.ClearField("doc_string")
    del model.graph.value_info[:]
    onnx.save(model, path)


@contextlib.contextmanager
def _quiet(logger: str) -> Any:
    """Hide a logger's warnings: the exporter reports each of its own fallbacks as one."""
    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
