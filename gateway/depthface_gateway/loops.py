"""What is done again and again beside everything else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from depthface.errors import DepthfaceError

__all__ = ["repeat"]

_log = logging.getLogger(__name__)


async def repeat(
    step: Callable[[], Awaitable[object]],
    every_s: float,
    failed: str,
    expected: tuple[type[Exception], ...] = (DepthfaceError, OSError),
) -> None:
    """Do it for ever. What it raises is told in the log and ends nothing, for nobody would see that it has ended.

    Args:
        every_s: the pause between the end of one and the next.
        failed: what the log says first of one that failed.
        expected: errors whose first line says enough; others are told with their traces.
    """
    while True:
        try:
            await step()
        except Exception as error:  # such as no more memory, or no more threads: it may be better the next time
            line = (str(error).splitlines() or [type(error).__name__])[0]
            _log.error("%s: %s", failed, line, exc_info=None if isinstance(error, expected) else error)
        await asyncio.sleep(every_s)
