"""An ONNX file from anywhere, read without trusting it: nothing runs, and nothing outside of its folder is opened.

ONNX is data, but three things in it reach out: a tensor may name a file to be read (external data), a node may name an
operator that a library must be loaded for, and sizes are whatever the file says. All three are looked at before `onnx`
or ONNX Runtime sees the file's contents.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
from onnx.external_data_helper import load_external_data_for_model

from depthface.errors import WeightsCorrupt

__all__ = ["MAX_BYTES", "read"]

MAX_BYTES = 2**30
"""The largest file, and the largest sum of a file and its external data: twice the largest published (inswapper)."""

DOMAINS = frozenset({"", "ai.onnx"})
"""Where operators may come from; InsightFace's networks use no others."""


def read(path: Path) -> onnx.ModelProto:
    """Return the model in a file, whole and checked, its external data loaded.

    Raises:
        WeightsCorrupt: not an ONNX file, damaged, over `MAX_BYTES`, with operators outside ONNX, or with external data
            that is not a plain file in the same folder.
    """
    if not path.is_file():  # a folder; a pipe, which would be waited for
        raise WeightsCorrupt(f"{path.name} is not a file.", "Use the ONNX files of an InsightFace pack.")
    size_bytes = path.stat().st_size
    if size_bytes > MAX_BYTES:
        raise WeightsCorrupt(
            f"{path.name} has {size_bytes / 2**20:.0f} MiB, the limit is {MAX_BYTES // 2**20} MiB.",
            "Use the ONNX files of an InsightFace pack as they were published.",
        )
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's own
        raise _damaged(path, error) from error
    _check_operators(path, model)
    external_bytes = [_bytes_beside(path, tensor) for tensor in _external(model.graph)]
    if size_bytes + sum(external_bytes) > MAX_BYTES:
        raise WeightsCorrupt(f"{path.name} and its external data are over the limit of {MAX_BYTES // 2**20} MiB.")
    try:
        if external_bytes:
            load_external_data_for_model(model, str(path.parent.resolve()))
        onnx.checker.check_model(model)
    except Exception as error:  # the checker's, and onnx's of an offset outside of the file
        raise _damaged(path, error) from error
    return model


def _damaged(path: Path, error: Exception) -> WeightsCorrupt:
    reason = str(error).partition("\n")[0]
    return WeightsCorrupt(f"{path.name} is not a whole ONNX file ({reason}).", "Fetch it anew.")


def _check_operators(path: Path, model: onnx.ModelProto) -> None:
    graph = model.graph
    foreign = sorted({node.domain for node in graph.node} - DOMAINS)
    if foreign:
        raise WeightsCorrupt(
            f"{path.name} uses operators outside ONNX ({', '.join(foreign)}), which no InsightFace file does.",
            "Use the file as it was published.",
        )
    # With neither loops nor functions a network ends after as many steps as it has nodes.
    if model.functions or any(attribute.HasField("g") or attribute.graphs for attribute in _attributes(graph)):
        raise WeightsCorrupt(
            f"{path.name} has control flow (If, Loop or Scan) or functions, which no InsightFace file has.",
            "Use the file as it was published.",
        )


def _attributes(graph: onnx.GraphProto) -> Iterator[onnx.AttributeProto]:
    for node in graph.node:
        yield from node.attribute


def _external(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every tensor, wherever in the graph it is, whose data lie in another file."""
    sparse = list(graph.sparse_initializer)
    tensors = list(graph.initializer)
    for attribute in _attributes(graph):
        tensors += (attribute.t, *attribute.tensors)
        sparse += (attribute.sparse_tensor, *attribute.sparse_tensors)
    for each in sparse:
        tensors += (each.values, each.indices)
    return (tensor for tensor in tensors if tensor.external_data or tensor.data_location == tensor.EXTERNAL)


def _bytes_beside(path: Path, tensor: onnx.TensorProto) -> int:
    """Return how much is read of the file of a tensor's external data, at the most: many tensors may share one."""
    file_bytes = _beside(path, tensor).stat().st_size
    length = _entries(tensor).get("length", "0")
    try:
        length_bytes = int(length)
        if length_bytes < 0:
            raise ValueError(f"{length_bytes} bytes of external data")
    except ValueError as error:
        raise _damaged(path, error) from error
    # Of a length of 0, older versions of onnx read the whole file.
    return min(length_bytes or file_bytes, file_bytes)


def _entries(tensor: onnx.TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _beside(path: Path, tensor: onnx.TensorProto) -> Path:
    """Return the file of a tensor's external data, known to be a plain one in the folder of `path`."""
    location = _entries(tensor).get("location", "")
    names = (PurePosixPath(location), PureWindowsPath(location))
    outside = any(name.is_absolute() or name.drive or ".." in name.parts for name in names)
    folder = path.parent.resolve()
    file = folder / location
    if outside or "\0" in location or not location or file.resolve() != file:
        raise WeightsCorrupt(
            f"{path.name} wants its data from {location!r}, which is not a plain file in its own folder.",
            "Nothing was read. Use the file as it was published.",
        )
    if not file.is_file():
        raise WeightsCorrupt(f"{path.name} wants its data from {location!r}, which is not there.", "Fetch both anew.")
    return file
