"""HTTP with blocking I/O, on urllib3: one pool of connections for all threads."""

from __future__ import annotations

import http.client
import ssl
import threading
import time

import urllib3

from depthface.asking import Call
from depthface_client._transports.address import Address
from depthface_client._transports.base import forget_in_children, no_answer, no_triton, too_late
from depthface_client._transports.http_codec import HttpCodec

__all__ = ["HttpTransport"]

_KEPT = 64
"""Idle connections that are kept; more are opened where more threads ask at once, and closed again."""

_BLOCK_BYTES = 1 << 20


class HttpTransport:
    """See `base.Transport`. Proxies of the environment are not asked: a server of photos is spoken to directly."""

    def __init__(self, address: Address, admin_key: str | None = None) -> None:
        self._address = address
        self._codec = HttpCodec(address, admin_key)
        self.reset()
        forget_in_children(self)

    def reset(self) -> None:
        self._lock = threading.Lock()
        self._pool: urllib3.HTTPConnectionPool | None = None

    def close(self) -> None:
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    def send(self, call: Call, timeout_s: float) -> object:
        request = self._codec.request(call)
        server, deadline = str(self._address), time.monotonic() + timeout_s
        try:
            response = self._opened().urlopen(
                request.method,
                request.path,
                body=request.body or None,
                headers=dict(request.headers),
                timeout=urllib3.Timeout(total=timeout_s),
                retries=False,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
            body = bytearray()
            try:
                while block := response.read1(_BLOCK_BYTES):
                    body += block
                    if time.monotonic() > deadline:
                        raise too_late(server, timeout_s)
            except BaseException:
                response.close()
                raise
            response.release_conn()
        except urllib3.exceptions.NewConnectionError as error:
            raise no_answer(server, error.__cause__ or error) from error
        except (urllib3.exceptions.TimeoutError, TimeoutError) as error:
            raise too_late(server, timeout_s) from error
        except urllib3.exceptions.SSLError as error:
            raise no_answer(server, error) from error
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
            cause = error.args[-1] if isinstance(error, urllib3.exceptions.ProtocolError) else error
            if isinstance(cause, TimeoutError):  # while the request was sent
                raise too_late(server, timeout_s) from error
            if isinstance(cause, http.client.HTTPException) and not isinstance(cause, ConnectionError):
                raise no_triton(server, "it does not speak HTTP") from error
            raise no_answer(server, cause if isinstance(cause, BaseException) else error) from error
        return self._codec.answer(call, response.status, response.headers, bytes(body))

    def _opened(self) -> urllib3.HTTPConnectionPool:
        with self._lock:
            if self._pool is None:
                host, port = self._address.host, self._address.port
                if self._address.tls:
                    context = ssl.create_default_context()
                    self._pool = urllib3.HTTPSConnectionPool(host, port, maxsize=_KEPT, ssl_context=context)
                else:
                    self._pool = urllib3.HTTPConnectionPool(host, port, maxsize=_KEPT)
            return self._pool
