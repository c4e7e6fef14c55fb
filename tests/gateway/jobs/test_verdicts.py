"""What becomes of a job after each error."""

from __future__ import annotations

import errno
import os

import pytest
from sqlalchemy.exc import OperationalError

from depthface.errors import (
    DepthfaceError,
    ImageTooLarge,
    InvalidImage,
    ModelUnavailable,
    OutputError,
    RequestTimeout,
    ServerFault,
    ServerOverloaded,
    ServerUnavailable,
)
from depthface_gateway.jobs.media import MediaMissing, MediaUnavailable
from depthface_gateway.jobs.worker import Fate, verdict


def unwritten(number: int) -> OutputError:
    """What the renderer raises where its file cannot be written: it names the file."""
    error = OutputError("/secret/clip.mp4 cannot be written.")
    error.__cause__ = OSError(number, os.strerror(number), "/secret/clip.mp4")
    return error


@pytest.mark.parametrize(
    ("error", "fate"),
    [
        (InvalidImage("no photo"), Fate.ENDS),
        (ImageTooLarge("too large"), Fate.ENDS),
        (MediaMissing("gone"), Fate.ENDS),
        (ServerUnavailable("away"), Fate.WAITS),
        (ServerOverloaded("full"), Fate.WAITS),
        (OSError(errno.ENOSPC, "No space left on device"), Fate.WAITS),
        (PermissionError(errno.EACCES, "Permission denied"), Fate.WAITS),
        (unwritten(errno.ENOSPC), Fate.WAITS),
        (unwritten(errno.EDQUOT), Fate.WAITS),
        (unwritten(errno.ENOENT), Fate.AGAIN),
        (OutputError("secret cannot be written."), Fate.AGAIN),
        (OSError("encoder error -2"), Fate.AGAIN),
        (RequestTimeout("late"), Fate.AGAIN),
        (ServerFault("broken"), Fate.AGAIN),
        (ModelUnavailable("not served"), Fate.AGAIN),
        (MediaUnavailable("away"), Fate.AGAIN),
        (DepthfaceError("?"), Fate.AGAIN),
        (RuntimeError("?"), Fate.AGAIN),
        (MemoryError(), Fate.AGAIN),
        (OperationalError("SELECT 1", {}, Exception("secret")), Fate.UNKNOWN),
    ],
)
def test_what_becomes_of_a_job_after_each_error(error: Exception, fate: Fate) -> None:
    found, message = verdict(error)
    assert found is fate and "secret" not in message
