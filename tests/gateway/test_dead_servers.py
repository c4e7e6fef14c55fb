"""Servers that are dead, to the knowledge of all: nobody waits long for them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest
from fixtures.ports import silent_port
from fixtures.waiting import HANGS_AFTER_S

from depthface.errors import ServerUnavailable
from depthface_client._transports import http_aio
from depthface_gateway import triton
from depthface_gateway.settings import Settings
from depthface_gateway.triton import Triton

CONNECT_S = 1.0


def test_while_one_finds_out_whether_a_silent_host_is_back_the_others_are_told_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_aio, "CONNECT_S", CONNECT_S)

    async def main(url: str) -> None:
        settings = Settings.of({"DEPTHFACE_GATEWAY_IN_FLIGHT": "32"})
        async with Triton([url], settings) as pool:
            asked = [asyncio.create_task(pool.ask(lambda client: client.models())) for _ in range(40)]
            _, late = await asyncio.wait(asked, timeout=CONNECT_S / 2)
            assert len(late) == 1
            with pytest.raises(ServerUnavailable):  # it tries twice
                await asyncio.wait_for(late.pop(), 10 * CONNECT_S)
            for one in asked:
                assert isinstance(one.exception(), ServerUnavailable)

    with silent_port() as port:
        asyncio.run(main(f"127.0.0.1:{port}"))


class Dying:
    """A server whose requests hang from the moment at which it dies, as they do where a host is switched off."""

    is_down = False

    def __init__(self, url: str, **_: object) -> None:
        self.server = url

    async def __aenter__(self) -> Dying:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def loaded(self) -> dict[str, int]:
        if Dying.is_down:
            raise ServerUnavailable("gone")
        return {}

    async def models(self) -> list[object]:
        return []


def test_who_waits_for_a_place_at_a_server_that_dies_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "AsyncClient", Dying)
    monkeypatch.setattr(Dying, "is_down", False)

    async def main() -> None:
        back = asyncio.Event()

        def hang(server: Dying) -> Awaitable[bool]:
            return back.wait()

        async with Triton(["a"], Settings.of({"DEPTHFACE_GATEWAY_IN_FLIGHT": "2"})) as pool:
            asked = [asyncio.create_task(pool.ask(hang)) for _ in range(5)]  # type: ignore[arg-type]
            await asyncio.sleep(0.05)
            Dying.is_down = True
            await pool.look()
            for one in asked[2:]:
                with pytest.raises(ServerUnavailable, match="No Triton answers at a"):
                    await one
            with pytest.raises(ServerUnavailable):  # nor does anybody who comes now
                await pool.ask(hang)  # type: ignore[arg-type]
            Dying.is_down = False
            back.set()
            assert await asyncio.gather(*asked[:2]) == [True, True]
            assert await pool.ask(hang)  # type: ignore[arg-type]

    asyncio.run(asyncio.wait_for(main(), HANGS_AFTER_S))
