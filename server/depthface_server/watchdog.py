"""Finds Python steps whose process has died, by real inference, and brings them back.

Triton notices a dead stub only when a request reaches it, answers every request from then on with an error, never
restarts it, and keeps both of its ready endpoints at 200. Unloading the model and loading it again recovers.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient.http import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from depthface_server import recoveries
from depthface_server.probe import PROBE

__all__ = ["Watchdog"]

_log = logging.getLogger(__name__)

_DEAD = "is not healthy"
"""What Triton answers for a stub that died (python_backend, python_be.cc: `Stub process '…' is not healthy.`)."""

_PROBE_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class _Member:
    """A loaded model that runs in a Python process, and a request that reaches it."""

    name: str
    inputs: tuple[InferInput, ...]


class Watchdog:
    """Probes every Python-backed model of a server from a thread of its own, every `interval_s` seconds.

    A probe is the smallest well-formed request, marked so that a model refuses it unrun. A model that refuses it is
    alive; so is one that is too busy to answer in time: a dead one answers at once.

    Args:
        address: `host:port`.
        headers: what a request to load or unload carries.
        models: loaded when the server starts.
        late: networks that may be loaded or not.
        counts: the file in which recoveries are counted.
        report: told of each recovery.
    """

    def __init__(
        self,
        address: str,
        headers: dict[str, str],
        models: tuple[str, ...],
        late: tuple[str, ...],
        counts: Path,
        report: Callable[[str], None],
        interval_s: float = 2.0,
    ) -> None:
        self._address = address
        self._headers = headers
        self._models = models
        self._late = late
        self._counts = counts
        self._report = report
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Probe no more; a probe under way is left to its fate."""
        self._stop.set()

    def _watch(self) -> None:
        # gevent's client belongs to the thread that made it.
        client = InferenceServerClient(
            self._address, connection_timeout=_PROBE_TIMEOUT_S, network_timeout=_PROBE_TIMEOUT_S
        )
        members: dict[str, _Member] = {}
        while not self._stop.wait(self._interval_s):
            try:
                members = members or {member.name: member for member in self._members(client)}
                for name in self._late:
                    if name not in members and client.is_model_ready(name):
                        members[name] = _member(client, name)
                for member in members.values():
                    if _is_dead(client, member):
                        self._revive(client, member.name)
            except Exception as error:  # the server is going down, or too busy: the next round sees
                _log.debug("watchdog: %s", error)
        client.close()

    def _members(self, client: InferenceServerClient) -> Iterator[_Member]:
        """The Python-backed steps of the public models, each once."""
        configs = {model: client.get_model_config(model) for model in self._models}
        for config in list(configs.values()):
            for step in config.get("ensemble_scheduling", {}).get("step", []):
                configs[step["model_name"]] = client.get_model_config(step["model_name"])
        for name, config in sorted(configs.items()):
            if "ensemble_scheduling" in config:  # no process of its own
                continue
            yield _member(client, name)

    def _revive(self, client: InferenceServerClient, name: str) -> None:
        self._report(f"{name}: its process died; starting it again")
        recoveries.add(self._counts, name)
        client.unload_model(name, headers=self._headers)
        # Loading an ensemble loads the steps that it lacks, and nothing twice.
        for model in (name,) if name in self._late else self._models:
            client.load_model(model, headers=self._headers)
        self._report(f"{name}: serves again")


def _member(client: InferenceServerClient, name: str) -> _Member:
    inputs = client.get_model_metadata(name)["inputs"]
    return _Member(name, tuple(_probe(tensor) for tensor in inputs))


def _probe(tensor: dict[str, Any]) -> InferInput:
    shape = [max(int(dim), 1) for dim in tensor["shape"]]
    probe = InferInput(tensor["name"], shape, tensor["datatype"])
    data_type = triton_to_np_dtype(tensor["datatype"])
    probe.set_data_from_numpy(np.full(shape, b"" if data_type == np.object_ else 1, data_type))
    return probe


def _is_dead(client: InferenceServerClient, member: _Member) -> bool:
    try:
        client.infer(member.name, list(member.inputs), parameters={PROBE: True})
    except InferenceServerException as error:
        return _DEAD in str(error)
    except OSError:  # no answer in time
        return False
    return False
