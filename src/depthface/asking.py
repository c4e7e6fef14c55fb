"""What is asked of a server, described without I/O: calls, ways through several of them, and methods made of such ways.

A method of the clients is written once, as a generator that yields what is to be done (`Infer`, `Describe`, `Pause`,
…) and gets back what came of it. The blocking client walks through it with blocking I/O, the client for asyncio with
asynchronous I/O, so that both have the same methods and the same rules.
"""

from __future__ import annotations

import random
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Coroutine, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Concatenate, Generic, ParamSpec, TypeGuard, TypeVar, cast, overload

import numpy as np
import numpy.typing as npt

from depthface.contract import Parameters
from depthface.errors import DepthfaceError, InvalidInput, ModelUnavailable, ServerOverloaded, ServerUnavailable
from depthface.photos import Photo, encoded

__all__ = [
    "Asker",
    "Asynchronous",
    "Blocking",
    "Call",
    "Describe",
    "Description",
    "Index",
    "Infer",
    "Load",
    "Pause",
    "Ready",
    "Served",
    "Steps",
    "Together",
    "Unload",
    "Work",
    "bytes_tensor",
    "operation",
]

Array = npt.NDArray[Any]
T = TypeVar("T")
P = ParamSpec("P")

Steps = Generator[Any, Any, T]
"""A way to a `T`: it yields a `Call`, `Pause`, `Work` or `Together`, and is sent what came of it."""

_FRESH_S = 0.25
"""How long is believed what a model is, and which one is chosen. A model takes longer to be loaded as another one."""

_SAFE_TO_RETRY = (ServerOverloaded, ServerUnavailable)
"""The server turned the request away before it ran, or nobody was there. An inference changes nothing on the server,
so that one whose connection broke half way may be sent again too."""

_LONGEST_TIMEOUT_S = 10_000_000
"""Four months; sockets overflow far above it."""

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0


@dataclass(frozen=True)
class _OfModel:
    """What goes to one model.

    Raises:
        InvalidInput: no model can be called so.
    """

    model: str

    def __post_init__(self) -> None:
        _check_text("model", self.model)


@dataclass(frozen=True)
class Infer(_OfModel):
    """Ask a model for outputs.

    Attributes:
        inputs: batched arrays by name; of uint8, int32, float32, or of objects, each `bytes`.
        outputs: those wanted; what is not asked for is not computed.
        parameters: of the request.
        request_id: as the server's log names it.
        timeout_s: nobody waits in the server's queues longer than the client does.

    The answer is the outputs' arrays by name.
    """

    inputs: Mapping[str, Array]
    outputs: tuple[str, ...]
    parameters: Mapping[str, bool | int | str] = field(default_factory=dict)
    request_id: str = ""
    timeout_s: float = 60.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.request_id:
            _check_text("request_id", self.request_id)


@dataclass(frozen=True)
class Describe(_OfModel):
    """Ask what a model is; the answer is its config, in the names of Triton's JSON."""


@dataclass(frozen=True)
class Ready(_OfModel):
    """Ask whether a model is ready; the answer is True or False."""


@dataclass(frozen=True)
class Served:
    """Ask which models are loaded; the answer is how many items each has answered since, by name.

    Unlike the index, this is for everyone.
    """


@dataclass(frozen=True)
class Index:
    """Ask which models there are in the repository; the answer is each one's state by name. For operators."""


@dataclass(frozen=True)
class Load(_OfModel):
    """Load a model; the answer, None, comes when it is ready. For operators."""


@dataclass(frozen=True)
class Unload(_OfModel):
    """Take a model out of memory. For operators."""


Call = Infer | Describe | Ready | Served | Index | Load | Unload
"""What a transport takes to the server."""


@dataclass(frozen=True)
class Pause:
    """Wait."""

    seconds: float


@dataclass(frozen=True)
class Work:
    """Call a function that may take a while, such as one that reads a file; the answer is what it returns."""

    function: Callable[[], Any]


@dataclass(frozen=True)
class Together:
    """Go several ways, at once where that can be; the answer is the list of what each comes to."""

    ways: Sequence[Steps[Any]]


