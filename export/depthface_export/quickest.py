"""`--precision auto`: each precision that this machine could gain by is made and proven; the quickest that holds stays.

The gate is the same for all (`validate`). What passes is timed as it would be served: the same runtime, on the shape
that the card says is usual, of what the gate has shown it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from depthface import machine, manifest
from depthface.contract import GPU_PRECISIONS, MODEL_VERSION, Precision
from depthface.errors import ExportError, ParityError
from depthface.processor import multiplies_bf16
from depthface.spec import ModelCard, Network
from depthface_export.interrupts import hold_signals
from depthface_export.job import Job, NetworkJob

__all__ = ["AUTO", "Stopwatch", "candidates", "choose", "note", "settled"]

AUTO = "auto"
"""What is typed as the precision."""

_RUNS = 5
"""After one that is not counted. The quickest counts: a busy neighbour touches it least."""

_WORTH = 1.05
"""A less exact precision has to be so many times as quick as a more exact one: else the exact one is taken."""

_EXACTEST: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8")

Make = Callable[[Job, Path], Mapping[str, NetworkJob]]
"""Makes and proves the folder of every network in a folder, and returns how; raises `ParityError`."""


def candidates(card: ModelCard, *, with_engines: bool = False) -> tuple[Precision, ...]:
    """Return the precisions of a card that may be the quickest on this machine, the likeliest first.

    Raises:
        ExportError: there is a GPU, and nothing here that would serve it can be timed.
    """
    if with_engines or _has_cuda():
        likely: tuple[Precision, ...] = ("fp16", "fp32")
    else:
        likely = (*(("bf16",) if multiplies_bf16() else ()), "int8", "fp32")
    return tuple(precision for precision in likely if precision in card.tolerances)


def _has_cuda() -> bool:
    if not machine.gpus():
        return False
    with hold_signals():
        from depthface_export import validate  # it brings ONNX Runtime

    if not validate.has_cuda():
        raise ExportError(
            "There is a GPU, but this ONNX Runtime is for processors: what is quickest on the GPU cannot be timed.",
            "Install depthface[gpu] (`make setup-gpu`), or build engines with --engine, or choose a --precision; or "
            "set CUDA_VISIBLE_DEVICES to nothing, and the export is for processors.",
        )
    return True


def settled(job: Job) -> Job | None:
    """Return the job in the precision that was chosen before, of the same ones; None if there is none to be found."""
    found = [manifest.read(job.target / network.name / MODEL_VERSION) for network in job.card.networks]
    choices = [one.choice if one is not None else None for one in found]
    choice = choices[0]
    if choice is None or any(other != choice for other in choices) or set(choice["tried"]) != set(job.precisions):
        return None
    (precision,) = (one for one in job.precisions if one == choice["precision"])
    return replace(job, precision=precision)


def choose(job: Job, build: Path, make: Make) -> Job:
    """Make each of the job's precisions, and leave the networks of the best in `build`; return the job in that one.

    Args:
        make: is given a folder of its own each time.

    Raises:
        ParityError: none holds.
    """
    stopwatch, report = Stopwatch(), job.report
    if len(job.precisions) > 1:
        report(f"{AUTO}: tries {', '.join(job.precisions)}")
    taken_ms: dict[Precision, float] = {}
    said: dict[str, Any] = {}
    failure: ParityError | None = None
    for precision in job.precisions:
        folder = build / f"{AUTO}-{precision}"
        folder.mkdir()
        try:
            made = make(replace(job, precision=precision), folder)
        except ParityError as error:
            failure = error
            said[precision] = error.what
            report(f"{AUTO}: {precision} does not hold: {error.what}")
            continue
        if len(job.precisions) > 1:
            taken_ms[precision] = said[precision] = round(1000 * sum(map(stopwatch.time_s, made.values())), 3)
            report(f"{AUTO}: {precision} holds, {taken_ms[precision]:.1f} ms for what is usual")
        else:
            taken_ms[precision], said[precision] = 0.0, None
    if not taken_ms:
        assert failure is not None, "a card has a precision"
        raise failure
    best = _best(taken_ms)
    report(f"{AUTO}: {best}, {_why(job, best, taken_ms)}")
    folder = build / f"{AUTO}-{best}"
    for network in job.card.networks:
        (folder / network.name).rename(build / network.name)
    shutil.rmtree(folder)
    chosen = replace(job, precision=best)
    note(chosen, build, said)
    return chosen


def note(job: Job, repository: Path, tried: Mapping[str, Any]) -> None:
    """Have the manifests of a job's networks say what was tried, and which precision was taken."""
    for network in job.card.networks:
        folder = repository / network.name / MODEL_VERSION
        found = manifest.read(folder)
        assert found is not None, "it was made a moment ago"
        replace(found, choice={"precision": job.precision, "tried": dict(tried)}).write(folder)


