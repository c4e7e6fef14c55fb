"""How `depthface serve` says what happens: text for people, or one JSON object a line for programs.

The modules log with the standard library; here alone a record becomes a line. In JSON, Triton's own log is said along
with it. Every object has `time` (UTC), `level`, `source` (`serve` or the file and line in Triton) and `message`; what a
step logs brings its own fields, such as `event`, `model`, `request_id`. A line that comes again and again is said once,
with how many `times`. Triton's file is kept short.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from itertools import groupby, pairwise
from pathlib import Path
from typing import BinaryIO

from depthface_server.beside import beside

__all__ = ["KEPT", "as_object", "bounded", "follow", "keep", "rendering"]

LOGGER = "depthface_server"
"""Above the loggers of all modules here."""

_LEVELS = {"I": "info", "W": "warning", "E": "error", "F": "fatal", "V": "debug"}

# `I1121 05:10:23.842338 27682 model.py:27] "…"`: level, month and day, UTC, process, source, JSON string or bare text.
_LINE = re.compile(r"([IWEFV])(\d\d)(\d\d) ([\d:.]+) \d+ ([^\]]+)\] (.*)", re.DOTALL)

KEPT = 5
"""Logs of before that are kept beside Triton's: `….log.1` is the latest of them."""

_MOST_BYTES = 16 * 2**20
"""Of a log: in a container it may lie in memory."""

_BOUND_EVERY_S = 1.0
"""A library that fails in a loop writes 20 MiB and more a second."""

_INTERVAL_S = 0.2

_triton = logging.getLogger(f"{LOGGER}.triton")


class _Renderer(logging.Handler):
    """Says records with `echo`, which takes a text and click's styles."""

    def __init__(self, is_json: bool, echo: Callable[..., None]) -> None:
        super().__init__()
        self._is_json = is_json
        self._echo = echo

    def emit(self, record: logging.LogRecord) -> None:
        """Say one record, if anybody takes it: a closed terminal, or a pipe whose other end has gone, ends nothing."""
        with suppress(Exception):
            self._say(record)

    def _say(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if self._is_json:
            time = datetime.fromtimestamp(record.created, UTC).isoformat()
            fields = {"time": time, "level": record.levelname.lower(), "source": "serve", "message": message}
            self._echo(json.dumps(getattr(record, "entry", fields)))
        elif record.levelno >= logging.WARNING:
            self._echo(message, fg="red", bold=True)
        else:
            self._echo(message)


@contextmanager
def rendering(is_json: bool, echo: Callable[..., None]) -> Iterator[None]:
    """Say what this package logs while the block runs: from INFO on, or from a lower level that the logger has."""
    logger, renderer = logging.getLogger(LOGGER), _Renderer(is_json, echo)
    level, propagates = logger.level, logger.propagate
    logger.addHandler(renderer)
    logger.setLevel(min(level, logging.INFO) or logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(renderer)
        logger.setLevel(level)
        logger.propagate = propagates


def keep(log: Path, latest: Path) -> None:
    """Make `latest`, if it is there, the first of those before a log; they go one number on, and the last goes."""
    places = [latest, *(log.with_name(f"{log.name}.{number}") for number in range(1, KEPT + 1))]
    for newer, older in reversed([*pairwise(places)]):
        if newer.exists():
            newer.replace(older)


def bounded(log: Path) -> AbstractContextManager[None]:
    """Keep a log from growing without end while the block runs; its writer only appends, and has it open."""
    return beside(partial(_bound, log), "log's length")


def _bound(log: Path, stop: threading.Event) -> None:
    while not stop.wait(_BOUND_EVERY_S):
        try:
            if log.stat().st_size > _MOST_BYTES:
                _begin_anew(log)
        except OSError as error:
            logging.getLogger(LOGGER).error("%s cannot be kept short: %s", log, error)


def _begin_anew(log: Path) -> None:
    """Empty a log that is open elsewhere; a copy of its beginning becomes the first of those before, if there is room.

    If it has grown further than it may, what went wrong stands before what was repeated.
    """
    copy = log.with_name(f"{log.name}.copy")
    try:
        with log.open("rb") as whole, copy.open("wb") as part:
            part.write(whole.read(_MOST_BYTES))
    except OSError:
        copy.unlink(missing_ok=True)
    else:
        keep(log, copy)
    os.truncate(log, 0)


def follow(path: Path) -> AbstractContextManager[None]:
    """Log what Triton writes to its log while the block runs, also to a new file that takes the old one's place."""
    return beside(partial(_follow, path, path.open("rb")), "log")


def _follow(path: Path, file: BinaryIO, stop: threading.Event) -> None:
    rest = b""
    try:
        while True:
            is_last = stop.is_set()
            is_left = _is_another(path, file)
            if os.fstat(file.fileno()).st_size < file.tell():  # it was begun anew, and goes on with another line
                file.seek(0)
                rest += b"\n"
            *lines, rest = (rest + file.read()).split(b"\n")
            if is_left or is_last:
                lines, rest = [*lines, rest], b""
            for raw, same in groupby(filter(bytes.strip, lines)):
                line, times = raw.decode(errors="replace"), len([*same])
                entry = as_object(line, datetime.now(UTC)) | ({"times": times} if times > 1 else {})
                _triton.info("%s", line, extra={"entry": entry})
            if is_left:
                file.close()
                file = path.open("rb")
            elif is_last:
                return
            stop.wait(_INTERVAL_S)
    finally:
        file.close()


def _is_another(path: Path, file: BinaryIO) -> bool:
    """Whether the file at the path is not the one that is open any more."""
    try:
        return not os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except OSError:
        return False


def as_object(line: str, now: datetime) -> dict[str, object]:
    """Return a line of Triton's log as an object; what is none (a library's own output) becomes the message of one."""
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
    """Return the text of a line: Triton writes it as a JSON string, and a step writes a JSON object into that."""
    message: object = text
    try:
        message = json.loads(text)
        fields = json.loads(str(message))
    except ValueError:
        fields = None
    return fields if isinstance(fields, dict) else {"message": message}
