"""The kinds of ways that stand side by side, and how this project and a service are asked."""

from __future__ import annotations

import threading
from collections.abc import Callable
from io import BytesIO
from typing import Any

import requests
from PIL import Image

from depthface.errors import DepthfaceError
from depthface_bench.repositories import DEPTH, FACES
from depthface_client import Client

__all__ = [
    "PLAIN",
    "SERVER",
    "SERVICE",
    "depth_of",
    "faces_of",
    "posted",
    "same_count",
    "same_size",
]

SERVICE, PLAIN, SERVER = "service", "plain", "server"
"""The usual library behind HTTP; the exported networks in their plain runtimes, in this process; this project, over
HTTP. `peers` has the others."""


def posted(host: str) -> Callable[[bytes], requests.Response]:
    """Send a body to a service of `services.py`; each thread has a connection of its own."""
    local = threading.local()

    def post(body: bytes) -> requests.Response:
        if not hasattr(local, "session"):
            local.session = requests.Session()
            local.session.trust_env = False  # no proxy is asked for this machine
        response: requests.Response = local.session.post(f"http://{host}/predict", data=body, timeout=300)
        response.raise_for_status()
        return response

    return post


def same_size(photo: bytes, png: Any) -> None:
    """Hold an answer against its photo; raises `DepthfaceError` if it is not a grey PNG of its size."""
    with Image.open(BytesIO(photo)) as asked, Image.open(BytesIO(png)) as given:
        if (given.size, given.mode, given.format) != (asked.size, "L", "PNG"):
            raise DepthfaceError(f"An answer is a {given.format} {given.mode} of {given.size}, not of {asked.size}.")


def same_count(count: int, answer: Any) -> None:
    """Hold an answer about faces against how many there are."""
    found = len(answer["boxes"]) if isinstance(answer, dict) else len(answer)
    if found != count:
        raise DepthfaceError(f"An answer has {found} faces where {count} were drawn: not the same work.")


def depth_of(client: Client) -> Callable[[bytes], bytes]:
    """JPEG to 8-bit PNG, by this project's own client."""
    return lambda photo: client.depth_png(photo, bits=8, model=DEPTH)


def faces_of(client: Client) -> Callable[[bytes], object]:
    """JPEG to faces with embeddings, by this project's own client."""
    return lambda photo: client.faces(photo, model=FACES, parts=("embedding",))
