"""What the service tells of itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from depthface.cores import Cores
from depthface_gateway.jobs.models import Status
from depthface_gateway.jobs.queue import Queue

__all__ = ["cpu_percent", "memory_percent", "status"]


def status(queue: Queue, at_once: int, uptime_s: float) -> dict[str, Any]:
    """Say how busy the service is.

    Args:
        at_once: the clips that one worker makes at once.
    """
    counts, workers = queue.counts(), queue.workers()
    waiting = counts.get(Status.PENDING, 0)
    return {
        "gpu_available": False,  # Triton has what there is
        "gpu_memory_used": None,
        "gpu_temperature": None,
        "gpu_utilization": None,
        "cpu_percent": cpu_percent(),
        "memory_percent": memory_percent(),
        "queue_length": waiting,
        "active_tasks": counts.get(Status.PROCESSING, 0),
        "max_concurrent_tasks": at_once,
        "status": "healthy" if workers else "degraded",
        "queue_size": waiting,
        "completed_tasks": counts.get(Status.COMPLETED, 0) + counts.get(Status.SYNC_FAILED, 0),
        "failed_tasks": counts.get(Status.ERROR, 0),
        "workers": workers,
        "uptime": round(uptime_s, 1),
    }


def cpu_percent() -> float:
    """Return how much of this process's cores the machine's load of the last minute would take, 0 to 100."""
    try:
        load = os.getloadavg()[0]
    except OSError:
        return 0.0
    return round(min(100 * load / Cores.found().count, 100.0), 1)


def memory_percent(meminfo: Path = Path("/proc/meminfo")) -> float:
    """Return how much of the machine's memory is taken, 0 to 100; 0 where there is no such file."""
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return 0.0
    sizes = {name: words.split()[0] for name, _, words in (line.partition(":") for line in lines) if words.strip()}
    total = int(sizes.get("MemTotal", "0"))
    available = int(sizes.get("MemAvailable", total))
    return round(100 * (1 - available / total), 1) if total else 0.0
