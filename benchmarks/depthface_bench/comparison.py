"""One task's ways side by side: each made, each proven to do the same work, and measured in turn.

What cannot be made, does other work or fails on the way is left out and said so; the others are measured all the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from depthface.contract import MODEL_VERSION, ONNX_FILE
from depthface.spec import Network
from depthface_bench import limits, services, ways
from depthface_bench.peers import LIBRARY, Peer
from depthface_bench.plain import Run, plain_network, plain_pipeline
from depthface_bench.plan import Plan
from depthface_bench.rounds import Series, Way, in_turn
from depthface_bench.servers import Process
from depthface_bench.tasks import Items, Task
from depthface_bench.variants import FP32, Variant
from depthface_client import Client
from depthface_server import static_graphs

__all__ = ["Compared", "Ground", "compare", "gflop", "lost", "started"]

Records = list[dict[str, Any]]
Lose = Callable[[str, str, Exception], None]
"""Is told the kind and the precision of a way that is left out, and why."""

_PRODUCTS = 24
"""Matrix products in a round, by each library in each precision: about a second."""

_MOST_LETTERS = 300
"""Of a reason: some libraries give their whole source."""


@dataclass(frozen=True)
class Ground:
    """What all tasks are compared on.

    Attributes:
        pack: the folder of the face networks.
        exported: a repository for each variant, the first of them `FP32`.
        served: the server of each.
        clients: of those servers.
        threads: of each way.
    """

    pack: Path
    exported: Mapping[Variant, Path]
    served: Mapping[Variant, Process]
    clients: Mapping[Variant, Client]
    threads: int


@dataclass(frozen=True)
class Compared:
    """What results say of a task: its rounds, what the machine multiplied in each of them, which ways were left out and
    why, its service's start, and the memory of all servers.
    """

    rounds: Records = field(default_factory=list)
    peaks: Records = field(default_factory=list)
    left_out: Records = field(default_factory=list)
    start: Records = field(default_factory=list)


@dataclass(frozen=True)
class _Memory:
    """The most bytes that servers have right after a turn of theirs: at rest ours gives some back.

    Attributes:
        processes: by kind and precision of the way that asks them.
    """

    processes: dict[tuple[str, str], Process]
    most: dict[tuple[str, str], int] = field(default_factory=dict)

    def look(self, way: Way) -> None:
        """Measure the server of a way that has just had its turn, if it has one."""
        key = (way.kind, way.precision)
        if key in self.processes:
            self.most[key] = max(self.most.get(key, 0), self.processes[key].memory_bytes())


def compare(task: Task, ground: Ground, plan: Plan, report: Callable[[str], None]) -> Compared:
    """Measure every way of a task that does its work."""
    found = Compared()
    memory = _Memory({(ways.SERVER, variant.name): process for variant, process in ground.served.items()})
    start: dict[str, Any] = {}

    def lose(kind: str, precision: str, error: Exception) -> None:
        record = lost(task.name, kind, precision, error)
        found.left_out.append(record)
        report(f"LEFT OUT {task.name}, {kind}, {precision}: {record['reason']}")

    with ExitStack() as stack:
        theirs = _peers(task, ground, plan)
        made = [way for peer in theirs if (way := _made(peer, plan, lose))]
        try:
            service = stack.enter_context(services.serving(task.service, ground.pack))
        except Exception as error:
            lose(ways.SERVICE, FP32.name, error)
        else:
            memory.processes[ways.SERVICE, FP32.name] = service
            start = {"task": task.name} | started(service)
            post = ways.posted(service.host)
            made.append(Way(ways.SERVICE, FP32.name, lambda item: task.read(post(item))))
        made += _ours(task, ground, stack, lose)
        for items in task.items(plan.photos):
            made = _proven(task, items, made, theirs, ground, lose)
            each = math.ceil(_PRODUCTS / len(items.some))
            peaks = _peaks(ground, each)
            series = in_turn(
                [*made, *peaks],
                items.some,
                task.at_once or plan.at_once,
                plan.rounds,
                lambda way, error: lose(way.kind, way.precision, error),
                memory.look,
            )
            of = {"task": task.name, "photo": items.name}
            libraries = {way.kind for way in peaks}
            found.rounds.extend(asdict(one) | of for one in series if one.kind not in libraries)
            found.peaks.extend(_peak(one, each) | of for one in series if one.kind in libraries)
            gone = {(one["kind"], one["precision"]) for one in found.left_out}
            made = [way for way in made if (way.kind, way.precision) not in gone]
            report(f"{task.name}, {items.name}: {plan.rounds} rounds of {len(made)} ways")
    for kind, precision in dict.fromkeys((way.kind, way.precision) for way in made):
        if worked := memory.most.get((kind, precision)):
            record = {"kind": kind, "precision": precision, "worked_bytes": worked}
            found.start.append(record | (start if kind == ways.SERVICE else {}))
    return found


def lost(task: str, kind: str, precision: str, error: Exception) -> dict[str, Any]:
    """Return what results say of a way, or of a part of the run, that has no figure."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:_MOST_LETTERS]
    return {"task": task, "kind": kind, "precision": precision, "reason": reason}


