"""Whatever goes wrong underneath, as the errors of `depthface.errors`: the one seam to tritonclient's own.

InvalidInput            the request is wrong; sending it again changes nothing
├── InvalidImage        not a photo that can be used
├── ImageTooLarge
└── NoFaceFound         two faces were to be compared and a photo has none
ClientError
├── ServerUnavailable   nothing answers, or the connection broke
├── ModelUnavailable    the server does not serve this model
├── NotAllowed          only who has the server's admin key may do this
├── ServerOverloaded    its queues are full; safe to send again later
├── RequestTimeout
└── ServerFault         the server failed inside
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from tritonclient.utils import InferenceServerException

from depthface.admin import VARIABLE
from depthface.errors import (
    ClientError,
    DepthfaceError,
    ImageTooLarge,
    InvalidImage,
    InvalidInput,
    ModelUnavailable,
    NoFaceFound,
    NotAllowed,
    RequestTimeout,
    ServerFault,
    ServerOverloaded,
    ServerUnavailable,
    decode,
)

__all__ = [
    "ClientError",
    "ImageTooLarge",
    "InvalidImage",
    "InvalidInput",
    "ModelUnavailable",
    "NoFaceFound",
    "NotAllowed",
    "RequestTimeout",
    "ServerFault",
    "ServerOverloaded",
    "ServerUnavailable",
    "translated",
]


_RESTRICTED = "API is restricted"
_NO_LOADING = "load / unload is not allowed"
_NO_OUTPUT = re.compile(r"unexpected inference output '([^']*)'")

# What Triton says of a model that is not served, whatever the HTTP status.
_NO_MODEL = (
    "failed to load",
    "unknown model",
    "is not found",
    "is not ready",
    "not at ready state",
    "has no available versions",
)


@contextmanager
def translated(
    url: str, model: str | None = None, timeout_s: float | None = None, request_id: str | None = None
) -> Iterator[None]:
    """Run a call to the server; raise this package's errors for whatever it raises.

    With a `request_id` the errors carry it, and their text ends with it.
    """
    try:
        yield
    except DepthfaceError:
        raise
    except Exception as error:
        ours = _ours(error, url, model, timeout_s)
        if ours is None:
            raise
        raise _with_id(ours, request_id) from error


def _ours(error: Exception, url: str, model: str | None, timeout_s: float | None) -> DepthfaceError | None:
    if isinstance(error, InferenceServerException):
        return _from_server(error, url, model)
    if isinstance(error, TimeoutError):
        return RequestTimeout(
            f"{url} did not answer within {timeout_s:g} s. It may be busy: try again, or give the client a longer "
            "timeout_s."
        )
    # gevent's and aiohttp's own classes for a broken connection share no base class that is worth importing.
    if isinstance(error, OSError | EOFError) or type(error).__module__.partition(".")[0] in (
        "geventhttpclient", "aiohttp", "gevent",
    ):  # fmt: skip
        return _unreachable(url, error)
    return None


def _with_id(error: DepthfaceError, request_id: str | None) -> DepthfaceError:
    if request_id is None:
        return error
    error.request_id = request_id
    return error


def _from_server(error: InferenceServerException, url: str, model: str | None) -> DepthfaceError:
    text, status = str(error.message()), str(error.status())
    ours = decode(text)
    if ours is not None:
        return ours
    if "403" in status or _RESTRICTED in text:
        return NotAllowed(
            f"{url} lets only its operator do this. Set {VARIABLE} to the server's admin key, or run the command as "
            "the server's user on its machine."
        )
    if _NO_LOADING in text:
        return ModelUnavailable(
            f"{url} loads no model on demand. Start it with `depthface serve`, or with --model-control-mode=explicit."
        )
    if "timeout expired" in text:
        return ServerOverloaded(f"{url} did not come to this request in time. Send it again in a moment.")
    if "503" in status or "maximum queue size" in text:
        return ServerOverloaded(f"{url} has as many requests waiting as it takes. Send this one again in a moment.")
    if any(sign in text for sign in _NO_MODEL):
        return ModelUnavailable(
            f"{url} does not serve {model or 'this model'} ({text}). See `depthface models` for what it serves, and "
            "`depthface export` to add to it."
        )
    lacking = _NO_OUTPUT.search(text)
    if lacking:
        return InvalidInput(
            f"{model or 'The model'} does not offer {lacking[1]!r}: it was exported without a network for it. Ask for "
            "less, or take a model that has it (`depthface models`)."
        )
    if "400" in status or "404" in status:
        return InvalidInput(f"{url} refused the request: {text}")
    if "shared memory pool" in text:
        return ServerFault(
            f"{url} has too little shared memory for this request. Give its /dev/shm more (Docker: --shm-size=1g)."
        )
    said = text.rstrip(".")
    return ServerFault(f"{url} failed while answering: {said}. Its log says more; the request may be sent again.")


def _unreachable(url: str, error: Exception) -> ServerUnavailable:
    reason = str(error).strip() or type(error).__name__
    return ServerUnavailable(
        f"No answer from {url} ({reason}). Start one with `depthface serve`, or give the address of one that runs."
    )
