"""Finds models whose Python process has died, by real inference, and brings them back.

Triton notices a dead stub only when a request reaches it, answers every request from then on with an error, never
restarts it, and keeps both of its ready endpoints at 200. Unloading the model and loading it again recovers.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
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
_LOAD_TIMEOUT_S = 300.0

_GRACE_S = 10.0
"""For what the living processes of a model still do when it is loaded anew."""


@dataclass(frozen=True)
class _Member:
    """A loaded model, a request that reaches one of its processes, and how many those are."""

    name: str
    request: tuple[InferInput, ...]
    processes: int


class Watchdog:
    """Probes every model that is loaded, from a thread of its own, every `interval_s` seconds.

    A probe is the smallest well-formed request, marked so that a model refuses it unrun. A model that refuses it is
    alive; so is one that is too busy to answer in time: a dead one answers at once.

    Args:
        address: `host:port`.
        headers: what a request to load or unload carries.
        counts: the file in which recoveries are counted.
        processes: the Python processes of a model.
        report: told of each recovery.
    """

    def __init__(
        self,
        address: str,
        headers: dict[str, str],
        counts: Path,
        processes: Callable[[str], set[int]],
        report: Callable[[str], None],
        interval_s: float = 2.0,
    ) -> None:
        self._address = address
        self._headers = headers
        self._counts = counts
        self._processes = processes
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
        with self._connected(_PROBE_TIMEOUT_S) as client:
            members: dict[str, _Member] = {}
            while not self._stop.wait(self._interval_s):
                try:
                    members = {name: members.get(name) or _member(client, name) for name in self._loaded(client)}
                    for member in members.values():
                        if _is_dead(client, member) and member.name in self._loaded(client):
                            self._revive(member.name)
                except Exception as error:  # the server is going down, or too busy: the next round sees
                    _log.debug("watchdog: %s", error)

    def _connected(self, timeout_s: float) -> InferenceServerClient:
        return InferenceServerClient(self._address, connection_timeout=_PROBE_TIMEOUT_S, network_timeout=timeout_s)

    def _loaded(self, client: InferenceServerClient) -> list[str]:
        """By Triton's index, which does not know who is alive."""
        index = client.get_model_repository_index(headers=self._headers)
        return [entry["name"] for entry in index if entry.get("state") == "READY"]

    def _revive(self, name: str) -> None:
        self._report(f"{name}: its process died; starting it again")
        recoveries.add(self._counts, name)
        before = self._processes(name)
        with self._connected(_LOAD_TIMEOUT_S) as client:
            try:
                client.unload_model(name, headers=self._headers)
                client.load_model(name, headers=self._headers)
            except (InferenceServerException, OSError) as error:
                self._report(f"{name}: could not be started again ({error}). Restart the server.")
            else:
                self._report(f"{name}: serves again")
                # Triton waits for the dead one for ever, and leaves the living ones of before as they are (24.10).
                ending = threading.Timer(_GRACE_S, lambda: _end(before & self._processes(name)))
                ending.daemon = True
                ending.start()


def _end(processes: set[int]) -> None:
    for pid in processes:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _member(client: InferenceServerClient, name: str) -> _Member:
    inputs = client.get_model_metadata(name)["inputs"]
    groups = client.get_model_config(name)["instance_group"]
    return _Member(name, tuple(_probe(tensor) for tensor in inputs), sum(int(group["count"]) for group in groups))


def _probe(tensor: dict[str, Any]) -> InferInput:
    shape = [max(int(dim), 1) for dim in tensor["shape"]]
    probe = InferInput(tensor["name"], shape, tensor["datatype"])
    data_type = triton_to_np_dtype(tensor["datatype"])
    probe.set_data_from_numpy(np.full(shape, b"" if data_type == np.object_ else 1, data_type))
    return probe


def _is_dead(client: InferenceServerClient, member: _Member) -> bool:
    """Whether one of its processes is: those that wait take turns, and a dead one always waits."""
    for _ in range(member.processes):
        try:
            client.infer(member.name, list(member.request), parameters={PROBE: True})
        except InferenceServerException as error:
            if _DEAD in str(error):
                return True
        except OSError:  # no answer in time: all are at work
            return False
    return False
