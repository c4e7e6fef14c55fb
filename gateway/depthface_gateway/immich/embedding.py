"""The seam to the embedding models, which not every client and server has."""

from __future__ import annotations

from typing import Protocol, cast

import numpy as np
import numpy.typing as npt

from depthface.errors import ModelUnavailable, ServerFault
from depthface_client import AsyncClient

__all__ = ["embed", "embed_text", "literal"]


class _Embedding(Protocol):
    vector: npt.NDArray[np.float32]


class _Embeds(Protocol):
    async def embed(self, photo: bytes, *, model: str, request_id: str) -> _Embedding: ...

    async def embed_text(self, text: str, *, model: str, request_id: str) -> _Embedding: ...


async def embed(client: AsyncClient, photo: bytes, model: str, id: str) -> npt.NDArray[np.float32]:
    """Return a photo's vector, `(D,) float32` of unit length."""
    return (await _embeds(client).embed(photo, model=model, request_id=id)).vector


async def embed_text(client: AsyncClient, text: str, model: str, id: str) -> npt.NDArray[np.float32]:
    """Return a text's vector, `(D,) float32` of unit length."""
    return (await _embeds(client).embed_text(text, model=model, request_id=id)).vector


def literal(vector: npt.NDArray[np.float32]) -> str:
    """Return a vector as the text that immich hands to PostgreSQL unread: `[`, numbers with commas, `]`.

    Raises:
        ServerFault: a number is not finite, which the database would not take.
    """
    if not np.isfinite(vector).all():
        raise ServerFault("The model answered with numbers that are none.", "Export it again and check its parity.")
    return f"[{','.join(map(str, vector))}]"


def _embeds(client: AsyncClient) -> _Embeds:
    if not hasattr(client, "embed"):
        raise ModelUnavailable("No embedding model is served.", "Export one, or give an --upstream.")
    return cast(_Embeds, client)
