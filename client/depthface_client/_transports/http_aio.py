"""HTTP for asyncio, on aiohttp."""

from __future__ import annotations

import asyncio
import ssl

import aiohttp
import numpy as np
from yarl import URL

from depthface.asking import Call, Infer
from depthface_client._transports.address import Address
from depthface_client._transports.base import (
    CONNECT_S,
    AsyncTransport,
    closed,
    no_answer,
    no_triton,
    not_connected,
    too_late,
)
from depthface_client._transports.http_codec import HttpCodec

__all__ = ["AsyncHttpTransport"]

_LIGHT_BYTES = 2 * 2**20
"""What is put together sooner than a thread is woken: a millisecond on a busy machine."""

_AHEAD_BYTES = 2**20
"""As much of an answer is taken in at once: it is read whole in any case, and by small pieces it takes more turns."""


class AsyncHttpTransport(AsyncTransport):
    """See `base.AsyncTransport`."""

    def __init__(self, address: Address, admin_key: str | None, connections: int) -> None:
        self._address = address
        self._codec = HttpCodec(address, admin_key)
        super().__init__(connections)

    async def send(self, call: Call, timeout_s: float) -> object:
        session: aiohttp.ClientSession = self.opened()
        if _weight_bytes(call) > _LIGHT_BYTES:
            request = await asyncio.to_thread(self._codec.request, call)
        else:
            request = self._codec.request(call)
        url = URL(f"{'https' if self._address.tls else 'http'}://{self._address.netloc}{request.path}", encoded=True)
        server = str(self._address)
        try:
            async with self.turn:
                if session.closed:  # while this one waited
                    raise closed(server)
                async with asyncio.timeout(timeout_s):
                    async with session.request(
                        request.method,
                        url,
                        data=_Whole(request.body) if request.body else None,
                        headers=request.headers,
                        allow_redirects=False,
                    ) as response:
                        is_short = response.content_length is not None and response.content_length <= _AHEAD_BYTES
                        if is_short and response.content.exception() is None:
                            await response.content.wait_eof()  # woken once; `read` is for each piece that comes
                        body = await response.read()
        except aiohttp.ConnectionTimeoutError as error:
            raise not_connected(server) from error
        except TimeoutError as error:
            raise too_late(server, timeout_s) from error
        except (aiohttp.ClientResponseError, aiohttp.InvalidURL) as error:
            raise no_triton(server, "it does not speak HTTP") from error
        except (aiohttp.ClientError, OSError) as error:
            raise no_answer(server, error) from error
        return self._codec.answer(call, response.status, response.headers, body)

    def _open(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self._connections, ssl=ssl.create_default_context() if self._address.tls else True
            ),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
            auto_decompress=False,
            read_bufsize=_AHEAD_BYTES,
            cookie_jar=aiohttp.DummyCookieJar(),
        )


class _Whole(aiohttp.BytesPayload):
    """A body that is written in one piece, like aiohttp's own payload of bytes, which warns of one above 1 MiB.

    An event loop sends what the socket takes and keeps the rest. A BytesIO would be copied twice, piece by piece.
    """

    def __init__(self, body: bytes) -> None:
        aiohttp.Payload.__init__(self, body)
        self._size = len(body)


def _weight_bytes(call: Call) -> int:
    """Return how much a call carries."""
    if not isinstance(call, Infer):
        return 0
    return sum(
        sum(map(len, array.flat)) if array.dtype == np.object_ else array.nbytes for array in call.inputs.values()
    )
