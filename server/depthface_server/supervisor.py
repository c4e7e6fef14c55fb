"""Starts a Triton that died again, more slowly each time, and gives up when it dies too often."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from depthface.errors import ServeError
from depthface_server.deaths import WITHIN_S, Deaths, doubled
from depthface_server.embedded import Triton
from depthface_server.watchdog import Watchdog

__all__ = ["MOST_RESTARTS", "supervise"]

_log = logging.getLogger(__name__)

MOST_RESTARTS = 5
"""More restarts than that many within `WITHIN_S` are not tried."""

_FIRST_PAUSE_S = 0.5
"""The pause before the first restart; it doubles with each further one."""


def supervise(triton: Triton, stop: threading.Event) -> None:
    """Watch a server that is ready until `stop` is set: its models' processes, and itself.

    It comes back with the models that it had, also those that an operator loaded; those that were unloaded stay out. A
    model that cannot be loaded then is tried until it can be.

    Raises:
        ServeError: it died once more after `MOST_RESTARTS` restarts within `WITHIN_S`.
    """
    deaths = Deaths()
    wake = threading.Event()
    _set_after(stop.wait, wake)
    failed: frozenset[str] = frozenset()
    while True:
        watchdog = Watchdog(triton.api, triton.recoveries, triton.processes, triton.count_processes, failed)
        watchdog.start()
        wake.clear()
        _set_after(triton.wait, wake)
        if not stop.is_set():
            wake.wait()
        watchdog.stop()
        if stop.is_set():
            return
        models = triton.models if watchdog.loaded is None else watchdog.loaded
        while (left := _restarted(triton, models, deaths, stop)) is None:
            pass
        failed = left
        if stop.is_set():
            return


def _set_after(wait: Callable[[], object], event: threading.Event) -> None:
    """Set an event when a call returns, from a thread of its own; it sleeps where asking now and then would compute."""

    def run() -> None:
        wait()
        event.set()

    threading.Thread(target=run, daemon=True).start()


def _restarted(triton: Triton, models: tuple[str, ...], deaths: Deaths, stop: threading.Event) -> frozenset[str] | None:
    """Try once; return the models that could not be loaded, or None if it died while it started."""
    cause = triton.cause()
    times = deaths.add(time.monotonic())
    if times > MOST_RESTARTS:
        raise ServeError(
            f"Triton {cause}, {times} times within {WITHIN_S / 60:.0f} minutes.",
            f"Its logs say what came before: {triton.log}, and {triton.log.name}.1 and on beside it.",
        )
    pause_s = doubled(_FIRST_PAUSE_S, times)
    _log.error(
        "Triton %s; its log is kept as %s.1; starting it again in %g s (%d of %d in %.0f minutes)",
        *(cause, triton.log, pause_s, times, MOST_RESTARTS, WITHIN_S / 60),
    )
    if stop.wait(pause_s):
        return frozenset()
    try:
        triton.restart(models, deaths.total)
        if not triton.wait_until_live(stop):
            return frozenset()
        failures = triton.failures()
    except ServeError as error:
        _log.error("%s", error)
        return None
    for name, reason in failures.items():
        _log.error("%s: could not be loaded again: %s", name, reason)
    _log.warning("Triton serves again at %s", triton.address.url)
    return frozenset(failures)
