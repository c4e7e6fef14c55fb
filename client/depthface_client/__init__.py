"""The Python SDK of depthface: numpy, Pillow and tritonclient, and nothing heavier."""

from depthface.families.depth_anything_v2.result import Depth
from depthface.families.insightface.result import SAME_PERSON_SIMILARITY, Comparison, Face
from depthface_client.aio import AsyncClient
from depthface_client.client import Client, ModelInfo
from depthface_client.errors import (
    ClientError,
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
    "SAME_PERSON_SIMILARITY",
    "AsyncClient",
    "Client",
    "ClientError",
    "Comparison",
    "Depth",
    "Face",
    "ImageTooLarge",
    "InvalidImage",
    "InvalidInput",
    "ModelInfo",
    "ModelUnavailable",
    "NoFaceFound",
    "NotAllowed",
    "RequestTimeout",
    "ServerFault",
    "ServerOverloaded",
    "ServerUnavailable",
]
