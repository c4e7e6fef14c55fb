"""The matrix products of an fp32 graph in int8: Q/DQ pairs in the ONNX file, calibrated on photographs.

Weights are signed, symmetric and per output channel; activations are unsigned and per tensor. That is what processors
with VNNI multiply (onnxruntime.ai, "Quantize ONNX models", data type selection). Three kinds stay in fp32:
convolutions, which would lose four times as much and win 2 % of the time; attention's products of two activations; and,
of the others, the most sensitive, as many as it takes to hold the card's tolerances.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from depthface.contract import ONNX_FILE
from depthface.errors import ParityError
from depthface_export import validate
from depthface_export.job import NetworkJob
from depthface_export.validate import Arrays, Check

__all__ = ["IN_FP32", "by_sensitivity", "int8_from_export", "products", "write_int8"]

IN_FP32 = (0.0, 0.1, 0.25, 0.5)
"""Which share of the products stays in fp32: these in turn, until the file holds."""

_PRODUCT = "MatMul"


def int8_from_export(making: NetworkJob) -> tuple[list[Check], list[str]]:
    """Rewrite `model.onnx` in int8; return its checks, and the names of the products left in fp32.

    Raises:
        ParityError: it does not hold even with half of the products in fp32; `model.onnx` is as it was.
    """
    model, report = making.model, making.report
    run = validate.runner(model)
    report(f"int8: {making.network.name}, the ranges of its products")
    feeds = validate.inputs(making, run, validate.CALIBRATION)
    with tempfile.TemporaryDirectory(dir=making.folder) as aside:
        ranges, built = Path(aside, "ranges.json"), Path(aside, ONNX_FILE)
        sensitive: list[str] = []
        for share in IN_FP32:
            if share and not sensitive:
                report("int8: which products are sensitive, one after the other; this takes minutes")
                sensitive = by_sensitivity(model, built, feeds, ranges)
            left = sensitive[: round(share * len(sensitive))]
            if left:
                report(f"int8: once more, with the {len(left)} most sensitive of {len(sensitive)} products in fp32")
            write_int8(model, built, feeds, ranges, left)
            try:
                checks = validate.prove(making, validate.runner(built, "int8"))
            except ParityError as error:
                failure = error
                report(f"  {error}")
                continue
            built.replace(model)
            return checks, left
    raise ParityError(f"{failure.what} Half of its products in fp32 were not enough.", failure.remedy)


def write_int8(
    model: Path, target: Path, feeds: Sequence[Arrays], ranges: Path, in_fp32: Collection[str] = frozenset()
) -> None:
    """Write the fp32 `model` to `target` with its products in int8, but for those named.

    Args:
        feeds: inputs by name, on which the activations' ranges are measured.
        ranges: where those are kept; if they are there, nothing is measured.
    """
    graph = onnx.load(model).graph
    constants = {tensor.name for tensor in graph.initializer}
    # The option MatMulConstBOnly says this too, and does nothing in the Q/DQ format.
    of_activations = {node.name for node in graph.node if node.op_type == _PRODUCT and node.input[1] not in constants}
    with _hush():
        quantize_static(
            model,
            target,
            _Feeds(feeds),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=[_PRODUCT],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=sorted(of_activations.union(in_fp32)),
            calibration_cache_path=ranges,
            extra_options={"OpTypesToExcludeOutputQuantization": [_PRODUCT]},  # what follows takes it in fp32
        )


def products(model: onnx.ModelProto) -> dict[str, str]:
    """Return the products of a Q/DQ model, and of each the activation that is rounded for it."""
    rounded = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    sources = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    return {
        node.name: sources[rounded[node.input[0]]]
        for node in model.graph.node
        if node.op_type == _PRODUCT and rounded.get(node.input[0]) in sources
    }


def by_sensitivity(model: Path, int8: Path, feeds: Sequence[Arrays], ranges: Path) -> list[str]:
    """Return the products of the Q/DQ model `int8`, made of `model`, the most sensitive first.

    That is how far the outputs go from fp32, on the feed of middle size, if those of one activation alone are rounded.
    """
    feed = sorted(feeds, key=lambda feed: sum(value.nbytes for value in feed.values()))[len(feeds) // 2]
    expected = validate.runner(model)(feed)
    named = products(onnx.load(int8))
    errors: dict[str, float] = {}
    trial = int8.with_name("trial.onnx")
    for activation in dict.fromkeys(named.values()):
        write_int8(model, trial, feeds, ranges, [name for name, of in named.items() if of != activation])
        got = validate.runner(trial)(feed)
        off = [np.linalg.norm(got[name] - value) / (np.linalg.norm(value) or 1) for name, value in expected.items()]
        errors[activation] = float(np.nan_to_num(np.max(off), nan=np.inf))  # what is no number is the worst
    return sorted(named, key=lambda name: -errors[named[name]])


class _Feeds(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, feeds: Sequence[Arrays]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> Arrays | None:
        return next(self._feeds, None)


@contextmanager
def _hush() -> Iterator[None]:
    """Silence the quantizer, which warns on the root logger of a preparation that this graph does not need."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
