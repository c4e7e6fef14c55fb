"""The Python SDK of depthface: numpy, Pillow and tritonclient, and nothing heavier.

Each name is imported when it is first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
    from depthface.tasks.depth import Depth
    from depthface.tasks.embedding import Classification, Embedding
    from depthface.tasks.faces import SAME_PERSON_SIMILARITY, Comparison, Face
    from depthface_client._methods import ModelInfo
    from depthface_client.aio import AsyncClient
    from depthface_client.client import Client

__all__ = [
    "SAME_PERSON_SIMILARITY",
    "AsyncClient",
    "Classification",
    "Client",
    "ClientError",
    "Comparison",
    "Depth",
    "DepthfaceError",
    "Embedding",
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

_HOMES = {
    "depthface.tasks.depth": ("Depth",),
    "depthface.tasks.embedding": ("Classification", "Embedding"),
    "depthface.tasks.faces": ("SAME_PERSON_SIMILARITY", "Comparison", "Face"),
    "depthface_client._methods": ("ModelInfo",),
    "depthface_client.aio": ("AsyncClient",),
    "depthface_client.client": ("Client",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_HOME_OF.get(name, "depthface.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