def _best(taken_ms: Mapping[Precision, float]) -> Precision:
    """Return the most exact of those that are about as quick as the quickest."""
    enough_ms = _WORTH * min(taken_ms.values())
    return min((precision for precision, ms in taken_ms.items() if ms <= enough_ms), key=_EXACTEST.index)


def _why(job: Job, best: Precision, taken_ms: Mapping[Precision, float]) -> str:
    if len(job.precisions) == 1:
        return f"the only one of {job.card.title} on this machine"
    others = {precision: value for precision, value in taken_ms.items() if precision != best}
    if not others:
        return "the only one that holds"
    beside = ", ".join(f"{precision} {value:.1f}" for precision, value in others.items())
    if min(others.values()) < taken_ms[best]:
        return f"as quick as the others within {_WORTH - 1:.0%} and more exact: {taken_ms[best]:.1f} ms; {beside}"
    return f"the quickest: {taken_ms[best]:.1f} ms; {beside}"


class Stopwatch:
    """Times networks for what is usual. What that is, it asks the gate once of each."""

    def __init__(self) -> None:
        self._usual: dict[str, dict[str, Any]] = {}

    def time_s(self, making: NetworkJob) -> float:
        """Return the seconds of one run, in the runtime that would serve the network here."""
        from depthface_export import validate

        name = making.network.name
        if name not in self._usual:
            shown = validate.inputs(making, validate.runner(making.model, making.precision))
            self._usual[name] = _usual(making.network, shown)
        with _as_served(making, self._usual[name]) as run:
            run(self._usual[name])  # a runtime prepares for a shape when it first sees it
            return min(_taken_s(run, self._usual[name]) for _ in range(_RUNS))


def _taken_s(run: Callable[[dict[str, Any]], object], feed: dict[str, Any]) -> float:
    started = time.perf_counter()
    run(feed)
    return time.perf_counter() - started


def _usual(network: Network, shown: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the input whose size is nearest to the one that the card says is usual."""
    profiles = [{name: profile.opt for name, profile in each.items()} for each in network.profiles]

    def off(feed: Mapping[str, Any]) -> int:
        sizes = {name: value.size for name, value in feed.items()}
        return min((sum(abs(sizes[n] - int(np.prod(opt))) for n, opt in each.items()) for each in profiles), default=0)

    nearest: Mapping[str, Any] = min(shown, key=off)
    return dict(nearest)


@contextmanager
def _as_served(making: NetworkJob, usual: Mapping[str, Any]) -> Iterator[Callable[[dict[str, Any]], object]]:
    from depthface_export import validate

    found = manifest.read(making.folder)
    assert found is not None, "it was made a moment ago"
    on_cuda = making.precision in GPU_PRECISIONS and validate.has_cuda()
    if found.engine is not None:
        from depthface_export import tensorrt

        with tensorrt.runner(making.plan, making.network) as run:
            yield run
    elif not on_cuda and (making.precision == "bf16" or found.openvino_checks is not None):
        yield _by_openvino(making, usual)
    else:
        session = validate.session_as_served(making.model, on_cuda=on_cuda)
        yield lambda feed: session.run(None, feed)


def _by_openvino(making: NetworkJob, usual: Mapping[str, Any]) -> Callable[[dict[str, Any]], object]:
    """Return what the server's backend computes; in bf16 that is a graph for the usual shape alone."""
    from depthface.openvino import fixed, openvino, options

    is_bf16 = making.precision == "bf16"
    core = openvino.Core()
    network = core.read_model(making.model)
    if is_bf16:
        network = fixed(network, {name: value.shape for name, value in usual.items()})
    request = core.compile_model(network, "CPU", options(is_bf16=is_bf16)).create_infer_request()
    return lambda feed: request.infer(feed, share_inputs=True, share_outputs=True)
