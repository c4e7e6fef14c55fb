"""Several things at once: what comes of each, and that none goes on when another has failed."""

from __future__ import annotations

import asyncio

import pytest

from depthface.errors import OutputError, ServerFault
from depthface.together import together


async def said(what: object, after_s: float = 0.0) -> object:
    await asyncio.sleep(after_s)
    return what


async def lasting(ended: list[str]) -> None:
    """Go on until it is ended, and say so then."""
    try:
        await asyncio.sleep(3600)
    finally:
        ended.append("lasting")


def test_what_comes_of_each_is_in_their_order():
    async def run() -> tuple[object, ...]:
        return await together(said(1, 0.02), said("two"), said(3.0, 0.01))

    assert asyncio.run(run()) == (1, "two", 3.0)


def test_the_first_that_fails_ends_the_others_and_is_raised_with_its_cause():
    ended: list[str] = []

    async def failing() -> None:
        await asyncio.sleep(0.01)
        raise OutputError("no room") from OSError(28, "No space left on device")

    async def run() -> None:
        with pytest.raises(OutputError) as failed:
            await together(lasting(ended), failing(), lasting(ended))
        assert isinstance(failed.value.__cause__, OSError)
        assert ended == ["lasting", "lasting"]

    asyncio.run(run())


def test_who_is_stopped_stops_all():
    ended: list[str] = []

    async def run() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(together(lasting(ended), lasting(ended)), 0.05)

    asyncio.run(run())
    assert ended == ["lasting", "lasting"]


def test_an_error_of_one_that_fails_at_once_is_itself():
    async def fails() -> None:
        raise ServerFault("broken")

    with pytest.raises(ServerFault, match="broken"):
        asyncio.run(together(fails(), fails()))
