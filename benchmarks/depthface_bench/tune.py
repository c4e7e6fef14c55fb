"""`make tune`: instances × threads × batch × delay of the depth network, on the cores there are."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from depthface import config
from depthface.cores import Cores
from depthface.errors import DepthfaceError
from depthface_bench.figures import Spread
from depthface_bench.perf_analyzer import Load, Measured, Unstable, drive
from depthface_bench.repositories import DEPTH_NETWORK, MEASURED_DEPTH, Setting, overridden
from depthface_bench.servers import serving
from depthface_bench.setup import Tool

__all__ = ["Tried", "chosen", "settings", "table", "tried", "verdict"]


@dataclass(frozen=True)
class Tried:
    """What a setting gave at each concurrency; None where it was unstable."""

    setting: Setting
    found: tuple[Measured | None, ...]


def settings(cores: int) -> list[Setting]:
    """All splits of the cores into instances and threads, never more threads than cores; each with and without
    batches, and those with and without waiting for them. The first is the default."""
    splits = [(count, cores // count) for count in range(1, cores + 1) if cores % count == 0]
    batches = [(1, 0), (8, 0), (4, 0), (4, 20_000)]
    return [Setting(*split, *batch) for split, batch in itertools.product(splits, batches)]


def tried(
    tool: Tool,
    repository: Path,
    data: Path,
    some: Sequence[Setting],
    loads: Sequence[Load],
    report: Callable[[str], None],
) -> list[Tried]:
    """Serve a copy of the repository with each setting and drive it."""
    found = []
    for setting in some:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder, "repository")
            overridden(repository, copy, DEPTH_NETWORK, setting)
            with serving(copy) as served:
                results: list[Measured | None] = []
                for load in loads:
                    try:
                        results.append(drive(tool, served.host, MEASURED_DEPTH, data, load))
                    except Unstable as error:
                        report(f"UNSTABLE {setting}: {error}")
                        results.append(None)
        found.append(Tried(setting, tuple(results)))
        report(f"{setting}: {', '.join(_rate(one) for one in results)}")
    return found


def table(found: Sequence[Tried], concurrency: Sequence[int]) -> str:
    """The settings as Markdown, the fastest at the highest concurrency first."""
    if not found:
        raise DepthfaceError("Nothing was tried.")
    order = sorted(found, key=lambda one: -(one.found[-1].throughput if one.found[-1] else 0))
    header = ["instances", "threads", "batch", "delay µs"]
    for count in concurrency:
        header += [f"requests/s at {count}", "p50 ms", "p99 ms"]
    lines = [header, ["---"] * len(header)]
    for one in order:
        setting = one.setting
        line = [str(value) for value in (setting.instances, setting.threads, setting.batch, setting.delay_us)]
        for measured in one.found:
            times = (f"{measured.p50_ms:.0f}", f"{measured.p99_ms:.0f}") if measured else ("–", "–")
            line += [_rate(measured), *times]
        lines.append(line)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def chosen(repository: Path, network: str, cores: Cores) -> Setting:
    """Return how `depthface serve` runs a network by itself: the config says all but the threads, one for each core."""
    found = config.of_model(repository / network)
    batching = found.dynamic_batching
    return Setting(
        instances=sum(group.count for group in found.instance_group) or 1,
        threads=cores.count,
        batch=max(batching.preferred_batch_size, default=1),
        delay_us=batching.max_queue_delay_microseconds,
    )


def verdict(found: Sequence[Tried], rule: Setting, concurrency: Sequence[int]) -> str:
    """Say of each concurrency whether the best that was measured agrees with what `serve` chooses, and by how much.

    They differ where every window of the best was quicker than every one of the rule.
    """
    lines = [f"`depthface serve` chooses by itself: {rule}."]
    own = next((one.found for one in found if one.setting == rule), None)
    if own is None:
        return f"{lines[0]} It was not among the settings."
    for index, count in enumerate(concurrency):
        measured = [(one.setting, each) for one in found if (each := one.found[index]) is not None]
        ours = own[index]
        if ours is None or not measured:
            lines.append(f"At {count} at once: unstable, so nothing can be said.")
            continue
        setting, best = max(measured, key=lambda pair: pair[1].throughput)
        times = best.throughput / ours.throughput
        if setting == rule:
            lines.append(f"At {count} at once: confirmed, it is the best measured, {_rate(ours)} requests/s.")
        elif min(best.windows) <= max(ours.windows):
            lines.append(
                f"At {count} at once: confirmed, {_rate(ours)} requests/s. The best measured, {setting}, is "
                f"{times:.2f}× as quick, which is within what the windows of the two differ by themselves."
            )
        else:
            lines.append(
                f"At {count} at once: NOT the best, {_rate(ours)} requests/s. {setting} is {times:.2f}× as quick, "
                f"{_rate(best)}."
            )
    return "\n".join(lines)


def _rate(measured: Measured | None) -> str:
    if measured is None:
        return "unstable"
    return Spread(measured.throughput, min(measured.windows), max(measured.windows)).text(2)
