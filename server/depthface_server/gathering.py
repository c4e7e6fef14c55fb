"""What several photos ask a network at the same moment, as one batch."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from depthface.spec import AskNetwork

__all__ = ["Gathering"]

Array = npt.NDArray[Any]
Key = tuple[object, ...]


class Gathering:
    """Asks networks once nobody has more to ask just now, for all whose tensors are of one shape together.

    A small network reads its weights once for the whole batch, which on a CPU takes much of the time of one item. Of
    items of several lengths each length is a batch.

    Args:
        infer: asks a network.
    """

    def __init__(self, infer: AskNetwork) -> None:
        self._infer = infer
        self._waiting: dict[Key, list[tuple[Mapping[str, Array], asyncio.Future[dict[str, Array]]]]] = {}
        self._asking: set[asyncio.Task[None]] = set()
        self._count = 0

    async def ask(self, model: str, inputs: Mapping[str, Array], outputs: Collection[str]) -> dict[str, Array]:
        """Return a network's answer to some batched inputs, whoever else has asked with them."""
        shapes = tuple((name, array.dtype.str, array.shape[1:]) for name, array in sorted(inputs.items()))
        key: Key = (model, shapes, tuple(sorted(outputs)))
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[dict[str, Array]] = loop.create_future()
        waiting = self._waiting.setdefault(key, [])
        waiting.append((inputs, answer))
        self._count += 1
        if len(waiting) == 1:
            self._begin_when_still(0, key, model, outputs)
        return await answer

    def _begin_when_still(self, count: int, key: Key, model: str, outputs: Collection[str]) -> None:
        """Begin after a turn of the loop in which nobody has asked."""
        if count != self._count:
            loop = asyncio.get_running_loop()
            loop.call_soon(self._begin_when_still, self._count, key, model, outputs)
            return
        task = asyncio.ensure_future(self._ask_for_all(self._waiting.pop(key), model, outputs))
        self._asking.add(task)  # a loop holds its tasks weakly
        task.add_done_callback(self._asking.discard)

    async def _ask_for_all(
        self,
        asked: list[tuple[Mapping[str, Array], asyncio.Future[dict[str, Array]]]],
        model: str,
        outputs: Collection[str],
    ) -> None:
        try:
            together = {name: np.concatenate([inputs[name] for inputs, _ in asked]) for name in asked[0][0]}
            found = await self._infer(model, together, outputs)
        except BaseException as error:
            if isinstance(error, RuntimeError) and len(asked) > 1:  # the network may fail on one of them alone
                await asyncio.gather(*(self._ask_for_all([one], model, outputs) for one in asked))
                return
            for _, answer in asked:
                if not answer.done():
                    answer.set_exception(error)
            return
        start = 0
        for inputs, answer in asked:
            end = start + len(next(iter(inputs.values())))
            if not answer.done():  # whose request was refused meanwhile waits no more
                answer.set_result({name: array[start:end] for name, array in found.items()})
            start = end
