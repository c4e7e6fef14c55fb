"""What the machine could do at most, measured, and what each network asks of it, counted."""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch

from depthface.openvino import openvino

__all__ = ["PRODUCT_GFLOP", "bandwidth_gb_s", "counted", "gemm_gflop_s", "products", "products_ms"]

_SIDE = 2048
"""Of the matrices multiplied: large enough for the peak, small enough for half a second a round."""

PRODUCT_GFLOP = 2 * _SIDE**3 / 1e9
"""Operations of one of `products`, 10⁹: a product of two n×n matrices is 2·n³."""

_LEAST_SIDE = 128
"""Of those that stand for a short request."""

_COPIED_BYTES = 2**28
"""What each thread copies: many times any cache."""

_MATMUL, _CONV, _ATTENTION = {"MatMul", "Gemm"}, {"Conv"}, "MultiHeadAttention"


def gemm_gflop_s(precision: Literal["fp32", "bf16"], threads: int, rounds: int) -> dict[str, list[float]]:
    """The rate of a matrix product by each of the `products`, 10⁹ floating-point operations a second, each round's
    best.
    """
    ways = products(precision, threads)
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, multiply in ways.items():
            rates[name].append(PRODUCT_GFLOP / _best_s(multiply))
    return rates


def products(precision: Literal["fp32", "bf16"], threads: int) -> dict[str, Callable[[], object]]:
    """Return what multiplies two matrices, by each library that networks run on here.

    The machine's peak is the faster one's. In fp32 torch multiplies by MKL, which on AMD's Zen 5 has half the rate of
    OpenVINO's oneDNN.
    """
    torch.set_num_threads(threads)
    a, b = (torch.randn(_SIDE, _SIDE) for _ in range(2))
    x, y = ((one.bfloat16() if precision == "bf16" else one) for one in (a, b))
    product = _openvino_product(b.numpy(), precision, threads)
    return {"torch": lambda: torch.mm(x, y), "OpenVINO": lambda: product(a.numpy())}


def _openvino_product(
    b: npt.NDArray[np.float32], precision: Literal["fp32", "bf16"], threads: int
) -> Callable[[npt.NDArray[np.float32]], object]:
    """`a` to `a @ b`, with `b` as a network's weights."""
    a = openvino.opset13.parameter(b.shape, np.float32)
    model = openvino.Model([openvino.opset13.matmul(a, openvino.opset13.constant(b), False, False)], [a])
    hint = {"fp32": "f32", "bf16": "bf16"}[precision]
    compiled = openvino.Core().compile_model(
        model, "CPU", {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads}
    )
    request = compiled.create_infer_request()
    return lambda fed: request.infer([fed], share_inputs=True, share_outputs=True)


def products_ms(threads: int, each_s: float, count: int) -> list[float]:
    """How long the same work takes, `count` times: fp32 matrix products of about `each_s` seconds, nothing else.

    How far these lie apart is the machine's own doing (its neighbours, its clock).
    """
    torch.set_num_threads(threads)
    side = _SIDE
    while True:
        a, b = (torch.randn(side, side) for _ in range(2))
        product_s = _best_s(lambda: torch.mm(a, b))  # noqa: B023 (it is called at once)
        if product_s <= each_s or side <= _LEAST_SIDE:
            break
        side //= 2
    products = max(1, round(each_s / product_s))
    times = []
    for _ in range(count):
        started = time.perf_counter()
        for _ in range(products):
            torch.mm(a, b)
        times.append(1000 * (time.perf_counter() - started))
    return times


def bandwidth_gb_s(threads: int, rounds: int) -> list[float]:
    """The rate of memory, 10⁹ bytes a second, read and written, each round's best: STREAM's copy, a block a thread."""
    blocks = [(np.zeros(_COPIED_BYTES, np.uint8), np.ones(_COPIED_BYTES, np.uint8)) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:

        def copy() -> None:
            list(pool.map(lambda block: np.copyto(*block), blocks))  # numpy copies without the interpreter's lock

        return [2 * threads * _COPIED_BYTES / 1e9 / _best_s(copy) for _ in range(rounds)]


def counted(
    model: Path, feed: Mapping[str, npt.NDArray[Any]], wanted: Sequence[str]
) -> tuple[float, dict[str, npt.NDArray[Any]]]:
    """Operations of one run of a network, 10⁹, and the outputs that are wanted.

    An operation is each multiplication and each addition in the matrix products and convolutions; what is added,
    normalised or activated between them is left out. The shapes are those of a real run, from ONNX Runtime's own
    profile: a graph with varying sizes does not tell them.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder, "profile"))
        # As it was exported: fused nodes have other names and reordered weights.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        outputs = dict(zip(wanted, session.run(list(wanted), dict(feed)), strict=True))
        events = json.loads(Path(session.end_profiling()).read_text())
    return sum(_operations(event["args"]) for event in events if event.get("cat") == "Node") / 1e9, outputs


def _operations(node: Mapping[str, Any]) -> int:
    kind = node.get("op_name")
    if kind == _ATTENTION:
        (batch, queries, width), (_, keys, _) = [list(next(iter(one.values()))) for one in node["input_type_shape"]][:2]
        return int(4 * batch * queries * keys * width)  # the products with the keys, and with the values
    if kind not in _MATMUL | _CONV or "output_type_shape" not in node:
        return 0
    inputs, (output, *_) = (
        [list(next(iter(one.values()))) for one in node[key]] for key in ("input_type_shape", "output_type_shape")
    )
    if kind in _CONV:
        return int(2 * math.prod(output) * math.prod(inputs[1][1:]))  # weights: out, in / groups, kernel
    if kind == "Gemm":  # which of its inputs are transposed is not in the profile: m·n·k all the same
        return int(2 * output[-1] * math.prod(inputs[0]))
    return int(2 * math.prod(output) * inputs[0][-1])


def _best_s(run: Callable[[], object]) -> float:
    times = []
    for _ in range(5):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)
