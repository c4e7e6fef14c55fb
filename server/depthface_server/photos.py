"""The photos of one request, and its parameters: what a pipeline's coroutine is given, checked first."""

from __future__ import annotations

import asyncio
import inspect
import math
import types
import typing
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any

import numpy.typing as npt

from depthface.errors import InvalidInput
from depthface.spec import AskNetwork

__all__ = ["Value", "checked_options", "mixed_shapes", "run_together", "types_of_options"]

Array = npt.NDArray[Any]
Value = Array | bytes
Inputs = tuple[Value | None, ...]

_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def types_of_options(run: Callable[..., Any]) -> dict[str, type]:
    """Return the keyword-only arguments of a coroutine and their types: bool, int, float or str, each or None."""
    hints = typing.get_type_hints(run)
    return {name: _plain(hints[name]) for name in inspect.getfullargspec(run).kwonlyargs}


def checked_options(parameters: Mapping[str, object], known: Mapping[str, type]) -> dict[str, Any]:
    """Return the parameters of a request that are known; raises `InvalidInput` for one of another type."""
    options = {name: parameters[name] for name in known if name in parameters}
    for name, value in options.items():
        if not _is(value, known[name]):
            raise InvalidInput(f"The parameter {name} is {value!r:.60}.", f"Give it {_NAMES[known[name]]}.")
    return options


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


def _plain(hint: Any) -> type:
    """Return the one type of an annotation, without None."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        (hint,) = (part for part in typing.get_args(hint) if part is not types.NoneType)
    if hint not in _NAMES:
        raise TypeError(f"a parameter of a request cannot be {hint}")
    found: type = hint
    return found


def _is(value: object, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
