"""Vectors as immich stores them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from depthface.errors import ServerFault

__all__ = ["literal"]


def literal(vector: npt.NDArray[np.float32]) -> str:
    """Return a vector as the text that immich hands to PostgreSQL unread: `[`, numbers with commas, `]`.

    Raises:
        ServerFault: a number is not finite, which the database would not take.
    """
    if not np.isfinite(vector).all():
        raise ServerFault("The model answered with numbers that are none.", "Export it again and check its parity.")
    return f"[{','.join(map(str, vector))}]"
