"""OpenVINO, kept from reporting home: how a network is compiled, for any shape of its inputs or for one alone.

Its import sends usage statistics (openvino_telemetry, backend_ga4.py), from a process that it forks off; without that
package it does without. Import it from here.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from depthface.cores import Cores

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # "not installed" (docs.python.org, sys.modules)

import openvino  # noqa: E402

__all__ = ["MOST_OFF", "fixed", "off", "openvino", "options"]

MOST_OFF = 0.05
"""A static graph may be so far from the one for any shape, as `off` has it. In bf16 they round differently: depth's are
0.01 to 0.02 apart. With a wrong kernel it is far more: on AMX, OpenVINO 2026.4's graph of Depth Anything V2 Small for
14×70 pixels alone is 0.3 from the one for any shape, and as far from fp32."""


def options(*, is_bf16: bool) -> dict[str, str]:
    """Return what a network is compiled with on a CPU, wherever it is proven, timed or served."""
    return {
        # Said either way: OpenVINO's own default is bf16 wherever the processor has it.
        "INFERENCE_PRECISION_HINT": "bf16" if is_bf16 else "f32",
        "INFERENCE_NUM_THREADS": str(Cores.found().count),
        # Of what it prepares for a shape, which is 4 MB of depth's; its own default, 5000, keeps a hundred shapes.
        "CPU_RUNTIME_CACHE_CAPACITY": "1000",
        # Triton's other processes need the cores too.
        "ENABLE_CPU_PINNING": "NO",
    }


def fixed(model: Any, shapes: Mapping[str, Sequence[int]]) -> Any:
    """Return a network for these shapes of its inputs alone; its constants are those of `model`, in the same memory."""
    copy = model.clone()
    copy.reshape({name: [*shape] for name, shape in shapes.items()})
    return copy


def off(expected: Sequence[npt.NDArray[Any]], got: Sequence[npt.NDArray[Any]]) -> float:
    """Return how far outputs are from those expected: the norm of the difference over the norm, the worst of all.

    It is infinite where a shape differs, or a value is not finite.
    """
    return max(_off(*pair) for pair in zip(expected, got, strict=True))


def _off(expected: npt.NDArray[Any], got: npt.NDArray[Any]) -> float:
    if expected.shape != got.shape:
        return float("inf")
    a, b = expected.astype(np.float64), got.astype(np.float64)
    norm, difference = float(np.linalg.norm(a)), float(np.linalg.norm(a - b))
    if not np.isfinite(difference):
        return float("inf")
    return difference / norm if norm else float(difference and np.inf)
