"""A slow link to a server: a proxy on this machine that lets so many bits a second through, each way."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["throttled"]

_CHUNK_BYTES = 16 * 1024


@contextmanager
def throttled(host: str, mbit_s: float) -> Iterator[str]:
    """Give the `host:port` of a proxy for `host` until the block ends. Latency is not simulated, only the rate."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    name, _, port = host.partition(":")

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(name, int(port))
        with suppress(ConnectionError):
            await asyncio.gather(_pump(reader, far_writer, mbit_s), _pump(far_reader, writer, mbit_s))

    async def end() -> None:
        server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    server = asyncio.run_coroutine_threadsafe(asyncio.start_server(carry, "127.0.0.1", 0), loop).result(60)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        asyncio.run_coroutine_threadsafe(end(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, mbit_s: float) -> None:
    """Carry bytes one way; the link is busy with each chunk for as long as its bits take."""
    free_at = 0.0
    try:
        while chunk := await reader.read(_CHUNK_BYTES):
            free_at = max(time.monotonic(), free_at) + 8 * len(chunk) / (1e6 * mbit_s)
            await asyncio.sleep(free_at - time.monotonic())
            writer.write(chunk)
            await writer.drain()
    finally:
        writer.close()
