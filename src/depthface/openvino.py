"""OpenVINO, kept from reporting home.

Its import sends usage statistics (openvino_telemetry, backend_ga4.py), from a process that it forks off; without that
package it does without. Import it from here.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # "not installed" (docs.python.org, sys.modules)

import openvino  # noqa: E402

__all__ = ["fixed", "openvino"]


def fixed(model: Any, shapes: Mapping[str, Sequence[int]]) -> Any:
    """Return a network for these shapes of its inputs alone; its constants are those of `model`, in the same memory."""
    copy = model.clone()
    copy.reshape({name: [*shape] for name, shape in shapes.items()})
    return copy
