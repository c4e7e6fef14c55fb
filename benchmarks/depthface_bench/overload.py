"""`make overload`: ten times what the server can do, for two minutes.

The capacity is measured first, with as many clients as keep the server busy. Then requests come at ten
times that rate, whether or not earlier ones have been answered. Printed: how long accepted requests took against what
the queue limit is worth (its length over the capacity), how soon the others were refused, and the server's memory.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter
from pathlib import Path

import click
import numpy as np

from depthface_bench.repositories import DEPTH
from depthface_bench.servers import Process, serving
from depthface_client import AsyncClient, ServerOverloaded
from depthface_export.cli import export

_QUEUE = 16
_TIMES = 10
_CLIENTS = 8
"""Of the measurement of the capacity: enough to be always waited for, and too few to be refused."""

_MEMORY_SAMPLES = 16
_CALIBRATION_S = 20.0
_PHOTO_PX = (48, 64)

Sample = tuple[float, str, float]
"""When a request began, in seconds from the start; what came of it; how many seconds that took."""


@click.command()
@click.option("--seconds", default=120.0, show_default=True, help="How long the overload lasts.")
def main(seconds: float) -> None:
    """Overload a server of its own and print the figures; exit 1 if one is not what it should be."""
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder, "model_repository")
        export.main([DEPTH, "--weights", "random", "--repository", str(repository)], standalone_mode=False)
        with serving(repository, "--queue-size", str(_QUEUE)) as served:
            is_good = asyncio.run(_measured(served, seconds))
    if not is_good:
        raise SystemExit(1)


async def _measured(served: Process, seconds: float) -> bool:
    photo = np.random.default_rng(0).integers(0, 255, (*_PHOTO_PX, 3), np.uint8)
    started = time.monotonic()
    samples: list[Sample] = []
    async with AsyncClient(served.host, connections=100_000, timeout_s=600) as client:

        async def ask() -> None:
            began = time.monotonic()
            try:
                await client.depth(photo)
                outcome = "accepted"
            except ServerOverloaded:
                outcome = "refused"
            samples.append((began - started, outcome, time.monotonic() - began))

        async def one_after_another() -> None:
            while time.monotonic() - started < _CALIBRATION_S:
                await ask()

        await ask()
        await asyncio.gather(*(one_after_another() for _ in range(_CLIENTS)))
        capacity = sum(outcome == "accepted" for _, outcome, _ in samples[1:]) / (time.monotonic() - started)
        worth_s = _QUEUE / capacity
        click.echo(f"capacity {capacity:.2f}/s; a queue of {_QUEUE} is worth {worth_s:.1f} s")

        samples.clear()
        memory: list[int] = []
        started = time.monotonic()
        tasks: set[asyncio.Task[None]] = set()
        while (elapsed := time.monotonic() - started) < seconds:
            tasks.add(asyncio.create_task(ask()))
            if elapsed >= len(memory) * seconds / _MEMORY_SAMPLES:
                memory.append(await asyncio.to_thread(served.memory_bytes))
            due = started + (len(tasks) + 1) / (_TIMES * capacity)
            await asyncio.sleep(max(due - time.monotonic(), 0))
        await asyncio.gather(*tasks)
    return _reported(samples, worth_s, memory)


def _reported(samples: list[Sample], worth_s: float, memory: list[int]) -> bool:
    counts = Counter(outcome for _, outcome, _ in samples)
    seconds = {
        outcome: np.percentile([took for _, name, took in samples if name == outcome], [50, 99, 100])
        for outcome in counts
    }
    for outcome, (median, p99, most) in seconds.items():
        click.echo(f"{outcome:9} {counts[outcome]:6}: median {median:.2f} s, p99 {p99:.2f} s, most {most:.2f} s")
    click.echo("memory over time: " + ", ".join(f"{value / 1e6:.0f}" for value in memory) + " MB")
    # Its first half is warm-up.
    growth = memory[-1] / memory[len(memory) // 2] - 1
    ratio = seconds["accepted"][1] / worth_s
    click.echo(f"accepted p99 is {ratio:.2f} × the queue's worth (limit 2)")
    click.echo(f"memory in the second half {growth:+.1%} (limit 5 %)")
    return bool(ratio <= 2 and growth <= 0.05 and set(counts) == {"accepted", "refused"})


if __name__ == "__main__":
    main()
