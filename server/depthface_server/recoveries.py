"""How often the watchdog has restarted each model: a file, because a model's own process dies with its memory."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

__all__ = ["RECOVERIES", "add", "counted"]

RECOVERIES = "DEPTHFACE_RECOVERIES"
"""The variable that names the file to the server's models."""


def counted(path: Path) -> dict[str, int]:
    """Recoveries by model."""
    try:
        found: dict[str, int] = json.loads(path.read_text())
        return found
    except FileNotFoundError:
        return {}


def add(path: Path, model: str) -> None:
    """One more; the file is at every moment whole."""
    counts = counted(path)
    counts[model] = counts.get(model, 0) + 1
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".", delete=False) as file:
        json.dump(counts, file)
    Path(file.name).replace(path)
