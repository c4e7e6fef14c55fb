"""What was unloaded here, noted on the disk: Triton tells nothing of it, and who starts anew must know it too."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from depthface_client import ModelInfo
from depthface_gateway import notes

__all__ = ["note", "noted"]


def noted(path: Path) -> dict[str, ModelInfo]:
    """Return the models of a note, by name."""
    return notes.noted(path, lambda rows: {model.name: model for model in map(_model, rows)}, {})


def note(path: Path, models: Mapping[str, ModelInfo]) -> None:
    """Write these models to a note."""
    notes.note(path, [dataclasses.asdict(model) for model in models.values()])


def _model(fields: dict[str, Any]) -> ModelInfo:
    known = {one.name: fields[one.name] for one in dataclasses.fields(ModelInfo) if one.name in fields}  # not a newer's
    return ModelInfo(**known | {name: tuple(fields[name]) for name in ("inputs", "outputs")} | {"ready": False})
