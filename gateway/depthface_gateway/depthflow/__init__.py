"""The DepthFlow API's contract: clips in which a photo moves, as jobs."""

from depthface_gateway.depthflow.api import app, work

__all__ = ["DEFAULT_PORT", "HOST_VARIABLE", "NAME", "PORT_VARIABLE", "app", "work"]

NAME = "depthflow"
DEFAULT_PORT = 8080
HOST_VARIABLE, PORT_VARIABLE = "API_HOST", "API_PORT"
