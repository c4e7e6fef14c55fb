"""How often each model, and the server itself, was started again: told to the models, which die with their counts."""

from __future__ import annotations

import json
import os
from pathlib import Path

__all__ = ["RECOVERIES", "RESTARTS", "add", "of_model", "read", "restarts"]

RECOVERIES = "DEPTHFACE_RECOVERIES"
"""The variable that names the file to the server's models."""

RESTARTS = "DEPTHFACE_RESTARTS"
"""The variable that tells them how often `depthface serve` has started Triton again."""


def of_model(model: str) -> int:
    """Return a model's recoveries, as its own process knows them."""
    path = os.environ.get(RECOVERIES)
    return read(Path(path)).get(model, 0) if path else 0


def restarts() -> int:
    """Return the server's restarts, as a model's process knows them."""
    return int(os.environ.get(RESTARTS) or 0)


def read(path: Path) -> dict[str, int]:
    """Return the recoveries by model."""
    try:
        counts: dict[str, int] = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    return counts


def add(path: Path, model: str) -> None:
    """Increment the model's count; the file is replaced atomically."""
    counts = read(path)
    counts[model] = counts.get(model, 0) + 1
    new = path.with_name(f".{path.name}.new")
    try:
        new.write_text(json.dumps(counts))
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
