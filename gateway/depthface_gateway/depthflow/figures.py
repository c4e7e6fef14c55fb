"""What the service tells of itself: how busy it is, what became of its tasks, and which failed.

All but the machine's load is read from the table of jobs, so that it outlives a restart and counts all workers. The
table keeps what a failed task says, and not of which kind its error was: all errors are of one type.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from sqlalchemy import func, select

from depthface.cores import Cores
from depthface_gateway.depthflow.wire import time_of
from depthface_gateway.jobs.core import Core
from depthface_gateway.jobs.models import Job, Status
from depthface_gateway.jobs.queue import Queue

__all__ = ["cpu_percent", "errors", "health_of", "memory_percent", "metrics", "status"]

_ERROR_TYPE = "task_failed"

_TIMED = 100  # clips whose time is averaged
_MOST_ERRORS, _RECENT_ERRORS = 1000, 10
_RATE_MS, _HOUR_MS = 300_000, 3_600_000
_WARNING, _CRITICAL = 0.2, 0.5  # the share of tasks that failed


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
        "completed_tasks": _completed(counts),
        "failed_tasks": counts.get(Status.ERROR, 0),
        "workers": workers,
        "uptime": round(uptime_s, 1),
    }


def _completed(counts: Mapping[str, int]) -> int:
    """Return how many tasks have their clip, whoever took the webhook."""
    return counts.get(Status.COMPLETED, 0) + counts.get(Status.SYNC_FAILED, 0)


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


def metrics(core: Core) -> dict[str, Any]:
    """Count tasks, what they took and what failed. Nothing is measured beside the tasks: two fields are empty."""
    queue = core.queue
    counts = queue.counts()
    total, failed = sum(counts.values()), counts.get(Status.ERROR, 0)
    retries, seconds = _retries_and_seconds(queue)
    return {
        "timestamp": time_of(queue.now_ms()),
        "task_stats": {
            "total_tasks": total,
            "completed_tasks": _completed(counts),
            "failed_tasks": failed,
            "retried_tasks": retries,
            "average_processing_time": seconds,
        },
        "error_counts": {_ERROR_TYPE: failed} if failed else {},
        "error_rates_5min": {_ERROR_TYPE: _failed(queue, _RATE_MS)[0]} if failed else {},
        "recent_metrics": {},
        "active_timers": [],
        "system_health": health_of(total, failed),
        "tasks": counts,
        "storage": {"used_bytes": core.store.usage_bytes(), "free_bytes": shutil.disk_usage(core.store.root).free},
    }


def _retries_and_seconds(queue: Queue) -> tuple[int, float]:
    """Return how often a task was tried again, and what the latest clips took on average; 0.0 before the first."""
    mine = Job.task_type.in_(queue.task_types)
    latest = select(Job.result).where(mine, Job.result.is_not(None)).order_by(Job.completed_at.desc()).limit(_TIMED)
    with queue.database.reading() as session:
        retries = session.scalar(select(func.sum(Job.retry_count)).where(mine))
        results = [json.loads(result or "{}") for result in session.scalars(latest)]
    seconds = [result["processing_time"] for result in results if "processing_time" in result]  # older ones have none
    return int(retries or 0), round(fmean(seconds), 3) if seconds else 0.0


def health_of(total: int, failed: int) -> str:
    """Return the original's word for such a share of failures."""
    if not total:
        return "unknown"
    share = failed / total
    return "critical" if share > _CRITICAL else "warning" if share > _WARNING else "healthy"


def errors(queue: Queue, hours: float) -> dict[str, Any]:
    """Count the tasks that failed lately, and name the latest of them first."""
    count, failed = _failed(queue, round(_HOUR_MS * hours))
    said = [
        {
            "timestamp": time_of(job.completed_at or job.created_at),
            "type": _ERROR_TYPE,
            "message": job.error_message,
            "task_id": job.job_id,
        }
        for job in failed
    ]
    of_type = {"count": count, "percentage": 100.0, "latest_error": said[0]["message"] if said else None}
    return {
        "time_range": f"last {hours:g} h",
        "total_errors": count,
        "error_types": {_ERROR_TYPE: of_type} if said else {},
        "recent_errors": said[:_RECENT_ERRORS],
        "errors": said,
        "total": count,
        "hours": hours,
    }


def _failed(queue: Queue, within_ms: int) -> tuple[int, Sequence[Job]]:
    """Return how many tasks failed within so long, and the latest of them, the latest first."""
    mine = Job.task_type.in_(queue.task_types)
    with queue.database.reading() as session:
        since_ms = queue.database.now_ms(session) - within_ms
        failed = (mine, Job.status == Status.ERROR, Job.completed_at >= since_ms)
        count = session.scalar(select(func.count()).select_from(Job).where(*failed)) or 0
        latest = select(Job).where(*failed).order_by(Job.completed_at.desc(), Job.id.desc()).limit(_MOST_ERRORS)
        return count, session.scalars(latest).all()
