"""A host that is switched off refuses no connection: it says nothing, and nobody waits for it longer than he must."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from fixtures.ports import silent_port
from fixtures.waiting import HANGS_AFTER_S

from depthface_client import AsyncClient, Client, RequestTimeout, ServerUnavailable
from depthface_client._transports.base import CONNECT_S


def ask(url: str, timeout_s: float = HANGS_AFTER_S) -> None:
    with Client(url, timeout_s=timeout_s) as client:
        client.models()


def ask_by_asyncio(url: str, timeout_s: float = HANGS_AFTER_S) -> None:
    async def main() -> None:
        async with AsyncClient(url, timeout_s=timeout_s) as client:
            await client.models()

    asyncio.run(main())


def test_a_host_that_says_nothing_is_known_for_it_in_seconds_whatever_the_time_limit() -> None:
    with silent_port() as port, ThreadPoolExecutor() as pool:
        urls = [f"127.0.0.1:{port}", f"grpc://127.0.0.1:{port}"]
        started = time.monotonic()
        asked = {(call.__name__, url): pool.submit(call, url) for call in (ask, ask_by_asyncio) for url in urls}
        for how, answer in asked.items():
            with pytest.raises(ServerUnavailable):
                answer.result()
            assert time.monotonic() - started < 3 * CONNECT_S, how


def test_who_gives_less_time_than_that_is_told_that_it_is_over() -> None:
    with silent_port() as port:
        for call in (ask, ask_by_asyncio):
            with pytest.raises(RequestTimeout):
                call(f"127.0.0.1:{port}", 0.5)