def gflop(task: Task, ground: Ground) -> dict[str, float]:
    """Operations of the networks that each kind of item asks, 10⁹, by its name."""
    counts: list[float] = []

    def counting(network: Network) -> Run:
        def run(inputs: Mapping[str, Any], wanted: Sequence[str]) -> dict[str, Any]:
            file = ground.exported[FP32] / network.name / MODEL_VERSION / ONNX_FILE
            operations, outputs = limits.counted(file, inputs, wanted)
            counts.append(operations)
            return outputs

        return run

    found = {}
    with ExitStack() as stack:
        card = task.card(ground.pack)
        answer = plain_pipeline(ground.exported[FP32], card, task.public, task.wanted, counting, stack)
        for items in task.items(1):
            counts.clear()
            answer(items.some[0])
            found[items.name] = sum(counts)
    return found


def _peers(task: Task, ground: Ground, plan: Plan) -> list[Peer]:
    """Return the peers in the precisions that this project is measured in on the CPU."""
    precisions = {variant.precision for variant in ground.exported if variant.provider == "cpu"}
    found = [peer for peer in task.peers(ground.pack, ground.threads) if peer.precision in precisions]
    slow = [peer for peer in found if peer.takes_minutes]
    return [peer for peer in found if peer not in slow[: max(0, len(slow) - plan.slow_peers)]]


def _made(peer: Peer, plan: Plan, lose: Lose) -> Way | None:
    try:
        return Way(peer.kind, peer.precision, peer.make(), () if peer.is_usual else plan.at_once_else)
    except Exception as error:
        lose(peer.kind, peer.precision, error)
        return None


def _ours(task: Task, ground: Ground, stack: ExitStack, lose: Lose) -> list[Way]:
    """The floor and the server, in each variant that the task can be had in."""
    exported = {one: folder for one, folder in ground.exported.items() if (folder / task.public).is_dir()}
    card = task.card(ground.pack)
    found = []
    for variant, folder in exported.items():
        runs = partial(_run, folder, variant, ground.threads, stack)
        try:
            answer = plain_pipeline(folder, card, task.public, task.wanted, runs, stack)
        except Exception as error:
            lose(ways.PLAIN, variant.name, error)
        else:
            found.append(Way(ways.PLAIN, variant.name, lambda item, answer=answer: task.taken(answer(item))))  # type: ignore[misc]
    for variant in exported:
        # In bf16 on a CPU, and on a GPU, shapes that come again get graphs of their own: a library's first minute.
        warm_up = static_graphs.ON_CPU.asked if variant.name == "bf16" or variant.provider == "cuda" else 0
        found.append(Way(ways.SERVER, variant.name, task.ask(ground.clients[variant]), warm_up=warm_up))
    return found


def _peaks(ground: Ground, count: int) -> list[Way]:
    """Return what multiplies matrices, in each precision whose peak counts: `count` of `limits.products` an item."""
    precisions: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")
    measured = [each for each in precisions if each in {variant.name for variant in ground.exported}]
    return [
        Way(library, precision, lambda _, multiply=multiply: [multiply() for _ in range(count)], (1,))  # type: ignore[misc]
        for precision in measured
        for library, multiply in limits.products(precision, ground.threads).items()
    ]


def _peak(series: Series, count: int) -> dict[str, Any]:
    rates = [count * limits.PRODUCT_GFLOP * calls_s for calls_s in series.images_s]
    return {"library": series.kind, "precision": series.precision, "gflop_s": rates}


def _run(repository: Path, variant: Variant, threads: int, stack: ExitStack, network: Network) -> Run:
    return plain_network(repository, network, variant, threads, stack)


def _proven(
    task: Task, items: Items, made: Sequence[Way], theirs: Sequence[Peer], ground: Ground, lose: Lose
) -> list[Way]:
    """Return the ways whose answers to every item are of the same work as the library's in fp32."""
    precisions = {variant.name: variant.precision for variant in ground.exported}
    by_key: dict[tuple[str, str], Peer] = {(peer.kind, peer.precision): peer for peer in theirs}
    expected: list[object] = []
    sound = []
    for way in made:  # the library comes first
        peer = by_key.get((way.kind, way.precision))
        is_comparable = peer is None or (peer.is_same_weights and peer.is_same_input)
        try:
            answers = [way.call(item) for item in items.some]
            for index, (item, answer) in enumerate(zip(items.some, answers, strict=True)):
                against = expected[index] if expected and is_comparable else None
                task.hold(item, against, answer, precisions[way.precision])
        except Exception as error:
            lose(way.kind, way.precision, error)
            continue
        if (way.kind, way.precision) == (LIBRARY, FP32.name):
            expected = answers
        sound.append(way)
    return sound


def started(one: Process) -> dict[str, Any]:
    """Return what results say of a server that is ready and was asked nothing yet."""
    return {"start_s": one.start_s, "ready_bytes": one.memory_bytes()}
