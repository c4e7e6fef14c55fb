"""Preprocessing on the client against on the server: what each costs in time, bytes and the client's own CPU.

Both ask for the depth map at the network's grid. `photo`: the JPEG goes to the public model. `tensor`: the client
decodes and resizes, with the code that the server runs, and sends the grid's uint8 pixels to the network itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field

import numpy as np
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

from depthface.families.depth_anything_v2 import processing
from depthface_bench.link import throttled
from depthface_bench.photos import sized
from depthface_bench.repositories import DEPTH, DEPTH_NETWORK

__all__ = ["PHOTO", "TENSOR", "measure"]

PHOTO, TENSOR = "photo", "tensor"


@dataclass(frozen=True)
class _Placement:
    photo: str
    link_mbit_s: float | None
    way: str
    sent_bytes: int
    received_bytes: int
    ms: list[float] = field(default_factory=list)
    client_cpu_ms: list[float] = field(default_factory=list)


def measure(
    host: str, sizes: Sequence[tuple[int, int]], links_mbit_s: Sequence[float], rounds: int
) -> list[dict[str, object]]:
    """Both ways in turn, for each size of photo, on this machine (`link_mbit_s` None) and over each slow link."""
    found: list[_Placement] = []
    for link in (None, *links_mbit_s):
        with ExitStack() as stack:
            there = host if link is None else stack.enter_context(throttled(host, link))
            connection = stack.enter_context(InferenceServerClient(there, connection_timeout=60, network_timeout=300))
            for width, height in sizes:
                photo = sized(width, height)
                turns = []
                for way, request in ((PHOTO, _photo), (TENSOR, _tensor)):
                    model, sent = request(photo)
                    got = _ask(connection, model, sent)
                    turns.append((request, _Placement(f"{width}×{height}", link, way, _bytes(sent), got)))
                for _ in range(rounds):
                    for request, placement in turns:
                        taken_ms, cpu_ms = _timed(connection, photo, request)
                        placement.ms.append(taken_ms)
                        placement.client_cpu_ms.append(cpu_ms)
                found += [placement for _, placement in turns]
    return [asdict(placement) for placement in found]


def _timed(
    connection: InferenceServerClient, photo: bytes, request: Callable[[bytes], tuple[str, InferInput]]
) -> tuple[float, float]:
    started, cpu = time.perf_counter(), time.process_time()
    model, sent = request(photo)
    _ask(connection, model, sent)
    return 1000 * (time.perf_counter() - started), 1000 * (time.process_time() - cpu)


def _photo(photo: bytes) -> tuple[str, InferInput]:
    sent = InferInput("image", [1, 1], "BYTES")
    sent.set_data_from_numpy(np.array([[photo]], np.object_))
    return DEPTH, sent


def _tensor(photo: bytes) -> tuple[str, InferInput]:
    pixels = processing.preprocess(photo)[0][None]
    sent = InferInput("pixels", list(pixels.shape), "UINT8")
    sent.set_data_from_numpy(pixels)
    return DEPTH_NETWORK, sent


def _ask(connection: InferenceServerClient, model: str, sent: InferInput) -> int:
    """The bytes of the depth map that came back."""
    answer = connection.infer(model, [sent], outputs=[InferRequestedOutput("depth")])
    return int(answer.as_numpy("depth").nbytes)


def _bytes(sent: InferInput) -> int:
    return len(sent._get_binary_data())
