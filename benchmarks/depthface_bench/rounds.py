"""Ways measured in turn, so that a drift of the machine hits all alike; ratios are of the same round."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle, islice
from typing import TypeVar

__all__ = ["Failed", "Series", "Way", "in_turn", "rate"]

T = TypeVar("T")

_SETTLE_S = 0.25
"""After each way: the threads of some runtimes stay busy for a fifth of a second after the work is done."""


@dataclass(frozen=True)
class Way:
    """A way from photos to answers.

    Attributes:
        kind: what runs it, of `ways`: `server` is this project, over HTTP.
        precision: of the network.
        call: one photo, or whatever is measured; may be called from several threads.
        at_once: with how many requests under way it is measured; empty for as many as the others.
        warm_up: calls before the first round, of what becomes quicker with use.
    """

    kind: str
    precision: str
    call: Callable[[bytes], object]
    at_once: tuple[int, ...] = ()
    warm_up: int = 0


Failed = Callable[[Way, Exception], None]
"""Is told of a way that failed, and may raise in its turn."""


@dataclass(frozen=True)
class Series:
    """What one way did, round by round, with so many requests under way."""

    kind: str
    precision: str
    at_once: int
    images_s: list[float] = field(default_factory=list)


def in_turn(
    ways: Iterable[Way],
    photos: Sequence[bytes],
    at_once: Iterable[int],
    rounds: int,
    failed: Failed | None = None,
    after: Callable[[Way], None] | None = None,
) -> list[Series]:
    """Measure each way once in every round; the round before the first is not counted.

    Args:
        failed: is told of a way that raises, which is then left out, its earlier rounds too; None: that ends the run.
        after: is told of each way that has just had its turn, before the next has its own; if it raises, so has the
            way.
    """
    counts = tuple(at_once)
    turns = [(way, Series(way.kind, way.precision, count)) for way in ways for count in way.at_once or counts]
    lost: list[Way] = []

    def tried(way: Way, work: Callable[[], T]) -> T | None:
        if way in lost:
            return None
        try:
            return work()
        except Exception as error:
            if failed is None:
                raise
            failed(way, error)
            lost.append(way)
            return None

    for way in dict.fromkeys(way for way, _ in turns):
        tried(way, lambda way=way: [way.call(photo) for photo in islice(cycle(photos), way.warm_up)])  # type: ignore[misc]
    with ThreadPoolExecutor(max((series.at_once for _, series in turns), default=1)) as pool:
        for counted in range(-1, rounds):
            for way, series in turns:
                found = tried(way, partial(rate, pool, way.call, photos, series.at_once))
                if found is None:
                    continue
                if after is not None:
                    tried(way, partial(after, way))
                time.sleep(_SETTLE_S)
                if counted >= 0:
                    series.images_s.append(found)
    return [series for way, series in turns if way not in lost]


def rate(pool: ThreadPoolExecutor, call: Callable[[bytes], object], photos: Sequence[bytes], at_once: int) -> float:
    """Photos a second with `at_once` requests under way: so many clients send all the photos, each begins elsewhere."""
    shares = [[*photos[index % len(photos) :], *photos[: index % len(photos)]] for index in range(at_once)]
    started = time.perf_counter()
    list(pool.map(lambda share: [call(photo) for photo in share], shares))
    return at_once * len(photos) / (time.perf_counter() - started)
