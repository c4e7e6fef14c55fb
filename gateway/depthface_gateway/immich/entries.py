"""What immich's server asks for: task → type → model and options, as JSON in the form field `entries`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from depthface.errors import InvalidInput

__all__ = ["CLIP", "FACES", "OCR", "Entry", "InvalidEntries", "UnknownEntries", "cleaned", "parsed"]

CLIP, FACES, OCR = "clip", "facial-recognition", "ocr"

_TASKS = (CLIP, FACES, OCR)
_TYPES = ("visual", "textual", "detection", "recognition", "pipeline")
_NEEDS = {"recognition": "detection"}


class InvalidEntries(InvalidInput):
    """`entries` is not what immich sends."""

    status = 422

    def __init__(self) -> None:
        super().__init__("Invalid request format.")


class UnknownEntries(InvalidEntries):
    """`entries` is JSON, and not of the tasks, types and fields that are known here: an immich of later may send it."""


@dataclass(frozen=True)
class Entry:
    """One model of one task.

    Attributes:
        task: `clip`, `facial-recognition` or `ocr`.
        type: `visual`, `textual`, `detection`, `recognition` or `pipeline`.
        model: its name, cleaned.
        options: such as `minScore` or `language`.
    """

    task: str
    type: str
    model: str
    options: Mapping[str, Any]

    def number(self, name: str, default: float) -> float:
        """Return an option that is a number; raises `InvalidEntries` if it is none."""
        value = self.options.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidEntries
        try:
            return float(value)
        except OverflowError as error:
            raise InvalidEntries from error


def parsed(text: str) -> list[Entry]:
    """Return the entries.

    Raises:
        InvalidEntries: the text is no JSON.
        UnknownEntries: it is, but not of that form.
        InvalidInput: a type is asked without the one that it needs.
    """
    try:
        asked = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidEntries from error
    try:
        entries = [
            Entry(task, type, cleaned(facts["modelName"]), facts.get("options") or {})
            for task, types in asked.items()
            for type, facts in types.items()
        ]
        is_sound = all(
            entry.task in _TASKS and entry.type in _TYPES and isinstance(entry.options, dict) for entry in entries
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise UnknownEntries from error
    if not is_sound or not entries:
        raise UnknownEntries
    there = {(entry.task, entry.type) for entry in entries}
    for entry in entries:
        needed = _NEEDS.get(entry.type)
        if needed and (entry.task, needed) not in there:
            raise InvalidInput(f"{entry.task} {entry.type} needs {needed}.", "Ask for both.")
    return entries


def cleaned(name: str) -> str:
    """Return a model's name as immich itself looks for it: without folder and dots; colon and backslash as `_`."""
    if not isinstance(name, str):
        raise TypeError(name)
    return name.rpartition("/")[2].translate({ord(":"): "_", ord("\\"): "_", ord("."): None})
