"""What was aimed at, on two cores, and whether this run shows it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from depthface_bench.figures import Spread
from depthface_bench.reading import Results, against, tail

__all__ = ["Target", "targets"]

# (photo, precision) to how many times as many images a second as the service people deploy today.
_AGAINST_SERVICE: Mapping[tuple[str, str, str], float] = {
    ("depth", "1920×1280", "fp32"): 1.5,
    ("depth", "1920×1280", "bf16"): 2.6,
    ("depth", "4000×3000", "fp32"): 2.2,
    ("depth", "4000×3000", "bf16"): 3.5,
    ("faces", "6 faces", "fp32"): 1.05,
    ("faces", "6 faces", "bf16"): 1.8,
    ("photo embedding", "1280×960", "fp32"): 1.3,
    ("photo embedding", "1280×960", "bf16"): 2.2,
}
_AGAINST_PLAIN = 0.95
_P99_TO_P50 = 1.5


@dataclass(frozen=True)
class Target:
    """One aim.

    Attributes:
        measured: each way with as many requests at once as suit it best; None where this machine or this run could not
            show it.
        alone: both ways with one request at a time; None where that is not what is asked.
    """

    text: str
    aim: float
    measured: Spread | None
    alone: Spread | None = None
    is_at_least: bool = True

    @property
    def is_met(self) -> bool | None:
        """By the median."""
        if self.measured is None:
            return None
        return self.measured.median >= self.aim if self.is_at_least else self.measured.median <= self.aim


def targets(results: Results) -> list[Target]:
    """All of them, in the order of the tables."""
    return [*_services(results), *_floors(results), *_tails(results)]


def _services(results: Results) -> Iterator[Target]:
    for (task, photo, precision), aim in _AGAINST_SERVICE.items():
        best, alone = (against(results, task, photo, ("server", precision), ("service", "fp32"), n) for n in (0, 1))
        yield Target(f"{task} {photo}, {precision}, against the service", aim, best, alone)


def _floors(results: Results) -> Iterator[Target]:
    for precision in results["precisions"]:
        for photo in (photo for task, photo, at in _AGAINST_SERVICE if (task, at) == ("depth", "fp32")):
            best, alone = (
                against(results, "depth", photo, ("server", precision), ("plain", precision), n) for n in (0, 1)
            )
            text = f"depth {photo}, {precision}, against the plain runtime in process"
            yield Target(text, _AGAINST_PLAIN, best, alone)


def _tails(results: Results) -> Iterator[Target]:
    for precision in results["precisions"]:
        for task in ("depth", "faces"):
            found = tail(results, task, precision)
            yield Target(
                f"{task}, {precision}, p99 / p50 at the best concurrency", _P99_TO_P50, found, is_at_least=False
            )