@dataclass(frozen=True)
class Description:
    """What a server says of a model that it serves.

    Attributes:
        name: of the model.
        inputs: the names of its inputs.
        outputs: the names of its outputs.
        max_batch_size: the most items of one request; 0 if it takes no batches.
        parameters: depthface's own.
        parts: the models that it cannot do without, each once: the networks that it asks, the steps of an ensemble.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    max_batch_size: int
    parameters: Parameters
    parts: tuple[str, ...] = ()

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> Description:
        """Read it from a config as Triton tells it."""
        parameters = Parameters.of_config(config)
        steps = config.get("ensemble_scheduling", {}).get("step", ())
        return cls(
            name=config["name"],
            inputs=tuple(tensor["name"] for tensor in config.get("input", ())),
            outputs=tuple(tensor["name"] for tensor in config.get("output", ())),
            max_batch_size=int(config.get("max_batch_size", 0)),
            parameters=parameters,
            parts=tuple(dict.fromkeys((*(step["model_name"] for step in steps), *parameters.networks.values()))),
        )


def bytes_tensor(*items: bytes) -> Array:
    """Return a batch of byte strings: `(N, 1)` objects."""
    return np.array([[item] for item in items], np.object_)


class Asker:
    """What every method stands on: one inference, with its retries, and what is known of the models.

    Args:
        server: the server's address, as messages name it.
        timeout_s: the longest that a call to the server takes, in seconds; a method may make several calls.
        retries: how often a request that changes nothing is sent again that was turned away or found nobody.

    Raises:
        InvalidInput: a number is out of range.
    """

    def __init__(self, server: str, timeout_s: float, retries: int) -> None:
        if not (isinstance(timeout_s, int | float) and 0 < timeout_s <= _LONGEST_TIMEOUT_S):
            raise InvalidInput(
                f"timeout_s is {str(timeout_s)[:20]}.", f"Give seconds, above 0 and up to {_LONGEST_TIMEOUT_S}."
            )
        if not (isinstance(retries, int) and not isinstance(retries, bool) and retries >= 0):
            raise InvalidInput(f"retries is {retries!r}.", "Give a whole number from 0.")
        self._server = server
        self._timeout_s = float(timeout_s)
        self._retries = int(retries)
        self._known: dict[str, tuple[float, Description]] = {}
        self._chosen: dict[tuple[object, ...], tuple[float, str]] = {}

    @property
    def server(self) -> str:
        """The server's address, as messages name it: without a login."""
        return self._server

    def _infer(
        self,
        model: str,
        inputs: Mapping[str, Array],
        outputs: Sequence[str],
        parameters: Mapping[str, bool | int | str],
        request_id: str | None,
    ) -> Steps[dict[str, Array]]:
        """Ask a model; the one way of every inference."""
        call = Infer(
            model, inputs, tuple(outputs), parameters, request_id or uuid.uuid4().hex[:16], timeout_s=self._timeout_s
        )
        try:
            return cast(dict[str, Array], (yield from self._ask(call)))
        except DepthfaceError as error:
            self._forget(model)
            error.request_id = call.request_id
            raise

    def _ask(self, call: Infer | Describe | Ready | Served) -> Steps[Any]:
        """Make a call that changes nothing on the server, and make it again where that is safe."""
        for pause_s in _pauses_s(self._retries):
            try:
                return (yield call)
            except _SAFE_TO_RETRY:
                if pause_s is None:
                    raise
            yield Pause(pause_s)
        raise AssertionError("the last attempt returns or raises")

    def _describe(self, model: str) -> Steps[Description]:
        """Return what the server says of a model now, or said a moment ago."""
        known = self._known.get(model)
        if _is_fresh(known):
            return known[1]
        description = Description.of_config((yield from self._ask(Describe(model))))
        self._known[model] = (time.monotonic(), description)
        return description

    def _served(self) -> Steps[list[Description]]:
        """Return all public models that are loaded."""
        described = yield from self._described((yield from self._ask(Served())))
        return [one for one in described if one.parameters.task is not None]

    def _described(self, names: Iterable[str]) -> Steps[list[Description]]:
        """Return what the server says of each of these models that is still loaded, by the order of their names."""
        described = []
        for name in sorted(names):
            with suppress(ModelUnavailable):  # unloaded a moment ago
                described.append((yield from self._describe(name)))
        return described

    def _serving(self, task: str, offering: Collection[str] = (), taking: Collection[str] = ()) -> Steps[str]:
        """Return the model that a request takes which names none.

        Args:
            task: what it does.
            offering: the outputs that it must have.
            taking: the inputs that it must have.

        Raises:
            ModelUnavailable: there is none.
            InvalidInput: there are several, and none of them comes before the others.
        """
        question = (task, frozenset(offering), frozenset(taking))
        chosen = self._chosen.get(question)
        if _is_fresh(chosen):
            return chosen[1]
        served = yield from self._served()
        able = [
            one
            for one in served
            if one.parameters.task == task and set(offering) <= set(one.outputs) and set(taking) <= set(one.inputs)
        ]
        if not able:
            raise ModelUnavailable(f"{self._server} serves no model for {task}.", "Export one: `depthface export`.")
        rank = min(one.parameters.rank for one in able)
        first = [one.name for one in able if one.parameters.rank == rank]
        if len(first) > 1:
            raise InvalidInput(
                f"{self._server} serves several models for {task}.", f"Choose one with model=: {', '.join(first)}."
            )
        self._chosen[question] = (time.monotonic(), first[0])
        return first[0]

    def _read(self, photo: Photo) -> Steps[bytes]:
        """Return what travels of a photo; a file is read where that holds nobody up."""
        if isinstance(photo, bytes):
            return encoded(photo)
        return cast(bytes, (yield Work(partial(encoded, photo))))

    def _forget(self, model: str | None = None) -> None:
        """Forget what was known of a model, or of all of them, and what was chosen: others may come in their place."""
        if model is None:
            self._known.clear()
        else:
            self._known.pop(model, None)
        self._chosen.clear()


