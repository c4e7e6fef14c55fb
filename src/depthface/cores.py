"""How many processors this process may use: those that it is bound to, and no more than its container's share of them.

`docker run --cpus 2` and Kubernetes' limits set a quota of time, not a mask: all processors stay in sight, and who
starts a thread for each is stopped for most of every tenth of a second.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Cores"]


@dataclass(frozen=True)
class Cores:
    """The processors of this process.

    Attributes:
        bound: that its mask lets it run on (`taskset`, cpusets).
        quota: whose time its control groups give it, such as 1.5; None without a limit.
    """

    bound: int
    quota: float | None = None

    @property
    def count(self) -> int:
        """As many as are worth a thread each: at least 1."""
        return self.bound if self.quota is None else max(1, min(self.bound, math.ceil(self.quota)))

    def __str__(self) -> str:
        share = "no limit of a container" if self.quota is None else f"a container's limit of {self.quota:g}"
        return f"{self.count} (bound to {self.bound}, {share})"

    @classmethod
    def found(cls, root: Path = Path("/")) -> Cores:
        """Return those of this process; `root` is where /proc and /sys lie."""
        bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # macOS
        return cls(bound, min(_quotas(root), default=None))


def _quotas(root: Path) -> Iterator[float]:
    """Each limit, in processors, of this process's control groups and of those above them (cgroups(7))."""
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    mounts = root / "sys/fs/cgroup"
    for group in groups:
        _, controllers, path = group.split(":", 2)
        if not controllers:  # version 2
            for folder in _upwards(mounts, path):
                with suppress(OSError, ValueError):
                    quota, period = (folder / "cpu.max").read_text().split()
                    yield int(quota) / int(period)  # "max" is no number
        elif "cpu" in controllers.split(","):
            # The mount's name may have the controllers in another order; beside it is a link with the name of the one.
            for folder in (*_upwards(mounts / controllers, path), *_upwards(mounts / "cpu", path)):
                with suppress(OSError, ValueError):
                    quota_us = int((folder / "cpu.cfs_quota_us").read_text())
                    if quota_us > 0:
                        yield quota_us / int((folder / "cpu.cfs_period_us").read_text())


def _upwards(mount: Path, path: str) -> Iterator[Path]:
    """Yield the folder of a group and those above it, up to the mount; in a container that alone may be there."""
    folder = mount / path.lstrip("/")
    yield folder
    while folder != mount:
        folder = folder.parent
        yield folder
