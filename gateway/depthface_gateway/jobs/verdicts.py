"""What becomes of a job whose try failed.

A bad photo ends it. A server or a disk that is not there now puts it back where it was, uncounted. Whatever else may
pass is tried again, later and later, and then given up. So is a job that takes the server with it, try after try.
"""

from __future__ import annotations

import enum
import errno
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from depthface.errors import (
    DepthfaceError,
    InvalidInput,
    ModelUnavailable,
    OutputError,
    ServerOverloaded,
    ServerUnavailable,
)
from depthface_gateway.jobs.claims import Claim
from depthface_gateway.jobs.rests import EVERYTHING
from depthface_gateway.jobs.results import StoreAway
from depthface_gateway.triton import StillBusy

__all__ = ["OTHERS_FIRST_MS", "Fate", "Ruling", "ruling", "verdict"]

_MODEL_PATIENCE = 5  # times the backoff: a model that is loaded anew takes a while

_MOST_LOSSES = 5
"""As often does `depthface serve` start a Triton again that died, within ten minutes."""

OTHERS_FIRST_MS = 10_000
"""So long nobody takes a job that may be what takes the server with it."""

_OF_THE_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""What no job can help, and none can be done with. Of others, such as EIO, one job's folder may be the cause; where the
folder of all jobs fails too, it is `StoreAway`."""


class Fate(enum.Enum):
    """What becomes of a job whose try failed."""

    ENDS = "error"
    AGAIN = "retry"
    WAITS = "requeued"
    UNKNOWN = "unknown"  # the database does not answer: the lease will run out


@dataclass(frozen=True)
class Ruling:
    """What is to be done.

    Attributes:
        fate: of the job.
        message: what its owner is told.
        rests: what is left alone for a while: `EVERYTHING`, or a task; None for nothing.
        delay_ms: nobody takes the job for so long.
        is_loss: whether the server was lost during this try.
    """

    fate: Fate
    message: str
    rests: str | None = None
    delay_ms: int = 0
    is_loss: bool = False


def ruling(claim: Claim, error: BaseException) -> Ruling:
    """Return what is to be done after this error, by what has come of the job's tries so far."""
    fate, message = verdict(error)
    if isinstance(error, ServerUnavailable) and not _is_of_the_machine(error):
        return _loss(claim, message)
    if fate is Fate.WAITS:
        return Ruling(fate, message, EVERYTHING)
    if fate is not Fate.AGAIN:
        return Ruling(fate, message)
    if claim.attempts > claim.max_retries:
        return Ruling(Fate.ENDS, f"{message} It was tried {claim.attempts} times.", claim.task_type)
    patience = _MODEL_PATIENCE if isinstance(error, ModelUnavailable) else 1
    return Ruling(fate, message, claim.task_type, delay_ms=patience * claim.backoff_ms)


def verdict(error: BaseException) -> tuple[Fate, str]:
    """Return what an error alone asks for, and what the job's owner is told."""
    match error:
        case InvalidInput():
            return Fate.ENDS, str(error)
        case ServerUnavailable() | ServerOverloaded() | StillBusy():
            return Fate.WAITS, str(error)
        case OutputError(__cause__=OSError() as cause) if cause.errno in _OF_THE_MACHINE:
            return verdict(cause)
        case OutputError():  # its own words name a path of this machine
            return Fate.AGAIN, "The job's files cannot be written; the worker's log says why."
        case DepthfaceError():
            return Fate.AGAIN, str(error)
        case SQLAlchemyError():
            return Fate.UNKNOWN, ""
        case StoreAway():
            return Fate.WAITS, "The folder for the jobs' files cannot be used now; the worker's log says why."
        case OSError() if error.errno is not None:  # Pillow has some without, of what it cannot write
            reason = error.strerror or type(error).__name__
            fate = Fate.WAITS if error.errno in _OF_THE_MACHINE else Fate.AGAIN
            return fate, f"The job's files cannot be written or read now ({reason})."
        case _:
            return Fate.AGAIN, "The worker failed; its log says why."


def _is_of_the_machine(error: BaseException | None) -> bool:
    """Return whether it is for want of something here that nobody could be asked."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
            return True
        error = error.__cause__
    return False


def _loss(claim: Claim, message: str) -> Ruling:
    """Of a try during which the server was lost: no job is begun while none is there.

    The first time it may be anybody's fault, and the job keeps its place. From the second on the others come first.
    """
    losses = claim.losses + 1
    if losses >= _MOST_LOSSES:
        said = f"{message} That was so at {losses} tries of this job, which may be the cause."
        return Ruling(Fate.ENDS, said, EVERYTHING)
    return Ruling(Fate.WAITS, message, EVERYTHING, delay_ms=OTHERS_FIRST_MS if claim.losses else 0, is_loss=True)
