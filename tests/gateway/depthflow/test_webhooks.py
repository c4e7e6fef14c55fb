"""How long whoever is told of a clip's end may take."""

from __future__ import annotations

import asyncio
from ipaddress import ip_network

import pytest

from depthface_gateway.depthflow import webhooks
from depthface_gateway.depthflow.webhooks import WebhookFailed, Webhooks
from depthface_gateway.jobs.sync import Parcel

LOOPBACK = [ip_network("127.0.0.0/8")]
SLOW_S = 0.5


def told(monkeypatch: pytest.MonkeyPatch, webhooks_s: float) -> None:
    """Tell one who answers after `SLOW_S`, where webhooks may take so long."""
    monkeypatch.setattr(webhooks, "_TIMEOUT_S", webhooks_s)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(SLOW_S)
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
            await writer.drain()
        finally:
            writer.close()

    async def main() -> None:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
            await Webhooks(LOOPBACK).tell(Parcel("a", "m", {}, 0, parameters={"webhook_url": url}))

    asyncio.run(main())


def test_it_has_the_time_of_its_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    assert webhooks._TIMEOUT_S == 30
    told(monkeypatch, 30.0)


def test_it_has_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WebhookFailed, match="The webhook cannot be told"):
        told(monkeypatch, SLOW_S / 5)
