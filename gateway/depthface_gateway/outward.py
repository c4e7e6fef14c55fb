"""What the gateway itself asks of addresses that callers give: public ones alone, however they are written or resolved.

The address is looked at where the socket is made, for every connection, so that neither a name that resolves to
another address the second time, nor a redirect, nor an odd way to write a number leads inside.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
from yarl import URL

from depthface.errors import ImageTooLarge, InvalidInput
from depthface_gateway.settings import Environment, words

__all__ = ["PHOTO_TIMEOUT_S", "Networks", "allowed_networks", "fetch", "is_allowed", "session"]

Networks = Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]

PHOTO_TIMEOUT_S = 15.0
"""For what is fetched to be looked at."""

_REDIRECTS = 3
_CHUNK_BYTES = 2**16

_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address


class _NotPublic(OSError):
    """The address is not on the public Internet."""


@dataclass(frozen=True)
class _Target:
    url: URL
    headers: Mapping[str, str]


def allowed_networks(environment: Environment) -> Networks:
    """Read the networks that are allowed besides the public Internet; raises `InvalidInput` for what is none."""
    name = "DEPTHFACE_GATEWAY_ALLOWED_NETWORKS"
    try:
        return [ipaddress.ip_network(word) for word in words(environment, name)]
    except ValueError as error:
        raise InvalidInput(f"{name} is wrong: {error}.", "Write networks as 10.1.2.0/24, with commas.") from error


def is_allowed(address: str, networks: Networks = ()) -> bool:
    """Whether an IP address is on the public Internet, or in one of `networks`."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if any(ip in network for network in networks if network.version == ip.version):
        return True
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_allowed(str(inner), networks)
    return ip.is_global and not ip.is_multicast


def session(networks: Networks, timeout_s: float) -> aiohttp.ClientSession:
    """Return a session that connects to allowed addresses only, follows no redirect by itself and keeps no cookie.

    Args:
        networks: what is allowed besides the public Internet.
        timeout_s: for each request, from its connection to the last byte of its answer.
    """

    def made(info: Any) -> socket.socket:
        family, kind, protocol, _, address = info
        if not is_allowed(str(address[0]), networks):
            raise _NotPublic(f"{address[0]} is not a public address")
        return socket.socket(family=family, type=kind, proto=protocol)

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(socket_factory=made, use_dns_cache=False, force_close=True),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=timeout_s),
        auto_decompress=False,
        trust_env=False,
    )


async def fetch(
    client: aiohttp.ClientSession, url: str, max_bytes: int, headers: Mapping[str, str] | None = None
) -> bytes:
    """Return what lies at an address.

    Args:
        client: from `session`.
        headers: more of them, for the address itself and not for where it redirects to.

    Raises:
        InvalidInput: the address is none of HTTP, is not public, or does not answer with 200 in time.
        ImageTooLarge: there is more than `max_bytes`.
    """
    target = _Target(_parsed(url), headers or {})
    for _ in range(_REDIRECTS + 1):
        try:
            answer = await _fetched(client, target, max_bytes)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise InvalidInput(f"{url} cannot be fetched ({_reason(error)}).", "Send the photo itself.") from error
        if isinstance(answer, bytes):
            return answer
        target = answer
    raise InvalidInput(f"{url} redirects more than {_REDIRECTS} times.", "Give the photo's own address.")


async def _fetched(client: aiohttp.ClientSession, target: _Target, max_bytes: int) -> bytes | _Target:
    sent = {**target.headers, "Accept-Encoding": "identity"}
    async with client.get(target.url, headers=sent, allow_redirects=False) as response:
        if response.status in (301, 302, 303, 307, 308) and "Location" in response.headers:
            return _Target(_parsed(str(target.url.join(URL(response.headers["Location"])))), {})
        if response.status != 200:
            raise ValueError(f"it answers {response.status}")
        found = bytearray()
        async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
            found += chunk
            if len(found) > max_bytes:
                raise ImageTooLarge(f"At {target.url} is more than {max_bytes / 2**20:g} MiB.", "Give a smaller photo.")
        return bytes(found)


def _parsed(url: str) -> URL:
    try:
        parsed = URL(url)
        is_whole = parsed.scheme in ("http", "https") and bool(parsed.host) and parsed.user is None
    except ValueError:
        is_whole = False
    if not is_whole:
        raise InvalidInput(f"{url!r} is no address that is fetched.", "Give one that begins with http:// or https://.")
    return parsed


def _reason(error: BaseException) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, _NotPublic):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    return str(error) or type(error).__name__
