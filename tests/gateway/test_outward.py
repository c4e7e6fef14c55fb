"""Addresses that callers give: what is inside stays inside, however the way there is written."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network

import pytest

from depthface.errors import ImageTooLarge, InvalidInput
from depthface_gateway import outward
from depthface_gateway.outward import allowed_networks, fetch, is_allowed

LOOPBACK = [ip_network("127.0.0.0/8")]


@pytest.mark.parametrize(
    ("address", "is_public"),
    [
        ("8.8.8.8", True),
        ("2001:4860:4860::8888", True),
        ("127.0.0.1", False),
        ("0.0.0.0", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fc00::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::808:808", True),
        ("2002:7f00:1::", False),
        ("nonsense", False),
        ("", False),
    ],
)
def test_only_public_addresses_are_allowed(address, is_public):
    assert is_allowed(address) == is_public


def test_networks_are_added_by_name_only():
    networks = allowed_networks({"DEPTHFACE_GATEWAY_ALLOWED_NETWORKS": "10.1.2.0/24, fd00::/8"})
    assert is_allowed("10.1.2.9", networks)
    assert is_allowed("fd00::1", networks)
    assert not is_allowed("10.1.3.9", networks)
    with pytest.raises(InvalidInput, match="DEPTHFACE_GATEWAY_ALLOWED_NETWORKS"):
        allowed_networks({"DEPTHFACE_GATEWAY_ALLOWED_NETWORKS": "10.1.2.3/8"})


class _Web(BaseHTTPRequestHandler):
    """Serves a few bytes, redirects, and remembers what it was asked with."""

    def do_GET(self) -> None:
        self.server.asked.append((self.path, dict(self.headers)))  # type: ignore[attr-defined]
        if self.path == "/photo":
            self._say(200, b"photo")
        elif self.path == "/endless":
            self.send_response(200)
            self.end_headers()
            try:
                while True:
                    self.wfile.write(bytes(10_000))
            except OSError:
                pass
        elif self.path.startswith("/to/"):
            self._say(302, b"", location=self.path.removeprefix("/to/"))
        else:
            self._say(404, b"")

    def _say(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def web() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Web)
    server.asked = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def fetched(url: str, networks=(), most: int = 1000, headers: dict[str, str] | None = None) -> bytes:
    async def run() -> bytes:
        async with outward.session(networks, outward.PHOTO_TIMEOUT_S) as client:
            return await fetch(client, url, most, headers)

    return asyncio.run(run())


def test_what_is_allowed_is_fetched(web):
    address = f"http://127.0.0.1:{web.server_port}"
    assert fetched(f"{address}/photo", LOOPBACK, headers={"x-mine": "1"}) == b"photo"
    assert fetched(f"{address}/to//photo", LOOPBACK, headers={"x-mine": "1"}) == b"photo"
    (_, first), (_, second), (_, third) = web.asked
    assert first["x-mine"] == second["x-mine"] == "1"
    assert "x-mine" not in third  # what a caller sends is not for whom it is redirected to
    assert "cookie" not in {name.lower() for name in third}


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "0", "[::1]", "[::ffff:127.0.0.1]"],
)  # fmt: skip
def test_what_is_inside_is_not_reached(web, host):
    with pytest.raises(InvalidInput, match=r"cannot be fetched|is no address"):
        fetched(f"http://{host}:{web.server_port}/photo")
    assert web.asked == []


def test_a_redirect_leads_inside_no_more_than_the_address_itself(web):
    """Loopback's 127.0.0.1 alone is allowed, and it redirects to another."""
    with pytest.raises(InvalidInput, match=r"127\.0\.0\.2 is not a public address"):
        fetched(
            f"http://127.0.0.1:{web.server_port}/to/http://127.0.0.2:{web.server_port}/photo",
            [ip_network("127.0.0.1/32")],
        )
    assert len(web.asked) == 1
    with pytest.raises(InvalidInput, match="no address that is fetched"):
        fetched(f"http://127.0.0.1:{web.server_port}/to/file:///etc/passwd", LOOPBACK)


def test_a_name_that_resolves_otherwise_the_second_time_does_not_help(web, monkeypatch):
    """The address is looked at where the socket is made, so there is no second time."""
    answers = iter(["8.8.8.8", "127.0.0.1"])

    def resolved(host, port, *_, **__):
        address = next(answers, "127.0.0.1")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    resolved("evil.example", 80)  # a check beforehand would have seen a public address
    with pytest.raises(InvalidInput, match=r"127\.0\.0\.1 is not a public address"):
        fetched(f"http://evil.example:{web.server_port}/photo")
    assert web.asked == []


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://host/x",
        "//host/x",
        "photo.jpg",
        "http://",
        "http://user:pw@8.8.8.8/",
        "http://[",
        "",
    ],
)
def test_what_is_no_address_of_http_is_refused(url):
    with pytest.raises(InvalidInput, match="no address that is fetched"):
        fetched(url)


def test_limits(web):
    address = f"http://127.0.0.1:{web.server_port}"
    with pytest.raises(ImageTooLarge):
        fetched(f"{address}/endless", LOOPBACK, most=100_000)
    with pytest.raises(InvalidInput, match="404"):
        fetched(f"{address}/nothing", LOOPBACK)
    with pytest.raises(InvalidInput, match="redirects more than"):
        fetched(f"{address}/to/again", LOOPBACK)
