"""Methods of the clients about one item or a list of them, with types for both; and ways of several photos."""

from __future__ import annotations

import os
from collections.abc import Coroutine
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, SupportsIndex, TypeVar, overload

from depthface.asking import Asynchronous, Blocking, Steps, operation
from depthface.errors import ImageTooLarge, InvalidImage
from depthface.photos import Photo, shown

__all__ = ["UNUSABLE", "ListOf", "OneOrMany", "OneOrManyAwaited", "naming", "operation_on_many"]

I = TypeVar("I")  # noqa: E741 (an item)
Taken = TypeVar("Taken", contravariant=True)
Listed = TypeVar("Listed", covariant=True)
R = TypeVar("R")
P = ParamSpec("P")
T = TypeVar("T")

UNUSABLE = (InvalidImage, ImageTooLarge)
"""What is said of one photo, whatever else a request holds."""


def naming(way: Steps[T], which: str, photo: Photo) -> Steps[T]:
    """Go a way that is about one photo of several; an error about it says which it is.

    Args:
        which: how a sentence begins about it: `The first photo`.
    """
    try:
        return (yield from way)
    except UNUSABLE as error:
        name = shown(photo) if isinstance(photo, str | os.PathLike) else ""
        if name and error.what.startswith(name):  # it could not be read
            raise
        found = type(error)(f"{which}{f' ({name})' if name else ''}: {error.what}", error.remedy)
        found.request_id = error.request_id
        raise found from error


class ListOf(Protocol[Listed]):
    """A list, for type checkers: a `list[Path]` is one of photos, which for `list[Photo]` it is not."""

    def __len__(self) -> int: ...
    def pop(self, index: SupportsIndex = ..., /) -> Listed:
        """Tell a list from a text, which is a sequence of texts too."""


class OneOrMany(Protocol[Taken, P, R]):
    """A method of the blocking client: an item to its answer, a list of items to the list of theirs."""

    @overload
    def __call__(self, item: ListOf[Taken], /, *args: P.args, **kwargs: P.kwargs) -> list[R]: ...
    @overload
    def __call__(self, item: Taken, /, *args: P.args, **kwargs: P.kwargs) -> R: ...


class OneOrManyAwaited(Protocol[Taken, P, R]):
    """As `OneOrMany`, of the client for asyncio."""

    @overload
    def __call__(self, item: ListOf[Taken], /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, list[R]]: ...
    @overload
    def __call__(self, item: Taken, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]: ...


class operation_on_many(operation[Concatenate[list[I], P], list[R]], Generic[I, P, R]):  # noqa: N801 (a decorator)
    """As `operation`, of a generator that takes a list of items and comes to the list of their answers."""

    @overload
    def __get__(self, instance: None, owner: type) -> operation_on_many[I, P, R]: ...
    @overload
    def __get__(self, instance: Blocking, owner: type) -> OneOrMany[I, P, R]: ...
    @overload
    def __get__(self, instance: Asynchronous, owner: type) -> OneOrManyAwaited[I, P, R]: ...
    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self

        def steps(item: I | list[I], *args: P.args, **kwargs: P.kwargs) -> Steps[R | list[R]]:
            if isinstance(item, list):
                return (yield from self.way(instance, item, *args, **kwargs))
            (found,) = yield from self.way(instance, [item], *args, **kwargs)
            return found

        def method(item: I | list[I], *args: P.args, **kwargs: P.kwargs) -> Any:
            return instance._go(steps(item, *args, **kwargs))

        method.__doc__, method.__name__, method.__wrapped__ = self.__doc__, self.__name__, self.way.__get__(instance)  # type: ignore[attr-defined]
        return method
