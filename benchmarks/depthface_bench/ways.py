"""The ways from a JPEG to its depth, or its faces, that stand side by side; each is proven to do the same work."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import Any

import requests
from PIL import Image

from depthface.errors import DepthfaceError
from depthface_bench import peers
from depthface_bench.repositories import DEPTH, FACES
from depthface_bench.rounds import Way
from depthface_bench.variants import FP32, Variant
from depthface_client import Client

__all__ = [
    "LIBRARY",
    "PLAIN",
    "SERVER",
    "SERVICE",
    "depth_of",
    "depth_ways",
    "face_ways",
    "faces_of",
    "posted",
    "same_count",
    "same_size",
]

LIBRARY, SERVICE, PLAIN, SERVER = "library", "service", "plain", "server"

_PEER = FP32.name


def depth_ways(
    service_host: str,
    clients: Mapping[Variant, Client],
    repositories: Mapping[Variant, Path],
    threads: int,
    stack: ExitStack,
) -> list[Way]:
    """JPEG to 8-bit PNG. `stack` ends what has to be ended."""
    service = posted(service_host)
    return [
        Way(LIBRARY, _PEER, peers.depth_pipeline(threads)),
        Way(SERVICE, _PEER, lambda photo: service(photo).content),
        *(Way(PLAIN, one.name, peers.depth_stages(repositories[one], one, threads, stack)) for one in clients),
        *(Way(SERVER, one.name, depth_of(client)) for one, client in clients.items()),
    ]


def face_ways(service_host: str, clients: Mapping[Variant, Client], pack: Path, threads: int) -> list[Way]:
    """JPEG to boxes, scores, keypoints and embeddings."""
    service = posted(service_host)
    return [
        Way(LIBRARY, _PEER, peers.face_analysis(pack, threads)),
        Way(SERVICE, _PEER, lambda photo: service(photo).json()),
        *(Way(SERVER, one.name, faces_of(client)) for one, client in clients.items()),
    ]


def posted(host: str) -> Callable[[bytes], requests.Response]:
    """Send a body to a service of `services.py`; each thread has a connection of its own."""
    local = threading.local()

    def post(body: bytes) -> requests.Response:
        if not hasattr(local, "session"):
            local.session = requests.Session()
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
