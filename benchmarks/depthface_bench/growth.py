"""How throughput, latency and memory grow with the size of the photo, the faces in it, and the photos of a request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

from depthface_bench.photos import crowd, sized
from depthface_bench.repositories import DEPTH
from depthface_bench.rounds import Way, in_turn
from depthface_bench.servers import Process
from depthface_bench.ways import SERVER

__all__ = ["AT_ONCE", "over_batches", "over_faces", "over_sizes"]

AT_ONCE = (1, 4)
"""Latency is that of one at a time; throughput is that of several at once."""

SCENE = (2400, 3200)
"""Height and width of the scenes of faces: the same for none and for a hundred."""

Record = dict[str, Any]


def over_sizes(
    served: Process, precision: str, ask: Callable[[bytes], object], sizes: Sequence[tuple[int, int]], rounds: int
) -> list[Record]:
    """Depth, of photos of growing size."""
    found = []
    for width, height in sizes:
        records = _measured(served, precision, ask, [sized(width, height)], rounds)
        found += [one | {"task": "depth", "over": "megapixels", "value": width * height / 1e6} for one in records]
    return found


def over_faces(
    served: Process, precision: str, ask: Callable[[bytes], object], counts: Sequence[int], rounds: int
) -> list[Record]:
    """The analysis of scenes with more and more faces."""
    found = []
    for count in counts:
        records = _measured(served, precision, ask, [crowd(count, size=SCENE)], rounds)
        found += [one | {"task": "faces", "over": "faces", "value": count} for one in records]
    return found


def over_batches(served: Process, precision: str, batches: Sequence[int], rounds: int) -> list[Record]:
    """Depth, of more and more photos in one request, as many as the server takes; `images_s` counts the photos."""
    photo = sized(1920, 1280)
    found = []
    with InferenceServerClient(served.host) as connection:
        most = int(connection.get_model_config(DEPTH)["max_batch_size"])
    for batch in (one for one in batches if one <= most):
        records = _measured(served, precision, _batched(served.host, batch), [photo], rounds, at_once=(1,))
        for one in records:
            one["images_s"] = [batch * value for value in one["images_s"]]
        found += [one | {"task": "depth", "over": "batch", "value": batch} for one in records]
    return found


def _batched(host: str, batch: int) -> Callable[[bytes], object]:
    def ask(photo: bytes) -> object:
        sent = InferInput("image", [batch, 1], "BYTES")
        sent.set_data_from_numpy(np.array(batch * [[photo]], np.object_))
        # A connection of its own: gevent's belongs to the thread that made it.
        with InferenceServerClient(host, connection_timeout=60, network_timeout=300) as connection:
            return connection.infer(DEPTH, [sent], outputs=[InferRequestedOutput("png8")])

    return ask


def _measured(
    served: Process,
    precision: str,
    ask: Callable[[bytes], object],
    photos: list[bytes],
    rounds: int,
    at_once: tuple[int, ...] = AT_ONCE,
) -> list[Record]:
    series = in_turn([Way(SERVER, precision, ask)], photos, at_once, rounds)
    memory = served.memory_bytes()
    return [asdict(one) | {"memory_bytes": memory} for one in series]
