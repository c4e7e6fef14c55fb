"""What of this project is measured: a precision on the CPU, and, where there is a GPU, on each way to run it there."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import onnxruntime

from depthface.contract import Precision
from depthface.errors import EngineError, ServeError
from depthface.machine import CUDA_PROVIDER
from depthface_bench.machine import Machine
from depthface_export import tensorrt
from depthface_server.installation import Installation

__all__ = ["CUDA", "FP32", "TENSORRT", "Provider", "Variant", "absent", "here", "variants"]

Provider = Literal["cpu", "cuda", "tensorrt"]

CUDA, TENSORRT = CUDA_PROVIDER, "TensorRT"
"""What `here` finds."""

_NEEDS: Mapping[Provider, str] = {"cuda": CUDA, "tensorrt": TENSORRT}
_HOW: Mapping[Provider, str] = {
    "cuda": "ONNX Runtime is the CPU's here; `make setup-gpu` puts onnxruntime-gpu in its place",
    "tensorrt": "it needs TensorRT and Triton's backend for it, which NVIDIA's image has",
}
_ON_GPUS: tuple[Precision, ...] = ("fp32", "fp16")


@dataclass(frozen=True)
class Variant:
    """A precision, and what runs the networks: a CPU, ONNX Runtime on a GPU, or TensorRT's engines."""

    precision: Precision
    provider: Provider = "cpu"

    @property
    def name(self) -> str:
        """What results and reports call it; the CPU's is the precision alone."""
        return self.precision if self.provider == "cpu" else f"{self.provider} {self.precision}"


FP32 = Variant("fp32")
"""What all else is held against."""


def here() -> frozenset[str]:
    """Which of `CUDA` and `TENSORRT` the software of this machine has."""
    found = {CUDA} & set(onnxruntime.get_available_providers())
    try:
        tensorrt.require()
        if (Installation.find().backends / "tensorrt").is_dir():  # the wheel's Triton has none
            found.add(TENSORRT)
    except (EngineError, ServeError):
        pass
    return frozenset(found)


def variants(
    on_cpu: Sequence[Precision], asked: Collection[Precision], machine: Machine, software: Collection[str]
) -> tuple[Variant, ...]:
    """What is measured on a machine, the CPU's first.

    Args:
        on_cpu: the precisions to measure there.
        asked: those that the user wants, wherever; none for all.
        software: what `here` found.
    """
    gpu = [provider for provider in _providers(machine) if _NEEDS[provider] in software]
    precisions = [precision for precision in _ON_GPUS if precision in (asked or _ON_GPUS)]
    return (
        *(Variant(precision) for precision in on_cpu),
        *(Variant(precision, provider) for provider in gpu for precision in precisions),
    )


def absent(machine: Machine, software: Collection[str]) -> list[str]:
    """Why what a GPU could show is not measured, a sentence each; nothing where there is no GPU."""
    return [
        f"{provider} is not measured: {_HOW[provider]}."
        for provider in _providers(machine)
        if _NEEDS[provider] not in software
    ]


def _providers(machine: Machine) -> Iterable[Provider]:
    return get_args(Provider)[1:] if machine.gpus else ()
