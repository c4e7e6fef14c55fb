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
from depthface_gateway.jobs.claims import Claim
from depthface_gateway.jobs.media import MediaMissing, MediaUnavailable
from depthface_gateway.jobs.rests import EVERYTHING
from depthface_gateway.jobs.verdicts import OTHERS_FIRST_MS, Fate, Ruling, ruling, verdict
from depthface_gateway.triton import StillBusy
from depthface_server.supervisor import MOST_RESTARTS


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
        (StillBusy("full"), Fate.WAITS),
        (OSError(errno.ENOSPC, "No space left on device"), Fate.WAITS),
        (OSError(errno.EMFILE, "Too many open files"), Fate.WAITS),
        (OSError(errno.EROFS, "Read-only file system"), Fate.WAITS),
        (OSError(errno.EIO, "Input/output error"), Fate.AGAIN),
        (PermissionError(errno.EACCES, "Permission denied"), Fate.AGAIN),
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


def claim(attempts: int = 1, losses: int = 0) -> Claim:
    return Claim("job", "claim", "face_detection", "m", {}, attempts, 3, False, losses)


def test_what_failed_is_left_alone_by_all_who_need_it() -> None:
    """A try that fails at once, for all that come after it too, would use up the tries of a backlog in seconds."""
    of_a_task = (ServerFault("dead"), ModelUnavailable("not served"), MediaUnavailable("away"), OSError(errno.EIO, "?"))
    for error in of_a_task:
        assert ruling(claim(), error).rests == ruling(claim(attempts=4), error).rests == "face_detection"
    for error in (ServerUnavailable("away"), StillBusy("full"), OSError(errno.ENOSPC, "full")):
        assert ruling(claim(), error).rests == EVERYTHING
    assert ruling(claim(), InvalidImage("no photo")).rests is None


def test_each_further_try_comes_later_and_the_last_one_ends_the_job() -> None:
    delays_ms = [ruling(claim(attempts), ServerFault("broken")).delay_ms for attempts in (1, 2, 3)]
    assert delays_ms == [1000, 2000, 4000] and ruling(claim(2), ModelUnavailable("not served")).delay_ms == 10_000
    last = ruling(claim(4), ServerFault("It is broken."))
    assert (last.fate, last.message) == (Fate.ENDS, "It is broken. It was tried 4 times.")


def test_a_job_that_takes_the_server_with_it_lets_the_others_first_and_ends_at_last() -> None:
    """However often it is tried, `depthface serve` can start its Triton again."""
    away = ServerUnavailable("Triton is away.")
    first = Ruling(Fate.WAITS, "Triton is away.", EVERYTHING, delay_ms=0, is_loss=True)
    later = Ruling(Fate.WAITS, "Triton is away.", EVERYTHING, delay_ms=OTHERS_FIRST_MS, is_loss=True)
    assert [ruling(claim(losses=losses), away) for losses in range(4)] == [first, later, later, later]
    here = ServerUnavailable("No answer.")
    here.__cause__ = OSError(errno.EMFILE, "Too many open files")
    assert ruling(claim(losses=4), here) == Ruling(Fate.WAITS, "No answer.", EVERYTHING)
    last = ruling(claim(losses=4), away)
    assert last.fate is Fate.ENDS and f"at {MOST_RESTARTS} tries of this job" in last.message
