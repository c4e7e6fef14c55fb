"""Finds models whose Python process has died, and brings them back.

Triton notices a dead stub only when a request reaches it, answers every request from then on with an error, never
restarts it, and keeps both of its ready endpoints at 200. Unloading the model and loading it again recovers.

The processes themselves are looked at. A request would be counted by Triton, as a success or a failure nobody asked
for, and a backend that is not ours would compute it. How many there should be a model's config says, and nothing else:
who counts those that live when he first looks never misses the one that has died before.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from depthface_server import recoveries
from depthface_server.api import Api, ApiError
from depthface_server.deaths import WITHIN_S, Deaths, doubled
from depthface_server.processes import end

__all__ = ["Watchdog"]

_log = logging.getLogger(__name__)

Processes = Mapping[str, frozenset[int]]

_GRACE_S = 10.0
"""For what the living processes of a model still do when it is loaded anew."""

_COMPLAINT_S = 60.0
"""How often it is said that nothing can be watched."""

_ASK_AGAIN_S = 10.0
"""Triton is asked what is loaded when processes have come or gone, and else so seldom: a request is not cheap."""

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 2.0, 60.0
"""A model is started again at once after its first death. After the second there is a pause, which then doubles."""

_NONE: frozenset[int] = frozenset()


class Watchdog:
    """Looks at the processes of every model that is loaded, from a thread of its own, every `interval_s` seconds.

    Args:
        api: Triton's, with the operator's key.
        counts: the file in which recoveries are counted.
        processes: returns the IDs of the living Python processes by model; a network in Triton's own has none.
        count: returns how many a version of a loaded model has by its config; raises `ApiError`.
        failed: models that are to be loaded and could not be; they are tried until they can be.

    Attributes:
        loaded: the models that were loaded at the last look, or are to be again; None before the first.
    """

    loaded: tuple[str, ...] | None = None

    def __init__(
        self,
        api: Api,
        counts: Path,
        processes: Callable[[], Processes],
        count: Callable[[str], int],
        failed: Iterable[str] = (),
        interval_s: float = 2.0,
    ) -> None:
        self._api = api
        self._counts = counts
        self._processes = processes
        self._count = count
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._seen: Processes | None = None
        self._asked_s = 0.0
        self._has_revived = False
        self._wanted: dict[str, tuple[frozenset[int], int]] = {}
        self._deaths: defaultdict[str, Deaths] = defaultdict(Deaths)
        self._due: dict[str, float] = {}
        self._failed = set(failed)
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
        living, now_s = self._processes(), time.monotonic()
        is_quiet = living == self._seen and not self._due and not self._failed
        if is_quiet and now_s < self._asked_s + _ASK_AGAIN_S:
            return
        self._seen, self._has_revived = None, False
        ready = self._api.ready()
        self._failed -= ready.keys()
        self.loaded = (*ready, *sorted(self._failed))
        self._wanted = {name: self._wanted[name] for name in ready if name in self._wanted}
        # One that an operator has taken out meanwhile stays out.
        self._due = {name: due_s for name, due_s in self._due.items() if name in self.loaded}
        for name, versions in ready.items():
            if not self._is_short(name, versions, living):
                self._due.pop(name, None)
            elif self._is_still_short(name):
                self._revive_when_due(name)
        for name in sorted(self._failed):
            self._revive_when_due(name)
        if not self._has_revived:
            self._seen, self._asked_s = living, now_s

    def _is_short(self, name: str, versions: int, living: Processes) -> bool:
        """Return whether a model has fewer processes than its config says, which is read when those have changed."""
        found = living.get(name, _NONE) - self._leaving
        if name not in self._wanted or self._wanted[name][0] != found:
            try:
                self._wanted[name] = found, self._count(name)
            except ApiError as error:
                if error.status in (400, 404):  # it was taken out just now
                    return False
                raise
        return len(found) < versions * self._wanted[name][1]

    def _is_still_short(self, name: str) -> bool:
        """Look once more: its processes have also ended if it was taken out since Triton was asked, and it is back."""
        versions = self._api.ready()[name]
        return self._is_short(name, versions, self._processes())

    def _revive_when_due(self, name: str) -> None:
        now_s = time.monotonic()
        if name not in self._due:
            times = self._deaths[name].add(now_s)
            pause_s = min(doubled(_FIRST_PAUSE_S, times - 1), _LONGEST_PAUSE_S) if times > 1 else 0.0
            self._due[name] = now_s + pause_s
            if pause_s:
                _log.warning(
                    "%s: died, or could not be started, %d times within %.0f minutes; starting it again in %g s",
                    *(name, times, WITHIN_S / 60, pause_s),
                )
        if self._due[name] <= now_s and not self._stop.is_set():
            del self._due[name]
            self._revive(name)

    def _revive(self, name: str) -> None:
        self._has_revived = True
        what = "it could not be started" if name in self._failed else "its process died"
        _log.warning("%s: %s; starting it again", name, what)
        try:
            recoveries.add(self._counts, name)
        except OSError as error:
            _log.error("%s: that is not counted: %s", name, error)
        before = self._processes().get(name, _NONE)
        try:
            self._api.unload(name)
            self._api.load(name)
        except ApiError as error:
            _log.error("%s: could not be started again: %s", name, error)
            self._failed.add(name)
            return
        _log.warning("%s: serves again", name)
        if not before:
            return
        # Triton waits for the dead one for ever, and leaves the living ones of before as they are (24.10).
        self._leaving |= before
        ending = threading.Timer(_GRACE_S, self._end, (name, before))
        ending.daemon = True
        ending.start()

    def _end(self, name: str, before: frozenset[int]) -> None:
        end(before & self._processes().get(name, _NONE))
        self._leaving -= before
