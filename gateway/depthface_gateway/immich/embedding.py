"""Vectors as immich stores them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import orjson

from depthface_gateway.answers import finite

__all__ = ["literal"]


def literal(vector: npt.NDArray[np.float32]) -> str:
    """Return a vector as the text that immich hands to PostgreSQL unread: `[`, numbers with commas, `]`.

    Raises:
        ServerFault: a number is not finite, which the database would not take.
    """
    return orjson.dumps(finite(vector), option=orjson.OPT_SERIALIZE_NUMPY).decode()
