"""The floor: the exported networks in their plain runtimes, in this process, with this project's code round them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from depthface import config
from depthface.contract import ENGINE_FILE, MODEL_VERSION, ONNX_FILE
from depthface.errors import DepthfaceError
from depthface.machine import CUDA_OPTIONS, CUDA_PROVIDER
from depthface.openvino import openvino
from depthface.spec import ModelCard, Network
from depthface_bench.variants import Variant
from depthface_export import tensorrt

__all__ = ["Answer", "Run", "plain_network", "plain_pipeline"]

Answer = Mapping[str, Any]
"""The outputs of a public model by name: arrays or `bytes`."""

Run = Callable[[Mapping[str, npt.NDArray[Any]], Sequence[str]], dict[str, npt.NDArray[Any]]]
"""Batched inputs by name, and the outputs that are wanted, to those."""


def plain_pipeline(
    repository: Path,
    card: ModelCard,
    public: str,
    wanted: Collection[str],
    runs: Callable[[Network], Run],
    stack: contextlib.ExitStack,
) -> Callable[[bytes], Answer]:
    """A public model without its server: the coroutine that the server runs, asking its networks here.

    The function may be called from several threads; `stack` closes what has to be closed.

    Args:
        runs: makes each network that it asks into a function.
    """
    pipeline = next(one for one in card.pipelines if one.name == public)
    asked = set(pipeline.parameters.networks.values())
    networks = {network.name: runs(network) for network in card.networks if network.name in asked}
    parameters = replace(config.parameters_of(config.of_model(repository / public)), repository=repository)
    module, _, function = pipeline.function.partition(":")
    run = getattr(import_module(module), function)
    left_out = [None] * sum(tensor.optional for tensor in pipeline.inputs)
    local = threading.local()

    async def ask(
        name: str, inputs: Mapping[str, npt.NDArray[Any]], outputs: Collection[str]
    ) -> dict[str, npt.NDArray[Any]]:
        return networks[name](inputs, list(outputs))

    def answer(item: bytes) -> Answer:
        if not hasattr(local, "runner"):  # a loop for each thread: a new one a photo would cost more than a short text
            local.runner = stack.enter_context(asyncio.Runner())
        found: Answer = local.runner.run(run(frozenset(wanted), ask, parameters, item, *left_out))
        return found

    return answer


def plain_network(
    repository: Path, network: Network, variant: Variant, threads: int, stack: contextlib.ExitStack
) -> Run:
    """An exported network in the variant's own runtime: its engine in TensorRT, which `stack` closes, or ONNX Runtime,
    or for bf16, which that one has no CPU kernels for, OpenVINO. It may be called from several threads.

    Raises:
        DepthfaceError: CUDA does not start.
    """
    folder = repository / network.name / MODEL_VERSION
    if variant.provider == "tensorrt" and (folder / ENGINE_FILE).is_file():
        infer = stack.enter_context(tensorrt.runner(folder / ENGINE_FILE, network))
        turn = threading.Lock()  # an engine's context is for one at a time

        def in_turn(inputs: Mapping[str, npt.NDArray[Any]], wanted: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
            with turn:
                found = infer(dict(inputs))
            return {name: found[name] for name in wanted}

        return in_turn
    if variant.precision == "bf16" and not network.only_fp32:
        compiled = openvino.Core().compile_model(
            folder / ONNX_FILE, "CPU", {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": threads}
        )

        def by_openvino(inputs: Mapping[str, npt.NDArray[Any]], wanted: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
            found = compiled.create_infer_request().infer(dict(inputs))
            return {name: np.array(found[name]) for name in wanted}

        return by_openvino
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    cuda = [(CUDA_PROVIDER, CUDA_OPTIONS)] if variant.provider == "cuda" else []
    if cuda:
        onnxruntime.preload_dlls()
    session = onnxruntime.InferenceSession(folder / ONNX_FILE, options, providers=[*cuda, "CPUExecutionProvider"])
    if bool(cuda) != (CUDA_PROVIDER in session.get_providers()):
        raise DepthfaceError(
            f"{CUDA_PROVIDER} did not start, and ONNX Runtime would run on the CPU; its warning says why."
        )

    def by_onnxruntime(inputs: Mapping[str, npt.NDArray[Any]], wanted: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        return dict(zip(wanted, session.run(list(wanted), dict(inputs)), strict=True))

    return by_onnxruntime
