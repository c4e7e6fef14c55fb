"""The log: lines for people, or one JSON object a line.

An object has `time`, `level`, `source`, `message`, and what belongs to a request: `contract`, `method`, `path`,
`status`, `ms`, `request_id`.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime

__all__ = ["start"]

_FIELDS = ("contract", "method", "path", "status", "ms", "request_id")


_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class _Text(logging.Formatter):
    """Writes line breaks and other control characters as Python does, as callers' words with them could forge lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return _CONTROLS.sub(lambda found: repr(found[0])[1:-1], super().formatMessage(record))


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "source": record.name,
            "message": record.getMessage(),
        }
        entry |= {name: vars(record)[name] for name in _FIELDS if name in vars(record)}
        if record.exc_info:
            entry["trace"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def start(is_json: bool, level: str) -> None:
    """Log to standard error, from `level` (`debug`, `info`, `warning`, `error`, `critical`) on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if is_json else _Text("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("uvicorn.access").disabled = True  # the edge says more
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    logging.getLogger("python_multipart").setLevel(logging.WARNING)
