"""Finds models whose Python process has died, and brings them back.

Triton notices a dead stub only when a request reaches it, answers every request from then on with an error, never
restarts it, and keeps both of its ready endpoints at 200. Unloading the model and loading it again recovers.

The processes themselves are looked at. A request would be counted by Triton, as a success or a failure nobody asked
for, and a backend that is not ours would compute it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from depthface_server import recoveries
from depthface_server.api import Api, ApiError
from depthface_server.processes import end

__all__ = ["Watchdog"]

_log = logging.getLogger(__name__)

_GRACE_S = 10.0
"""For what the living processes of a model still do when it is loaded anew."""

_COMPLAINT_S = 60.0
"""How often it is said that nothing can be watched."""


class Watchdog:
    """Looks at the processes of every model that is loaded, from a thread of its own, every `interval_s` seconds.

    Args:
        api: Triton's, with the operator's key.
        counts: the file in which recoveries are counted.
        processes: returns the IDs of the living Python processes by model; a network in Triton's own has none.

    Attributes:
        loaded: the models that were loaded at the last look; None before the first.
    """

    loaded: tuple[str, ...] | None = None

    def __init__(
        self, api: Api, counts: Path, processes: Callable[[], dict[str, set[int]]], interval_s: float = 2.0
    ) -> None:
        self._api = api
        self._counts = counts
        self._processes = processes
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._wanted: dict[str, int] = {}
        self._leaving: set[int] = set()
        self._failing = 0
        self._has_complained = False
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more; a recovery under way is left to its fate."""
        self._stop.set()

    def _watch(self) -> None:
        while not self._stop.is_set():
            try:
                self._look()
            except Exception as error:
                self._complain(error)
            else:
                if self._has_complained:
                    _log.warning("the models' processes are watched again")
                self._failing, self._has_complained = 0, False
            self._stop.wait(self._interval_s)

    def _complain(self, error: Exception) -> None:
        """Say that nothing is watched, once a minute; but not for one look alone, as when the server is going down."""
        self._failing += 1
        refused = isinstance(error, ApiError) and error.status in (401, 403)
        every = max(int(_COMPLAINT_S / self._interval_s), 1)
        if not self._stop.is_set() and (self._failing % every == 2 % every or (refused and self._failing == 1)):
            self._has_complained = True
            _log.error("the models' processes cannot be watched, one that dies stays dead: %s", error)

    def _look(self) -> None:
        loaded = self._ready()
        self.loaded = loaded
        self._wanted = {name: self._wanted[name] for name in loaded if name in self._wanted}
        stubs = self._processes()
        for name in loaded:
            living = len(stubs.get(name, set()) - self._leaving)
            if name not in self._wanted:
                self._wanted[name] = self._instances(name) if living else 0
            elif living < self._wanted[name] and name in self._ready():
                self._revive(name)

    def _ready(self) -> tuple[str, ...]:
        """By Triton's index, which does not know who is alive."""
        return tuple(model["name"] for model in self._api.index() if model.get("state") == "READY")

    def _instances(self, name: str) -> int:
        """As many processes as a model of Python has."""
        groups = self._api.config(name).get("instance_group", [])
        return sum(int(group.get("count", 1)) * max(len(group.get("gpus", [])), 1) for group in groups)

    def _revive(self, name: str) -> None:
        _log.warning("%s: its process died; starting it again", name)
        recoveries.add(self._counts, name)
        before = self._processes().get(name, set())
        try:
            self._api.unload(name)
            self._api.load(name)
        except ApiError as error:
            _log.error("%s: could not be started again (%s). Restart the server.", name, error)
            return
        _log.warning("%s: serves again", name)
        now = self._processes().get(name, set()) - before
        self._wanted[name] = min(len(now), self._wanted[name])
        # Triton waits for the dead one for ever, and leaves the living ones of before as they are (24.10).
        self._leaving |= before
        ending = threading.Timer(_GRACE_S, self._end, (name, before))
        ending.daemon = True
        ending.start()

    def _end(self, name: str, before: set[int]) -> None:
        end(before & self._processes().get(name, set()))
        self._leaving -= before
