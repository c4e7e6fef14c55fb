"""HTTP with blocking I/O, on urllib3: one pool of connections for all threads."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from depthface.asking import Call
from depthface_client._transports.address import Address
from depthface_client._transports.base import (
    CONNECT_S,
    forget_in_children,
    no_answer,
    no_triton,
    not_connected,
    too_late,
)
from depthface_client._transports.http_codec import HttpCodec

__all__ = ["HttpTransport"]

_KEPT = 64
"""Idle connections that are kept; more are opened where more threads ask at once, and closed again."""

_BLOCK_BYTES = 1 << 20


class _Connection(HTTPConnection):
    """Keeps its socket: `http.client` forgets one that the server closes after an answer before that is read."""

    opened: socket.socket | None = None

    def connect(self) -> None:
        super().connect()
        self.opened = self.sock


class _TlsConnection(_Connection, HTTPSConnection):
    """The same, encrypted."""


class HttpTransport:
    """See `base.Transport`. Proxies of the environment are not asked: a server of photos is spoken to directly."""

    def __init__(self, address: Address, admin_key: str | None) -> None:
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
                timeout=urllib3.Timeout(connect=min(CONNECT_S, timeout_s), total=timeout_s),
                retries=False,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
            try:
                body = _read(response, deadline)
            except BaseException:
                response.close()
                raise
            response.release_conn()
        except urllib3.exceptions.NewConnectionError as error:
            raise no_answer(server, error.__cause__ or error) from error
        except urllib3.exceptions.ConnectTimeoutError as error:
            if timeout_s <= CONNECT_S:
                raise too_late(server, timeout_s) from error
            raise not_connected(server) from error
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
        return self._codec.answer(call, response.status, response.headers, body)

    def _opened(self) -> urllib3.HTTPConnectionPool:
        with self._lock:
            if self._pool is None:
                host, port = self._address.host, self._address.port
                if self._address.tls:
                    context = ssl.create_default_context()
                    self._pool = urllib3.HTTPSConnectionPool(host, port, maxsize=_KEPT, ssl_context=context)
                    self._pool.ConnectionCls = _TlsConnection
                else:
                    self._pool = urllib3.HTTPConnectionPool(host, port, maxsize=_KEPT)
                    self._pool.ConnectionCls = _Connection
            return self._pool


def _read(response: urllib3.BaseHTTPResponse, deadline: float) -> bytes:
    """Return the body of an answer; raise `TimeoutError` where it is not there by `deadline`, of `time.monotonic`.

    A socket's own limit is that of one wait, and begins anew with each; the next request sets it.
    """
    body = bytearray()
    while True:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        connection = response.connection  # None as soon as all is read
        if isinstance(connection, _Connection) and connection.opened is not None:
            connection.opened.settimeout(left_s)
        block = response.read1(_BLOCK_BYTES)
        if not block:
            return bytes(body)
        body += block
