"""What is done again and again goes on, whatever happens once."""

from __future__ import annotations

import asyncio
import logging

import pytest
from fixtures.waiting import HANGS_AFTER_S

from depthface.errors import ServerUnavailable
from depthface_gateway.loops import repeat


def test_no_error_ends_it_and_each_is_told(caplog: pytest.LogCaptureFixture) -> None:
    errors = [MemoryError(), RuntimeError("can't start new thread"), ServerUnavailable("Away."), OSError("full")]
    left = [*errors, None]

    async def main() -> None:
        done = asyncio.Event()

        async def step() -> None:
            error = left.pop(0)
            if error is None:
                done.set()
                await asyncio.sleep(HANGS_AFTER_S)
            raise error

        loop = asyncio.create_task(repeat(step, 0.0, "it is not done"))
        async with asyncio.timeout(HANGS_AFTER_S):
            await done.wait()
        loop.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loop

    with caplog.at_level(logging.ERROR):
        asyncio.run(main())
    told = [record.getMessage() for record in caplog.records]
    assert told == [f"it is not done: {words}" for words in ("MemoryError", "can't start new thread", "Away.", "full")]
    assert [bool(record.exc_info) for record in caplog.records] == [True, True, False, False]
