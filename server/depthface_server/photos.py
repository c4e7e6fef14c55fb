"""The photos of one request, each run by a coroutine of its own: all are fit to be answered together, or none is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any

import numpy.typing as npt

from depthface.errors import InvalidInput
from depthface.spec import AskNetwork

__all__ = ["Value", "mixed_shapes", "run_together"]

Array = npt.NDArray[Any]
Value = Array | bytes
Inputs = tuple[Value | None, ...]


def mixed_shapes() -> InvalidInput:
    """Return the error of a request whose photos cannot go through a network together."""
    return InvalidInput(
        "The photos of one request need the same shape on the network's grid.",
        "Send photos of different shapes in requests of their own; the server batches them.",
    )


async def run_together(
    run: Callable[[AskNetwork, Inputs], Awaitable[Mapping[str, Value]]],
    infer: AskNetwork,
    photos: Sequence[Inputs],
    *,
    of_any_shape: bool = False,
) -> list[Mapping[str, Value]]:
    """Run a coroutine for each photo, at once.

    Args:
        of_any_shape: whether their answers are of one shape whatever they ask a network with.

    Raises:
        InvalidInput: they ask a network with tensors of different shapes; none of them has computed anything then.
    """
    meeting = _Meeting(len(photos), of_any_shape)
    tasks = [asyncio.ensure_future(_run_one(run, infer, photo, meeting)) for photo in photos]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


async def _run_one(
    run: Callable[[AskNetwork, Inputs], Awaitable[Mapping[str, Value]]],
    infer: AskNetwork,
    photo: Inputs,
    meeting: _Meeting,
) -> Mapping[str, Value]:
    first: asyncio.Future[None] | None = None

    async def ask(model: str, inputs: Mapping[str, Array], outputs: Collection[str]) -> dict[str, Array]:
        nonlocal first
        if first is None:
            first = asyncio.ensure_future(meeting.join(model, inputs))
        await first
        return await infer(model, inputs, outputs)

    try:
        return await run(ask, photo)
    except BaseException:
        meeting.spoil()
        raise
    finally:
        if first is None:
            meeting.leave()


class _Meeting:
    """Where the photos of a request wait for one another, each with its first question to a network."""

    def __init__(self, count: int, of_any_shape: bool) -> None:
        self._absent = count
        self._of_any_shape = of_any_shape
        self._shapes: set[tuple[object, ...]] = set()
        self._all_here = asyncio.Event()
        self._is_spoilt = False

    async def join(self, model: str, inputs: Mapping[str, Array]) -> None:
        """Wait for the others; raise `InvalidInput` if one has other shapes, or was refused."""
        self._shapes.add((model, *((name, array.shape) for name, array in sorted(inputs.items()))))
        self.leave()
        await self._all_here.wait()
        if self._is_spoilt or (len(self._shapes) > 1 and not self._of_any_shape):
            raise mixed_shapes()

    def leave(self) -> None:
        """Count a photo that is here, or that needs no network."""
        self._absent -= 1
        if self._absent == 0:
            self._all_here.set()

    def spoil(self) -> None:
        """Send everybody home: the request is refused as a whole."""
        self._is_spoilt = True
