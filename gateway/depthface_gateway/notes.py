"""Small files of JSON in the data folder: what a contract must know after a restart, and no server tells."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from depthface.errors import OutputError
from depthface_client import outputs

__all__ = ["note", "noted"]

T = TypeVar("T")

_log = logging.getLogger(__name__)


def noted(path: Path, meant: Callable[[Any], T], nothing: T) -> T:
    """Return what a note says.

    Args:
        meant: makes of its JSON what is returned; it may raise whatever comes of JSON of another form.
        nothing: is returned where the note is not there, and where it cannot be read, which the log tells.
    """
    try:
        return meant(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return nothing
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        _log.warning("%s cannot be read (%s): what was known before this start is lost", path, error)
        return nothing


def note(path: Path, said: object) -> None:
    """Write a note; where that cannot be, the log says so."""
    try:
        outputs.write(path, json.dumps(said, indent=1).encode())
    except OutputError as error:
        _log.warning("%s Once the gateway starts anew, it does not know what it knows now.", error.what)
