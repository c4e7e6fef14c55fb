"""The errors that a client raises: see `depthface.errors`, where the whole tree is drawn."""

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
)

__all__ = [
    "ClientError",
    "DepthfaceError",
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
]
