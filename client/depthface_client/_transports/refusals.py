"""What a Triton says when it refuses or fails, as the errors of `depthface.errors`."""

from __future__ import annotations

import re

from depthface.admin import VARIABLE
from depthface.contract import NO_ROOM, NOT_SERVED, QUEUE_FULL, RESTRICTED, WAITED_TOO_LONG
from depthface.errors import (
    ClientError,
    DepthfaceError,
    InvalidInput,
    ModelUnavailable,
    NotAllowed,
    ServerFault,
    ServerOverloaded,
    decode,
)

__all__ = ["error_from_text"]

_NO_LOADING = "load / unload is not allowed"
_NO_OUTPUT = re.compile(r"unexpected inference output '([^']*)'")


def error_from_text(server: str, model: str | None, status: int, text: str) -> DepthfaceError:
    """Return the error that Triton's own text means.

    Args:
        server: how messages name it.
        model: that was asked, if one was.
        status: of HTTP, or of gRPC as HTTP has it.
        text: what Triton said.
    """
    ours = decode(text)
    if ours is not None:
        return ours
    if status == 403 or RESTRICTED in text:
        return NotAllowed(
            f"{server} lets only its operator do this.",
            f"Set {VARIABLE} to the server's admin key, or run the command as the server's user on its machine.",
        )
    if _NO_LOADING in text:
        return ModelUnavailable(
            f"{server} loads no model on demand.",
            "Start it with `depthface serve`, or with --model-control-mode=explicit.",
        )
    if WAITED_TOO_LONG in text:
        return ServerOverloaded(
            f"{server} had no time for this request: it waited too long in the queue.", "Send it again in a moment."
        )
    if status == 503 or QUEUE_FULL in text:
        return ServerOverloaded(
            f"{server} has as many requests waiting as it takes.", "Send this one again in a moment."
        )
    if any(sign in text for sign in NOT_SERVED):
        return ModelUnavailable(
            f"{server} does not serve {model or 'this model'} ({text}).",
            "See `depthface models` for what it serves, and `depthface export` to add to it.",
        )
    lacking = _NO_OUTPUT.search(text)
    if lacking:
        return InvalidInput(
            f"{model or 'The model'} does not offer {lacking[1]!r}: it was exported without a network for it.",
            "Ask for less, or take a model that has it (`depthface models`).",
        )
    if status == 400:
        return InvalidInput(f"{server} refused the request: {text}")
    return _fault(server, text)


def _fault(server: str, text: str) -> ClientError:
    if NO_ROOM in text:
        return ServerFault(
            f"{server} has too little shared memory for this request.",
            "Give its /dev/shm more (Docker: --shm-size=1g).",
        )
    return ServerFault(
        f"{server} failed while answering: {text.rstrip('.')}.", "Its log says more; the request may be sent again."
    )
