"""Graphs for shapes of a network's inputs that are asked for often, each for one alone, beside the one for any shape.

Such a graph saves time, takes memory, and takes about as long to make as many inferences. So only shapes that are asked
for often get one, a few at a time. It is made in a thread: no request waits for it, and the graph for any shape goes on
answering until it is there. All others are always answered by that one. How often is often differs: `ON_CPU`, `ON_GPU`.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy.typing as npt

from depthface import processor

__all__ = [
    "BUDGET_MB",
    "ON_CPU",
    "ON_GPU",
    "PARAMETER",
    "TRIED",
    "WINDOW",
    "Case",
    "Rules",
    "Shapes",
    "StaticGraphs",
    "computes_in_bf16",
    "room",
    "room_of",
    "room_on_gpu",
    "shapes_of",
    "wants_bf16",
]

Shapes = tuple[tuple[str, tuple[int, ...]], ...]
"""The shape of every input by name, in the order of the names."""

Graph = TypeVar("Graph")

WINDOW = 256
"""After so many requests every count is halved: what was asked yesterday makes room for what is asked today."""

TRIED = 16
"""Uses after which a graph has to be quicker."""


@dataclass(frozen=True)
class Rules:
    """When a shape is worth a graph of its own.

    Attributes:
        asked: requests of a shape that it takes.
        gain: a graph stays if its quickest run took at most this share of the other's quickest; it is not worth its
            memory else. None: it stays.
        kept: the most graphs at a time.
        has_batches: whether batches get graphs too.
    """

    asked: int
    gain: float | None
    kept: int
    has_batches: bool


ON_CPU = Rules(asked=32, gain=0.97, kept=3, has_batches=False)
"""OpenVINO's. Compiling depth's costs 1.2 s of one core, and the graph saves 0.05 s of one at each use: it has paid
after two dozen. A library's photos are wide and tall, of one or two cameras. Batches would take many times the memory,
and a CPU has no time to win by them."""

ON_GPU = Rules(asked=2, gain=None, kept=16, has_batches=True)
"""ONNX Runtime's on CUDA. Whenever a shape differs from that before, it plans all convolutions anew
(github.com/microsoft/onnxruntime/issues/23006). For Depth Anything V2 Small that takes 250 ms, where to compute takes 2
(H100). A session for the shape alone is there after 0.6 s. It is no quicker than the common one while the shape stays.
"""

BUDGET_MB = 600
"""The most memory for all graphs of a network, reckoned as `room` does."""

PARAMETER = "STATIC_GRAPHS_MB"
"""The parameter of a network's config that says another budget; 0 for no such graphs."""

_GPU_BUDGET_MB = 8192
_BETWEEN_LAYERS_MB = 500
"""Of a batch of eight of depth, in fp16."""


def computes_in_bf16(parameters: Mapping[str, str]) -> bool:
    """Return whether OpenVINO computes a network in bf16: its config says so, and it is quicker here.

    Where it is not, it computes the same file in fp32, which is closer to the reference.
    """
    return wants_bf16(parameters) and processor.multiplies_bf16()


def wants_bf16(parameters: Mapping[str, str]) -> bool:
    """Return whether a network's config has OpenVINO compute in bf16."""
    return parameters.get("HINT_BF16", "").lower() == "yes"


def room_of(path: Path, parameters: Mapping[str, str]) -> int:
    """Return how many graphs of their own the shapes of a network may have at a time, by its file and its config.

    Only in bf16. In fp32 such a graph wins 1 % of depth's time (Intel with AMX), and is not worth its memory.

    Raises:
        ValueError: the budget is no number of megabytes.
    """
    budget_mb = _budget_mb(parameters, BUDGET_MB)
    return room(path.stat().st_size, budget_mb) if computes_in_bf16(parameters) else 0


def room_on_gpu(path: Path, parameters: Mapping[str, str]) -> int:
    """As `room_of`, of sessions on a GPU. One is reckoned as twice the file, and what is between its layers.

    Raises:
        ValueError: as there.
    """
    each_mb = 2 * path.stat().st_size / 1e6 + _BETWEEN_LAYERS_MB
    return min(ON_GPU.kept, math.floor(_budget_mb(parameters, _GPU_BUDGET_MB) / each_mb))


def _budget_mb(parameters: Mapping[str, str], usual_mb: float) -> float:
    text = parameters.get(PARAMETER, str(usual_mb))
    try:
        budget_mb = float(text)
    except ValueError:
        budget_mb = math.nan
    if not 0 <= budget_mb < math.inf:
        raise ValueError(f"{PARAMETER} is {text!r}; it takes megabytes, or 0 for no static graphs")
    return budget_mb


def room(file_bytes: int, budget_mb: float) -> int:
    """Return how many graphs fit in a budget.

    One takes 171 MB of the 99 MB file of Depth Anything V2 Small at 518×686 in bf16 (its weights once more, and what is
    between its layers), the constants being shared. It is reckoned as twice the file.
    """
    return min(ON_CPU.kept, math.floor(budget_mb * 1e6 / (2 * max(1, file_bytes))))


def shapes_of(feed: Mapping[str, npt.NDArray[Any]]) -> Shapes:
    """Return the shapes of arrays by name."""
    return tuple((name, feed[name].shape) for name in sorted(feed))


def _is_single(shapes: Shapes) -> bool:
    """Return whether it is one item, as depthface's exports for a CPU have their networks asked."""
    return all(shape[:1] == (1,) for _, shape in shapes)


