"""The tasks that are compared, each in one value: what is sent, who answers, and what holds two answers together.

Whatever is measured of one is measured of all, by the same code; see `comparison`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import requests
from PIL import Image

from depthface.contract import Precision
from depthface.errors import DepthfaceError
from depthface.families import card_named
from depthface.families.insightface.card import TOLERANCES
from depthface.spec import ModelCard
from depthface_bench import embeddings, peers, photos, repositories, services, ways
from depthface_bench.plain import Answer
from depthface_client import Client

__all__ = ["DEPTH_SIZES", "TASKS", "Driven", "Items", "Task"]

DEPTH_SIZES = ((1920, 1280), (4000, 3000))
"""Width and height of the photos that the ways are compared on."""

_LEVEL = 1 / 255


@dataclass(frozen=True)
class Items:
    """What each client sends in a round, and what results call it."""

    name: str
    some: Sequence[bytes]


@dataclass(frozen=True)
class Driven:
    """What perf_analyzer sends of a task, and to which model.

    Attributes:
        model: a public model with the outputs of a usual request alone.
        items: that it sends in turn, each as the input `tensor`.
        pace: how many of them take about as long as one photo of depth: windows hold so many times as many.
    """

    model: str
    items: Callable[[], Sequence[bytes]]
    tensor: str = "image"
    pace: int = 1


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name: what results call it.
        service: the kind of `services.py` that its users deploy today.
        card: of its model, told where the face pack lies.
        public: the model that answers.
        wanted: the outputs of a usual request.
        items: what is sent, given how many photos of each size.
        peers: told where the face pack lies, and how many threads to take.
        read: a service's answer.
        ask: this project's client.
        taken: what is taken of the public model's outputs.
        hold: raises `DepthfaceError` unless an answer is of the same work as the expected one, which may be None, in a
            precision.
        driven: None if perf_analyzer sends none.
        at_once: requests under way, in the rounds; empty for the plan's.
    """

    name: str
    service: services.Kind
    card: Callable[[Path], ModelCard]
    public: str
    wanted: tuple[str, ...]
    items: Callable[[int], Sequence[Items]]
    peers: Callable[[Path, int], Sequence[peers.Peer]]
    read: Callable[[requests.Response], object]
    ask: Callable[[Client], Callable[[bytes], object]]
    taken: Callable[[Answer], object]
    hold: Callable[[bytes, Any, Any, Precision], None]
    driven: Driven | None = None
    at_once: tuple[int, ...] = ()


def _same_depth(photo: bytes, expected: bytes | None, png: bytes, precision: Precision) -> None:
    """By size, and by the card's tolerance of the largest error.

    Both maps were stretched to 0…255, each from its own least to its own most, which may lie off by as much again.
    """
    ways.same_size(photo, png)
    if expected is None:
        return
    a, b = (np.asarray(Image.open(BytesIO(one)), np.float32) * _LEVEL for one in (expected, png))
    most = 2 * repositories.depth_card().tolerances[precision]["max_error"] + _LEVEL
    off = float(np.abs(a - b).max())
    if not off <= most + 1e-6:
        raise DepthfaceError(f"A map is off by {off:.3f} of the range, where {most:.3f} may be: not the same work.")


def _same_faces(_: bytes, expected: object, found: object, precision: Precision) -> None:
    """By their number, and by the card's widest tolerances of boxes and embeddings: each decodes the JPEG itself."""
    ways.same_count(photos.FACES_A_PHOTO, found)
    if expected is None:
        return
    widest = {
        metric: max(of_one.get(metric, 0.0) for of_one in TOLERANCES.values())
        for metric in ("box_error_px", "cosine_loss")
    }
    boxes, vectors = _arrays(found)
    for box, vector in zip(*_arrays(expected), strict=True):
        off_px = np.abs(boxes - box).max(axis=1)
        nearest = int(off_px.argmin())
        if not off_px[nearest] <= widest["box_error_px"]:
            raise DepthfaceError(f"A box is off by {off_px[nearest]:.1f} pixels: not the same work.")
        embeddings.same_vector(vector, vectors[nearest], most=widest["cosine_loss"])


def _arrays(answer: Any) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return the boxes and the embeddings of a library's, a service's or our client's answer."""
    if isinstance(answer, dict):
        return np.asarray(answer["boxes"], np.float32), np.asarray(answer["embeddings"], np.float32)
    boxes, vectors = ([getattr(face, name) for face in answer] for name in ("box", "embedding"))
    return np.array(boxes, np.float32), np.array(vectors, np.float32)


def _same_embedding(_: bytes, expected: Any, found: Any, __: Precision) -> None:
    if expected is not None:
        embeddings.same_vector(np.asarray(expected), np.asarray(found))


def _depth_items(count: int) -> list[Items]:
    return [Items(f"{w}×{h}", [photos.sized(w, h, index) for index in range(count)]) for w, h in DEPTH_SIZES]


def _crowds() -> list[bytes]:
    return [photos.crowd(photos.FACES_A_PHOTO, seed) for seed in range(photos.FACE_PHOTOS)]


def _embedding(kind: embeddings.Kind, driven: Driven | None) -> Task:
    return Task(
        name=embeddings.TASKS[kind],
        service=kind,
        card=lambda _: repositories.embedding_card(),
        public=embeddings.model_of(kind),
        wanted=("embedding",),
        items=lambda count: [Items(embeddings.name_of(kind), embeddings.items(kind, count))],
        peers=lambda _, threads: embeddings.peers_of(kind, threads),
        read=lambda response: np.array(response.json()["embedding"], np.float32),
        ask=lambda client: embeddings.asked(kind, client),
        taken=lambda answer: answer["embedding"],
        hold=_same_embedding,
        driven=driven,
        at_once=embeddings.AT_ONCE,
    )


TASKS = (
    Task(
        name="depth",
        service="depth",
        card=lambda _: repositories.depth_card(),
        public=repositories.DEPTH,
        wanted=("png8",),
        items=_depth_items,
        peers=lambda _, threads: peers.depth_peers(threads),
        read=lambda response: response.content,
        ask=ways.depth_of,
        taken=lambda answer: answer["png8"],
        hold=_same_depth,
        driven=Driven(repositories.MEASURED_DEPTH, photos.mixed),
    ),
    Task(
        name="faces",
        service="faces",
        card=lambda pack: card_named(str(pack)),
        public=repositories.FACES,
        wanted=repositories.EVERYTHING,
        items=lambda _: [Items(f"{photos.FACES_A_PHOTO} faces", _crowds())],
        peers=peers.face_peers,
        read=lambda response: response.json(),
        ask=ways.faces_of,
        taken=dict,
        hold=_same_faces,
        driven=Driven(repositories.MEASURED_FACES, _crowds),
    ),
    _embedding("image", Driven(embeddings.model_of("image"), lambda: embeddings.items("image", 3), pace=4)),
    _embedding("text", None),
)
