"""What a Python model tells besides its answers: metrics at Triton's /metrics, and lines in Triton's log.

Metrics, each by `model`, all there from the load on:

    depthface_refused_total           requests refused, by `reason`: a code of `depthface.errors`; or `overloaded`,
                                      where a model that a pipeline asks is. A full queue of the model itself is not
                                      in it: Triton refuses before any Python runs, and counts that in
                                      nv_inference_request_failure{reason="REJECTED"}
    depthface_decode_failures_total   of those, photos refused as unusable: no photo, damaged, too small or too long
    depthface_failed_total            requests answered 500
    depthface_faces_per_photo         histogram, of a model that counts faces
    depthface_recoveries              gauge: restarts of the model's process by the watchdog since `serve` started; of
                                      an ensemble, each step by itself
    depthface_restarts                gauge: restarts of Triton itself since then, the same for every model

A line in the log is one JSON object: `event`, `model`, `request_id`, and what there is to say.
"""

from __future__ import annotations

import functools
import json
from typing import Any

import triton_python_backend_utils as pb_utils

from depthface.errors import InvalidImage, InvalidInput
from depthface_server import recoveries

__all__ = ["Report"]

_FACES = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 512.0)
"""Upper bounds of the histogram's buckets."""

_OVERLOADED = "overloaded"

_MOST_ID = 128
"""Signs of a request's id that a line of the log has; the client chooses it, as long as it likes."""


class Report:
    """Of one model; several processes of one model add to the same metrics.

    Args:
        model: its name.
        part_of: of a step of an ensemble: the public model, under whose name it counts.
        counts_faces: it has a histogram of faces.
    """

    def __init__(self, model: str, *, part_of: str | None = None, counts_faces: bool = False) -> None:
        self._model = part_of or model
        self._set("depthface_recoveries", model, "Restarts by the watchdog", recoveries.of_model(model))
        self._set("depthface_restarts", model, "Restarts of Triton", recoveries.restarts())
        self._decode_failures = self._metric("depthface_decode_failures_total", "Photos refused as unusable", "COUNTER")
        self._failures = self._metric("depthface_failed_total", "Requests answered 500", "COUNTER")
        self._refusals = {reason: self._refusals_of(reason) for reason in (*_codes(InvalidInput), _OVERLOADED)}
        self._faces = None
        if counts_faces:
            self._faces = self._metric("depthface_faces_per_photo", "Faces found in a photo", "HISTOGRAM")

    def record_refusal(self, request: Any, error: InvalidInput) -> None:
        """Record a request that was answered 400."""
        if isinstance(error, InvalidImage):
            _add_one(self._decode_failures)
        self._refuse(request, error.code, str(error))

    def record_overload(self, request: Any, text: str) -> None:
        """Record a request for which a model that the pipeline asks has a full queue, or let it wait too long."""
        self._refuse(request, _OVERLOADED, text)

    def record_failure(self, request: Any, trace: str) -> None:
        """Record a request that was answered 500."""
        _add_one(self._failures)
        pb_utils.Logger.log_error(self._line("failed", request, trace=trace))

    def record_faces(self, count: int) -> None:
        """Record the faces of a photo that was answered."""
        if self._faces is not None:
            self._faces.observe(count)

    def log_event(self, event: str, **facts: object) -> None:
        """Log something that happened outside of any request."""
        pb_utils.Logger.log_info(json.dumps({"event": event, "model": self._model, **facts}))

    def _refuse(self, request: Any, reason: str, text: str) -> None:
        _add_one(self._refusals.get(reason))
        pb_utils.Logger.log_warn(self._line("refused", request, reason=reason, message=text))

    def _line(self, event: str, request: Any, **facts: str) -> str:
        request_id = request.request_id()[:_MOST_ID]
        return json.dumps({"event": event, "model": self._model, "request_id": request_id, **facts})

    def _refusals_of(self, reason: str) -> Any:
        return self._metric("depthface_refused_total", "Requests refused", "COUNTER", reason=reason)

    def _set(self, name: str, model: str, description: str, value: int) -> None:
        metric = self._metric(name, description, "GAUGE", model=model)
        if metric is not None:
            metric.set(value)

    def _metric(self, name: str, description: str, kind: str, **labels: str) -> Any:
        """Return a metric of this process; None under `--allow-metrics=false`."""
        try:
            buckets = {"buckets": list(_FACES)} if kind == "HISTOGRAM" else {}
            return _family(name, description, kind).Metric(labels={"model": self._model, **labels}, **buckets)
        except pb_utils.TritonModelException:
            return None


def _codes(base: type[InvalidInput]) -> set[str]:
    """Return the codes of an error and of those derived from it."""
    return {base.code}.union(*(_codes(derived) for derived in base.__subclasses__()))


def _add_one(metric: Any) -> None:
    if metric is not None:
        metric.increment(1)


@functools.cache
def _family(name: str, description: str, kind: str) -> Any:
    family = pb_utils.MetricFamily  # not there yet while Triton only completes a config
    return family(name=name, description=description, kind=getattr(family, kind))