@dataclass
class _Known(Generic[Graph]):
    """What is known of one shape: how often it was asked of late, its graph, and the quickest runs with and without."""

    asked: int = 0
    graph: Graph | None = None
    is_refused: bool = False
    uses: int = 0
    own_s: float = math.inf
    common_s: float = math.inf


Case = tuple[Mapping[str, npt.NDArray[Any]], list[npt.NDArray[Any]]]
"""A request that was answered, for a new graph to be held against: its inputs by name, and all outputs."""


class StaticGraphs(Generic[Graph]):
    """The graphs of one network. Its methods are called from one thread at a time.

    Args:
        build: makes the graph of the shape of a case, and holds it against that; called in a thread of its own. What it
            raises is told, and that shape is left to the common graph.
        room: how many may be there at a time, one that is being made included; 0 for none at all.
        tell: is told in a few words what has happened, and to which shapes.
        rules: when a shape is worth one.
    """

    def __init__(
        self, build: Callable[[Case], Graph], room: int, tell: Callable[[str, Shapes], None], rules: Rules = ON_CPU
    ) -> None:
        self._build, self._room, self._tell, self._rules = build, room, tell, rules
        self._known: dict[Shapes, _Known[Graph]] = {}
        self._requests = 0
        self._builder: threading.Thread | None = None
        self._is_closed = False
        self._lock = threading.Lock()

    def graph_of(self, shapes: Shapes) -> Graph | None:
        """Return the shape's own graph, if there is one and nothing is known against it."""
        known = self._known.get(shapes)
        if known is None or known.graph is None:
            return None
        gain = self._rules.gain
        if gain is not None and known.uses == TRIED and known.own_s > gain * known.common_s:
            self.refuse(shapes, f"no quicker: {1e3 * known.own_s:.1f} against {1e3 * known.common_s:.1f} ms")
        return known.graph

    def graphs(self) -> list[Graph]:
        """Return all that are there."""
        return [known.graph for known in list(self._known.values()) if known.graph is not None]

    def refuse(self, shapes: Shapes, why: str) -> None:
        """Let a shape's graph go, and make none for it again."""
        known = self._known[shapes]
        known.graph, known.is_refused = None, True
        self._tell(why, shapes)

    def let_go(self, why: str) -> None:
        """Let all graphs go, for others need their memory, and have half as many from now on at the most."""
        self.wait()
        kept = [shapes for shapes, known in self._known.items() if known.graph is not None]
        self._room = len(kept) // 2
        for shapes in kept:
            del self._known[shapes]
            self._tell(why, shapes)

    def note(self, shapes: Shapes, seconds: float, case: Callable[[], Case], *, own: bool) -> None:
        """Count a request that was answered, and start to make the graph of its shape if it is time.

        Args:
            case: returns that request, in memory that stays as it is.
            own: it was the shape's own graph that took these seconds.
        """
        if not self._room or not (self._rules.has_batches or _is_single(shapes)):
            return
        known = self._known.setdefault(shapes, _Known())
        known.asked += 1
        if own:
            known.uses += 1
            known.own_s = min(known.own_s, seconds)
        else:
            known.common_s = min(known.common_s, seconds)
        self._requests += 1
        if self._requests % WINDOW == 0:
            self._halve()
        if (
            known.graph is None
            and not known.is_refused
            and known.asked >= self._rules.asked
            and self._makes_room_for(known)
        ):
            self._start(shapes, known, case())

    def close(self) -> None:
        """Let go of all graphs, and wait for one that is being made."""
        with self._lock:
            self._is_closed = True
        if self._builder is not None:
            self._builder.join()
        self._known.clear()

    def wait(self) -> None:
        """Wait for a graph that is being made."""
        if self._builder is not None:
            self._builder.join()

    def _halve(self) -> None:
        for shapes, known in list(self._known.items()):
            known.asked //= 2
            if not known.asked and known.graph is None and not known.is_refused:
                del self._known[shapes]

    def _makes_room_for(self, known: _Known[Graph]) -> bool:
        """Let the graph that is asked for the least go, if all are there and it is asked for half as often at the most.

        Shapes that take turns would otherwise push each other out, and the time go into compiling.
        """
        if self._builder is not None and self._builder.is_alive():
            return False
        kept = [(shapes, other) for shapes, other in self._known.items() if other.graph is not None]
        if len(kept) < self._room:
            return True
        shapes, least = min(kept, key=lambda each: each[1].asked)
        if 2 * least.asked > known.asked:
            return False
        self._known[shapes] = _Known(asked=least.asked, common_s=least.common_s)
        self._tell("left for another", shapes)
        return True

    def _start(self, shapes: Shapes, known: _Known[Graph], case: Case) -> None:
        self._builder = threading.Thread(target=self._make, args=(shapes, known, case), daemon=True)
        self._builder.start()

    def _make(self, shapes: Shapes, known: _Known[Graph], case: Case) -> None:
        began = time.monotonic()
        try:
            graph = self._build(case)
        except Exception as error:  # runtimes raise a dozen classes without a common base; one of them is of memory
            known.is_refused = True
            self._tell(f"not made: {error}", shapes)
            return
        took = f"made in {time.monotonic() - began:.1f} s"
        with self._lock:
            if not self._is_closed:
                known.graph = graph
        self._tell(took if known.graph is graph else f"{took}, and thrown away: its network goes", shapes)
