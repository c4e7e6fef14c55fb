"""The address of a server, read once."""

from __future__ import annotations

import base64
import re
import socket
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import unquote, urlsplit

from depthface.errors import InvalidInput

__all__ = ["Address"]

_PORTS = {"": 8000, "http": 80, "https": 443, "grpc": 8001, "grpcs": 8001}

_HOST = re.compile(r"[A-Za-z0-9._~-]+|[0-9A-Fa-f:.]+(?:%[\w.~-]+)?")

_NUMBERS = re.compile(r"[0-9.]+")

_LONGEST_LABEL, _LONGEST_HOST = 63, 253


@dataclass(frozen=True)
class Address:
    """Where a server listens.

    Attributes:
        protocol: what is spoken there.
        tls: whether it is encrypted.
        host: a name or an address; one of IPv6 without brackets.
        port: of TCP.
        path: what stands before Triton's own paths, behind a proxy; empty or `/…`.
        login: the header `Authorization`, for a proxy that asks for a name and a password (RFC 7617); empty for none.
            No message and no log shows it.
    """

    protocol: Literal["http", "grpc"]
    tls: bool
    host: str
    port: int
    path: str = ""
    login: str = field(default="", repr=False)

    @classmethod
    def of(cls, url: str) -> Address:
        """Read `host:port` or a URL of the scheme http, https, grpc or grpcs; raise `InvalidInput` for another text.

        `NAME:PASSWORD@` may stand before the host of HTTP; letters that mean something in a URL are written as `%XX`.
        """
        remedy = "Give host:port, such as 127.0.0.1:8000 or [::1]:8000, or a URL: http://…, https://… or grpc://…."
        if not isinstance(url, str):
            raise InvalidInput(f"{url!r} is not an address.", remedy)
        shown = url.rpartition("@")[2]  # without a password
        if not url.isprintable():
            raise InvalidInput(f"{shown!r} is not an address.", remedy)
        scheme, separator, _ = url.partition("://")
        try:
            parts = urlsplit(url if separator else f"//{url}")
            host, port = parts.hostname or "", parts.port
        except ValueError as error:
            reason = "" if "@" in url else f" ({error})"
            raise InvalidInput(f"{shown!r} is not an address{reason}.", remedy) from None
        scheme = scheme.lower() if separator else ""
        if scheme not in _PORTS:
            raise InvalidInput(f"{shown!r} is not an address of HTTP or gRPC.", remedy)
        host = _canonical(host)
        if not (_HOST.fullmatch(host) and _has_labels(host)) or port == 0 or parts.query or parts.fragment:
            raise InvalidInput(f"{shown!r} is not an address.", remedy)
        is_grpc = scheme.startswith("grpc")
        path = parts.path.rstrip("/")
        if path and is_grpc:
            raise InvalidInput(f"{shown!r} is not an address of gRPC: it has a path.", remedy)
        login = ""
        if parts.username is not None:
            name, password = unquote(parts.username), unquote(parts.password or "")
            if is_grpc or not name or ":" in name:
                raise InvalidInput(
                    f"{shown!r} is not an address with a name and a password.",
                    "Give both over HTTP: https://NAME:PASSWORD@host:port, a colon of the password as %3A.",
                )
            login = f"Basic {base64.b64encode(f'{name}:{password}'.encode()).decode()}"
        is_tls = scheme in ("https", "grpcs")
        return cls("grpc" if is_grpc else "http", is_tls, host, port or _PORTS[scheme], path, login)

    @property
    def netloc(self) -> str:
        """`host:port`; an address of IPv6 in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"grpc://{self.netloc}" if self.protocol == "grpc" else f"{self.netloc}{self.path}"


def _canonical(host: str) -> str:
    """Return an address of IPv4 in its usual form, for only some libraries know `127.1`; nothing if it is none."""
    if not _NUMBERS.fullmatch(host):
        return host
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        return ""


def _has_labels(host: str) -> bool:
    """Whether each part of a name has 1 to 63 letters, and all have up to 253 (RFC 1035, 2.3.4)."""
    labels = host.removesuffix(".").split(".")
    return len(host) <= _LONGEST_HOST and all(1 <= len(label) <= _LONGEST_LABEL for label in labels)
