"""Why a patience has ended: all servers were full, or the one that has the photo does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from fixtures.waiting import HANGS_AFTER_S

from depthface.errors import RequestTimeout, ServerOverloaded
from depthface_gateway import triton
from depthface_gateway.settings import Settings
from depthface_gateway.triton import StillBusy, Triton

PATIENCE_S = 0.3


class Server:
    """One that lives; what it does is what is asked of it."""

    def __init__(self, url: str, **_: object) -> None:
        self.server = url
        self.asked = 0

    async def __aenter__(self) -> Server:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def loaded(self) -> dict[str, int]:
        return {}

    async def models(self) -> list[object]:
        return []


async def refuse(server: Server) -> None:
    raise ServerOverloaded("full")


async def hang(server: Server) -> None:
    await asyncio.sleep(HANGS_AFTER_S)


async def refuse_and_hang(server: Server) -> None:
    server.asked += 1
    await (refuse if server.asked == 1 else hang)(server)


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> Callable[..., RequestTimeout]:
    """Ask a server for this, and return the error with which the patience ends."""
    monkeypatch.setattr(triton, "AsyncClient", Server)

    def run(call: Callable[[Server], Awaitable[None]], before: Callable[[Triton], None] = lambda pool: None):
        async def main() -> RequestTimeout:
            async with Triton(["a"], Settings.of({"DEPTHFACE_GATEWAY_IN_FLIGHT": "1"})) as pool:
                before(pool)
                await asyncio.sleep(0)
                with pytest.raises(RequestTimeout, match=r"0\.3 s") as late:
                    await pool.ask(call, patience_s=PATIENCE_S)  # type: ignore[arg-type]
                return late.value

        return asyncio.run(main())

    return run


@pytest.mark.parametrize("call", [refuse, refuse_and_hang])
def test_a_server_that_stays_full_is_still_busy(late, call) -> None:
    assert isinstance(late(call), StillBusy)


def test_who_gets_no_place_finds_them_still_busy(late) -> None:
    holders: list[asyncio.Task[None]] = []

    def take_the_place(pool: Triton) -> None:
        holders.append(asyncio.create_task(pool.ask(hang)))  # type: ignore[arg-type]

    assert isinstance(late(refuse, take_the_place), StillBusy)


def test_a_server_that_has_it_and_does_not_answer_is_late(late) -> None:
    assert not isinstance(late(hang), StillBusy)
