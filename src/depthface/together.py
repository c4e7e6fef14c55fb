"""Several things at once, of which none goes on unwatched."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar, overload

__all__ = ["together"]

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")


@overload
async def together(first: Awaitable[A], second: Awaitable[B], /) -> tuple[A, B]: ...


@overload
async def together(*work: Awaitable[T]) -> tuple[T, ...]: ...


async def together(*work: Awaitable[Any]) -> tuple[Any, ...]:
    """Do all at once, and return what comes of each, in their order.

    The first that fails ends the others, and its error is raised as it is; `asyncio.gather` would leave them to
    themselves.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_awaited(one)) for one in work]
    except BaseExceptionGroup as failed:
        error = failed.exceptions[0]
    else:
        return tuple(task.result() for task in tasks)
    raise error  # out here it keeps its own cause and context


async def _awaited(work: Awaitable[T]) -> T:
    return await work