class Blocking(ABC):
    """A client that goes its ways with blocking I/O."""

    @abstractmethod
    def _go(self, way: Steps[T]) -> T:
        """Return what a way comes to."""


class Asynchronous(ABC):
    """A client that goes its ways with asynchronous I/O."""

    @abstractmethod
    async def _go(self, way: Steps[T]) -> T:
        """Return what a way comes to."""


class operation(Generic[P, T]):  # noqa: N801 (a decorator)
    """Make a method of a generator: blocking on a blocking client, awaitable on one for asyncio."""

    def __init__(self, way: Callable[Concatenate[Any, P], Steps[T]]) -> None:
        self.way = way
        self.__doc__ = way.__doc__
        self.__wrapped__ = way
        self.__name__ = way.__name__

    @overload
    def __get__(self, instance: None, owner: type) -> operation[P, T]: ...
    @overload
    def __get__(self, instance: Blocking, owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, instance: Asynchronous, owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self

        def method(*args: P.args, **kwargs: P.kwargs) -> Any:
            return instance._go(self.way(instance, *args, **kwargs))

        method.__doc__, method.__name__, method.__wrapped__ = self.__doc__, self.__name__, self.way.__get__(instance)  # type: ignore[attr-defined]
        return method


def _check_text(name: str, value: str) -> None:
    """Raise `InvalidInput` for what no request can carry: no text, an empty one, or half a character."""
    if not (isinstance(value, str) and value and value.encode(errors="ignore").decode() == value):
        raise InvalidInput(f"{name} is {value!r:.60}.", "Give a text of whole characters.")


def _is_fresh(known: tuple[float, T] | None) -> TypeGuard[tuple[float, T]]:
    """Return whether it was asked a moment ago."""
    return known is not None and time.monotonic() - known[0] < _FRESH_S


def _pauses_s(retries: int) -> Generator[float | None]:
    """Yield how long to wait after each attempt that failed, in seconds; None after the last.

    It is doubled each time, and drawn at random below that, so that clients that were turned away together do not come
    back together.
    """
    for attempt in range(retries):
        yield random.uniform(0, min(_FIRST_PAUSE_S * 2**attempt, _LONGEST_PAUSE_S))
    yield None
