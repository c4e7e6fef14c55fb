"""The Python SDK of depthface: numpy, Pillow and tritonclient, and nothing heavier."""

from depthface.families.depth_anything_v2.result import Depth
from depthface_client.aio import AsyncClient
from depthface_client.client import Client, ModelInfo
from depthface_client.errors import (
    ClientError,
    ImageTooLarge,
    InvalidImage,
    InvalidInput,
    ModelUnavailable,
    RequestTimeout,
    ServerFault,
    ServerOverloaded,
    ServerUnavailable,
)

__all__ = [
    "AsyncClient",
    "Client",
    "ClientError",
    "Depth",
    "ImageTooLarge",
    "InvalidImage",
    "InvalidInput",
    "ModelInfo",
    "ModelUnavailable",
    "RequestTimeout",
    "ServerFault",
    "ServerOverloaded",
    "ServerUnavailable",
]
