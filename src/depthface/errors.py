"""Every error depthface raises on purpose.

    DepthfaceError
    ├── InvalidInput            the request is wrong: the server answers 400
    │   ├── InvalidImage        the bytes are not a photo that can be used
    │   ├── ImageTooLarge       a photo over the limits, refused before it is decoded
    │   └── NoFaceFound         what was asked needs a face, and there is none in the photo
    ├── ExportError
    │   ├── LicenseNotAccepted
    │   ├── WeightsUnavailable  not at the place named, or the hub cannot be reached
    │   ├── WeightsCorrupt      size or sha256 is not what the card says
    │   ├── ParityError         the exported model does not compute what its reference does
    │   └── EngineError         TensorRT is not here, or cannot build an engine
    ├── ConfigError             a config of the repository cannot be read, or not be changed as wished
    ├── MismatchError           an artefact is not what its manifest says, or belongs to another machine
    ├── OutputError             a result cannot be written where it should be
    ├── ServeError              the embedded server cannot start or cannot go on
    └── ClientError             what `depthface_client` raises besides `InvalidInput`
        ├── ServerUnavailable
        ├── ModelUnavailable
        ├── NotAllowed          an operator's API, without the operator's key
        ├── ServerOverloaded
        ├── RequestTimeout
        └── ServerFault         the server failed inside: its fault, not the request's

Each says what is wrong and how to mend it, in one plain sentence each, and the HTTP status that it has or would have.

An `InvalidInput` travels from a step of the server to the client as text, `"<code>: <what> <remedy>"`, with a no-break
space between its two sentences; `encode` and `decode` are the two ends of that wire.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "ClientError",
    "ConfigError",
    "DepthfaceError",
    "EngineError",
    "ExportError",
    "ImageTooLarge",
    "InvalidImage",
    "InvalidInput",
    "LicenseNotAccepted",
    "MismatchError",
    "ModelUnavailable",
    "NoFaceFound",
    "NotAllowed",
    "OutputError",
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
    """Base of all errors of depthface.

    Args:
        what: what is wrong, a sentence.
        remedy: how to mend it, a sentence; empty where `what` says it too.

    Attributes:
        status: the HTTP status that says the same.
        request_id: that of the request that a server refused or failed at, as in the server's log; else None.
    """

    status: ClassVar[int] = 500
    request_id: str | None = None

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what, remedy)
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        tag = f"[request {self.request_id}]" if self.request_id else ""
        return " ".join(part for part in (self.what, self.remedy, tag) if part)


class InvalidInput(DepthfaceError):
    """The request is wrong; sending it again changes nothing."""

    status = 400
    code: ClassVar[str] = "invalid_input"


class InvalidImage(InvalidInput):
    """The bytes are not a photo that can be used."""

    code = "invalid_image"


class ImageTooLarge(InvalidInput):
    """The photo is over the limits; it was refused before it was decoded."""

    status = 413
    code = "image_too_large"


class NoFaceFound(InvalidInput):
    """What was asked needs a face, and there is none in the photo."""

    code = "no_face_found"


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


class ConfigError(DepthfaceError):
    """A config of the repository cannot be read, or cannot be changed as wished."""


class MismatchError(DepthfaceError):
    """An artefact is not the one its manifest describes, or an engine was built for another machine."""


class OutputError(DepthfaceError):
    """A result cannot be written where it should be; nothing of it is left there."""


class ServeError(DepthfaceError):
    """The embedded server cannot start or cannot go on."""


class ClientError(DepthfaceError):
    """A request to the server did not succeed."""


class ServerUnavailable(ClientError):
    """No depthface server answers at the address, or the connection broke."""

    status = 502


class ModelUnavailable(ClientError):
    """The server answers, but does not serve this model."""

    status = 404


class NotAllowed(ClientError):
    """The server lets only its operator do this (HTTP 403), or something before it asks for a login (HTTP 401)."""

    status = 403


class ServerOverloaded(ClientError):
    """The server's queues are full, or the request waited in one too long (HTTP 503); safe to send again later."""

    status = 503


class RequestTimeout(ClientError):
    """No answer within the client's timeout."""

    status = 504


class ServerFault(ClientError):
    """The server failed inside while answering."""


_BY_CODE: dict[str, type[InvalidInput]] = {
    cls.code: cls for cls in (InvalidInput, InvalidImage, ImageTooLarge, NoFaceFound)
}


_JOINT = "\N{NO-BREAK SPACE}"
"""Reads as a space to whoever asks without our client, and stands in no sentence of ours."""


def encode(error: InvalidInput) -> str:
    """Return the text that a server's model answers with."""
    return f"{error.code}: {_JOINT.join(part for part in (error.what, error.remedy) if part)}"


def decode(text: str) -> InvalidInput | None:
    """Return the error that `encode` turned into `text`, wherever in it Triton has put it; None for any other text."""
    for code, cls in _BY_CODE.items():
        _, found, message = text.partition(f"{code}: ")
        if found:
            what, _, remedy = message.partition(_JOINT)
            return cls(what, remedy)
    return None
