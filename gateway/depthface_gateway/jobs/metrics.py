"""What Prometheus may ask: of a worker what it did, of the service what the tables say."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from depthface_gateway.jobs.models import ACTIVE, FINISHED
from depthface_gateway.jobs.queue import Queue

__all__ = ["TableMetrics", "WorkerMetrics", "as_text"]

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class WorkerMetrics:
    """What one worker did since its start."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.tries = Counter(
            "depthface_job_tries", "Tries of jobs, by how they ended.", ["task", "outcome"], registry=registry
        )
        self.seconds = Histogram(
            "depthface_job_seconds", "Seconds of a try.", ["task"], buckets=_SECONDS, registry=registry
        )
        self.taken_over = Counter(
            "depthface_jobs_taken_over", "Jobs of workers that were not heard of again.", registry=registry
        )


class TableMetrics(Collector):
    """What the tables say at the moment of the question, whoever did it."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Count."""
        counts = self._queue.counts()
        jobs = GaugeMetricFamily("depthface_jobs", "Jobs in each state.", labels=["status"])
        for status in (*ACTIVE, *FINISHED):
            jobs.add_metric([status], counts.get(status, 0))
        yield jobs
        yield GaugeMetricFamily("depthface_job_workers", "Workers that live.", value=self._queue.workers())

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Nothing: to register must not ask the database."""
        return []


def as_text(registry: CollectorRegistry) -> bytes:
    """Return all of a registry in Prometheus's text format."""
    return generate_latest(registry)
