"""Every error depthface raises on purpose.

    DepthfaceError
    ├── InvalidInput            the request is wrong: the server answers 400
    │   ├── InvalidImage        the bytes are not a photo that can be used
    │   └── ImageTooLarge       a photo over the limits, refused before it is decoded
    ├── ExportError
    │   ├── LicenseNotAccepted
    │   ├── WeightsUnavailable  not at the place named, or the hub cannot be reached
    │   ├── WeightsCorrupt      size or sha256 is not what the card says
    │   ├── ParityError         the exported model does not compute what its reference does
    │   └── EngineError         TensorRT is not here, or cannot build an engine
    ├── MismatchError           an artefact is not what its manifest says, or belongs to another machine
    ├── ServeError              the embedded server cannot start or cannot go on
    └── ClientError             what `depthface_client` raises besides `InvalidInput`
        ├── ServerUnavailable
        ├── ModelUnavailable
        ├── NotAllowed          an operator's API, without the operator's key
        ├── ServerOverloaded
        ├── RequestTimeout
        └── ServerFault         the server failed inside: its fault, not the request's

Each message is one or two plain sentences: what is wrong, then how to mend it.

An `InvalidInput` travels from a step of the server to the client as text, `"<code>: <message>"`; `encode` and
`decode` are the two ends of that wire.
"""

from __future__ import annotations

__all__ = [
    "ClientError",
    "DepthfaceError",
    "EngineError",
    "ExportError",
    "ImageTooLarge",
    "InvalidImage",
    "InvalidInput",
    "LicenseNotAccepted",
    "MismatchError",
    "ModelUnavailable",
    "NotAllowed",
    "ParityError",
    "RequestTimeout",
    "ServeError",
    "ServerFault",
    "ServerOverloaded",
    "ServerUnavailable",
    "WeightsCorrupt",
    "WeightsUnavailable",
    "decode",
    "encode",
]


class DepthfaceError(Exception):
    """Base of all errors of depthface; its text says what is wrong and how to mend it.

    `request_id` is that of the request that a server refused or failed at, as in the server's log; else None.
    """

    request_id: str | None = None


class InvalidInput(DepthfaceError):
    """The request is wrong; sending it again changes nothing."""

    code = "invalid_input"


class InvalidImage(InvalidInput):
    """The bytes are not a photo that can be used."""

    code = "invalid_image"


class ImageTooLarge(InvalidInput):
    """The photo is over the limits; it was refused before it was decoded."""

    code = "image_too_large"


class ExportError(DepthfaceError):
    """An export stopped; the repository is as it was."""


class LicenseNotAccepted(ExportError):
    """The weights are not open and their licence was not accepted."""


class WeightsUnavailable(ExportError):
    """The weights are not where they should be, or the hub cannot be reached."""


class WeightsCorrupt(ExportError):
    """A weight file is not the one the card describes."""


class ParityError(ExportError):
    """The exported model does not compute what its reference computes."""


class EngineError(ExportError):
    """TensorRT or its GPU is not here, or it cannot build this network."""


class MismatchError(DepthfaceError):
    """An artefact is not the one its manifest describes, or an engine was built for another machine."""


class ServeError(DepthfaceError):
    """The embedded server cannot start or cannot go on."""


class ClientError(DepthfaceError):
    """A request to the server did not succeed."""


class ServerUnavailable(ClientError):
    """Nothing answers at the address, or the connection broke."""


class ModelUnavailable(ClientError):
    """The server answers, but does not serve this model."""


class NotAllowed(ClientError):
    """Only who has the server's admin key may do this (HTTP 403)."""


class ServerOverloaded(ClientError):
    """The server's queues are full, or the request waited in one too long (HTTP 503); safe to send again later."""


class RequestTimeout(ClientError):
    """No answer within the client's timeout."""


class ServerFault(ClientError):
    """The server failed inside while answering."""


_BY_CODE: dict[str, type[InvalidInput]] = {cls.code: cls for cls in (InvalidInput, InvalidImage, ImageTooLarge)}


def encode(error: InvalidInput) -> str:
    """The text a server step answers with."""
    return f"{error.code}: {error}"


def decode(text: str) -> InvalidInput | None:
    """The error that `encode` turned into `text`, wherever in it Triton has put it; None for any other text."""
    for code, cls in _BY_CODE.items():
        _, found, message = text.partition(f"{code}: ")
        if found:
            return cls(message)
    return None
