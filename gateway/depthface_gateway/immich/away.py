"""What was unloaded here, noted on the disk: Triton tells nothing of it, and who starts anew must know it too."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from depthface.errors import OutputError
from depthface_client import ModelInfo, outputs

__all__ = ["note", "noted"]

_log = logging.getLogger(__name__)


def noted(path: Path) -> dict[str, ModelInfo]:
    """Return the models of a note, by name; none where it is not there, or cannot be read."""
    try:
        return {model.name: model for model in map(_model, json.loads(path.read_bytes()))}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError) as error:
        _log.warning("%s cannot be read (%s): what was unloaded before is not known", path, error)
        return {}


def note(path: Path, models: Mapping[str, ModelInfo]) -> None:
    """Write these models to a note; where that cannot be, the log says so."""
    try:
        outputs.write(path, json.dumps([asdict(model) for model in models.values()], indent=1).encode())
    except OutputError as error:
        _log.warning("%s Once the gateway starts anew, what is unloaded now is not known.", error.what)


def _model(fields: dict[str, Any]) -> ModelInfo:
    return ModelInfo(**fields | {name: tuple(fields[name]) for name in ("inputs", "outputs")} | {"ready": False})
