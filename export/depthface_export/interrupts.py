"""Signals that wait until what must not be cut in two is done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

__all__ = ["hold_signals"]


@contextmanager
def hold_signals() -> Iterator[Sequence[int]]:
    """Let SIGINT, SIGTERM and SIGHUP wait for the end of the block; yield those that wait by now.

    In the import of a C++ library, and where one calls us, an interrupt aborts the process. Between two renames it
    would leave networks of two exports side by side.
    """
    if threading.current_thread() is not threading.main_thread():
        yield ()
        return
    waiting: list[int] = []
    numbers = [
        number
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) != signal.SIG_IGN  # as in the background of a shell, or under nohup
    ]
    handlers = {number: signal.signal(number, lambda number, _: waiting.append(number)) for number in numbers}
    try:
        yield waiting
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for came in waiting:
        signal.raise_signal(came)
