"""How much is measured: the whole, or a quick look."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FULL", "QUICK", "Plan"]


@dataclass(frozen=True)
class Plan:
    """The extent of a run.

    Attributes:
        rounds: of all ways in turn, after one that is not counted.
        at_once: requests under way at every moment, in the rounds.
        at_once_else: the same of the ways that fewer people take.
        slow_peers: how many of a task's peers that take minutes to make are made, the last ones.
        photos: of each size, in the rounds: what every client sends. Of too few it is the pipeline's filling and
            emptying that is measured.
        precisions: the first so many on the CPU are measured in full, others in the rounds and at `concurrency_else`
            alone; on a GPU, all.
        few_rounds: where only this project is measured, along a scale.
        concurrency: of perf_analyzer's sweep.
        window: requests in each of perf_analyzer's windows at least, of depth (`Driven.pace`); never fewer than the
            concurrency. A multiple of the photos that are sent in turn, five for depth and three for faces, so that all
            windows hold the same.
        long_window: the same at the best concurrency, where p99 is read off.
        long_rounds: how often that is measured; before each, the machine's own tail on as many pieces of
            work, or fewer.
        rates: of requests sent, as shares of the best throughput.
        photo_sizes: width and height, 0.3 to 24 megapixels.
        faces: in one photo.
        batches: photos in one request.
        link_mbit_s: speeds that the client's link is throttled to.
    """

    rounds: int
    at_once: tuple[int, ...]
    at_once_else: tuple[int, ...]
    slow_peers: int
    photos: int
    precisions: int
    few_rounds: int
    concurrency: tuple[int, ...]
    concurrency_else: tuple[int, ...]
    window: int
    long_window: int
    long_rounds: int
    rates: tuple[float, ...]
    photo_sizes: tuple[tuple[int, int], ...]
    faces: tuple[int, ...]
    batches: tuple[int, ...]
    link_mbit_s: tuple[float, ...]


FULL = Plan(
    rounds=5,
    at_once=(1, 3),
    at_once_else=(1, 3),
    slow_peers=2,
    photos=4,
    precisions=2,
    few_rounds=3,
    concurrency=(1, 2, 4, 8, 16, 64),
    concurrency_else=(1, 4),
    window=15,
    long_window=45,
    long_rounds=3,
    rates=(0.5, 0.8),
    photo_sizes=((640, 480), (1152, 864), (1920, 1280), (2880, 2160), (4000, 3000), (5664, 4248)),
    faces=(0, 1, 2, 6, 12, 25, 50, 100),
    batches=(1, 2, 4, 8),
    link_mbit_s=(10, 100),
)

QUICK = Plan(
    rounds=3,
    at_once=(1, 3),
    at_once_else=(1,),
    slow_peers=1,
    photos=3,
    precisions=2,
    few_rounds=1,
    concurrency=(1, 4),
    concurrency_else=(1, 4),
    window=15,
    long_window=30,
    long_rounds=1,
    rates=(),
    photo_sizes=((640, 480), (1920, 1280), (4000, 3000), (5664, 4248)),
    faces=(0, 6, 50),
    batches=(1, 4),
    link_mbit_s=(10,),
)
