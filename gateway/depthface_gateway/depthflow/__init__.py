"""The DepthFlow API's contract: clips in which a photo moves, as jobs."""

from depthface_gateway.depthflow.api import app, work

__all__ = ["DEFAULT_PORT", "NAME", "app", "work"]

NAME = "depthflow"
DEFAULT_PORT = 8080
