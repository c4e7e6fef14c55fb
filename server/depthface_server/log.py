"""What `depthface serve` says: text for people, or one JSON object a line for programs.

In JSON, Triton's own log is said along with it. Every object has `time` (UTC), `level`, `source` (`serve` or the file
and line in Triton) and `message`; what a step logs brings its own fields, such as `event`, `model`, `request_id`.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

__all__ = ["Log", "as_object"]

_LEVELS = {"I": "info", "W": "warning", "E": "error", "F": "fatal", "V": "debug"}

# `I1121 05:10:23.842338 27682 model.py:27] "…"`: level, month and day, UTC, process, source, JSON string or bare text.
_LINE = re.compile(r"([IWEFV])(\d\d)(\d\d) ([\d:.]+) \d+ ([^\]]+)\] (.*)", re.DOTALL)

_INTERVAL_S = 0.2


class Log:
    """Says things with `echo`, which takes a text and click's styles."""

    def __init__(self, is_json: bool, echo: Callable[..., None]) -> None:
        self._is_json = is_json
        self._echo = echo
        self._lock = threading.Lock()

    def say(self, message: str) -> None:
        """Something for information."""
        self._tell("info", message)

    def warn(self, message: str) -> None:
        """Something that nobody should overlook."""
        self._tell("warning", message, fg="red", bold=True)

    @contextmanager
    def following(self, path: Path) -> Iterator[None]:
        """Say what Triton writes to its log meanwhile; in text it stays in the file alone."""
        if not self._is_json:
            yield
            return
        stop = threading.Event()
        thread = threading.Thread(target=self._follow, args=(path, stop), name="log", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _tell(self, level: str, message: str, **style: object) -> None:
        if self._is_json:
            self._emit({"time": _now().isoformat(), "level": level, "source": "serve", "message": message})
        else:
            self._echo(message, **style)

    def _emit(self, entry: dict[str, object]) -> None:
        with self._lock:
            self._echo(json.dumps(entry))

    def _follow(self, path: Path, stop: threading.Event) -> None:
        rest = ""
        with path.open(errors="replace") as file:
            while True:
                is_last = stop.is_set()
                *lines, rest = (rest + file.read()).split("\n")
                for line in lines:
                    if line.strip():
                        self._emit(as_object(line, _now()))
                if is_last:
                    return
                time.sleep(_INTERVAL_S)


def as_object(line: str, now: datetime) -> dict[str, object]:
    """A line of Triton's log; what is none (a table, a library's own output) becomes the message of one."""
    match = _LINE.fullmatch(line)
    if match is None:
        return {"time": now.isoformat(), "level": "info", "source": "triton", "message": line}
    level, month, day, clock, source, text = match.groups()
    year = now.year - (int(month) > now.month)  # Triton does not say; a line of December may be read in January
    return {
        "time": f"{year}-{month}-{day}T{clock}+00:00",
        "level": _LEVELS[level],
        "source": source,
        **_fields(text),
    }


def _fields(text: str) -> dict[str, object]:
    """The text of a line: Triton writes it as a JSON string, and what a step writes into that is a JSON object."""
    message: object = text
    try:
        message = json.loads(text)
        fields = json.loads(str(message))
    except ValueError:
        fields = None
    return fields if isinstance(fields, dict) else {"message": message}


def _now() -> datetime:
    return datetime.now(UTC)
