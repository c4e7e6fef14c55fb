"""The request that only asks whether a model's process lives: refused at once, before any work."""

from __future__ import annotations

from typing import Any

__all__ = ["ALIVE", "PROBE", "is_probe"]

PROBE = "depthface_probe"
"""The parameter that makes a request a probe."""

ALIVE = "alive"
"""What a live model refuses it with."""


def is_probe(request: Any) -> bool:
    """Whether a request of Triton's Python backend is a probe."""
    return f'"{PROBE}"' in request.parameters()
