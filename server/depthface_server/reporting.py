"""What a Python model tells besides its answers: metrics at Triton's /metrics, and lines in Triton's log.

Metrics, each by `model`:

    depthface_refused_total           requests refused, by `reason`: a code of `depthface.errors`, or `overloaded`
    depthface_decode_failures_total   of those, photos that could not be decoded
    depthface_failed_total            requests answered 500
    depthface_faces_per_photo         histogram
    depthface_recoveries              gauge: restarts of the model's process by the watchdog since the server started

A line in the log is one JSON object: `event`, `model`, `request_id`, and what there is to say.
"""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from depthface.errors import InvalidImage, InvalidInput
from depthface_server.recoveries import RECOVERIES, counted

__all__ = ["Report"]

_FACES = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 512.0)
"""Upper bounds of the histogram's buckets."""

_OVERLOADED = "overloaded"


class Report:
    """Of one model; several processes of one model add to the same metrics."""

    def __init__(self, model: str) -> None:
        self._model = model
        recoveries = self._metric("depthface_recoveries", "Restarts by the watchdog", "GAUGE")
        path = os.environ.get(RECOVERIES)
        if recoveries is not None and path:
            recoveries.set(counted(Path(path)).get(model, 0))

    def refused(self, request: Any, error: InvalidInput) -> None:
        """A request that is wrong."""
        if isinstance(error, InvalidImage):
            self._count("depthface_decode_failures_total", "Photos that could not be decoded")
        self._refused(request, error.code, str(error))

    def overloaded(self, request: Any, text: str) -> None:
        """A request that found a queue full."""
        self._refused(request, _OVERLOADED, text)

    def failed(self, request: Any, trace: str) -> None:
        """A request that the model failed at."""
        self._count("depthface_failed_total", "Requests answered 500")
        pb_utils.Logger.log_error(self._line("failed", request, trace=trace))

    def faces(self, count: int) -> None:
        """A photo that was answered."""
        histogram = self._metric("depthface_faces_per_photo", "Faces found in a photo", "HISTOGRAM")
        if histogram is not None:
            histogram.observe(count)

    def said(self, event: str, **facts: object) -> None:
        """Something that happened outside of any request."""
        pb_utils.Logger.log_info(json.dumps({"event": event, "model": self._model, **facts}))

    def _refused(self, request: Any, reason: str, text: str) -> None:
        self._count("depthface_refused_total", "Requests refused", reason=reason)
        pb_utils.Logger.log_warn(self._line("refused", request, reason=reason, message=text))

    def _line(self, event: str, request: Any, **facts: str) -> str:
        return json.dumps({"event": event, "model": self._model, "request_id": request.request_id(), **facts})

    def _count(self, name: str, description: str, **labels: str) -> None:
        metric = self._metric(name, description, "COUNTER", **labels)
        if metric is not None:
            metric.increment(1)

    def _metric(self, name: str, description: str, kind: str, **labels: str) -> Any:
        return _metric(name, description, kind, model=self._model, **labels)


@functools.cache
def _metric(name: str, description: str, kind: str, **labels: str) -> Any:
    """A metric of this process; None under `--allow-metrics=false`."""
    try:
        buckets = {"buckets": list(_FACES)} if kind == "HISTOGRAM" else {}
        return _family(name, description, kind).Metric(labels=labels, **buckets)
    except pb_utils.TritonModelException:
        return None


@functools.cache
def _family(name: str, description: str, kind: str) -> Any:
    family = pb_utils.MetricFamily  # not there yet while Triton only completes a config
    return family(name=name, description=description, kind=getattr(family, kind))
