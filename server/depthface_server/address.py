"""Where a server listens: names and addresses as Triton can take them, and ports that are free."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from depthface.errors import ServeError

__all__ = ["PORTS", "Address"]

PORTS = {"http": 8000, "grpc": 8001, "metrics": 8002}
"""Where `serve` listens unless told otherwise."""


@dataclass(frozen=True)
class Address:
    """Where the server listens.

    Attributes:
        host: as the user gave it, without brackets.
        ip: the numeric address of it; Triton binds nothing else.
    """

    host: str
    ip: str
    http_port: int
    grpc_port: int
    metrics_port: int

    @property
    def url(self) -> str:
        """The HTTP endpoint."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.http_port}"

    @classmethod
    def free(cls, host: str, http_port: int, grpc_port: int, metrics_port: int) -> Address:
        """Check that every port can be bound; port 0 becomes one that is free.

        Args:
            host: an address of IPv4 or IPv6, in brackets or without, or a name of this machine.

        Raises:
            ServeError: the host is none of this machine's, or a port is taken; names it.
        """
        bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        ip = _numeric(bare)
        ports: dict[int, str] = {}
        sockets = []
        try:
            for name, port in (("http", http_port), ("grpc", grpc_port), ("metrics", metrics_port)):
                if port and port in ports:
                    raise ServeError(
                        f"Port {port} is given to {ports[port]} and to {name}.", f"Choose another with --{name}-port."
                    )
                ports[port] = name
                sockets.append(_bind(ip, port, name))
            return cls(bare, ip, *(bound.getsockname()[1] for bound in sockets))
        finally:
            for bound in sockets:
                bound.close()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other servers of depthface from these ports while the block runs.

        Triton binds its ports when all models are loaded, and lets go of them where it dies: then nobody else sees that
        they are taken. A socket's name in the abstract namespace (unix(7)) is seen as far as a port is, by every user,
        and goes with its process.

        Raises:
            ServeError: another server holds a port; names it.
        """
        with ExitStack() as stack:
            for name, port in (("http", self.http_port), ("grpc", self.grpc_port), ("metrics", self.metrics_port)):
                holder = stack.enter_context(socket.socket(socket.AF_UNIX))
                try:
                    holder.bind(f"\0depthface {self.ip} {port}")
                except OSError as error:
                    raise _taken(self.ip, port, name, error) from error
            yield

    def arguments(self) -> list[str]:
        """Return Triton's command line."""
        is_v6 = ":" in self.ip
        http = f"ipv6:{self.ip}" if is_v6 else self.ip  # libevhtp's word for it (evhtp.c, `evhtp_bind_socket`)
        return [
            f"--http-address={http}",
            f"--http-port={self.http_port}",
            f"--grpc-address={f'[{self.ip}]' if is_v6 else self.ip}",
            f"--grpc-port={self.grpc_port}",
            f"--metrics-address={http}",
            f"--metrics-port={self.metrics_port}",
        ]


def _numeric(host: str) -> str:
    """Return the address of a host; of several the first of IPv4, which every client tries."""
    remedy = "Give --host an address or a name of this machine, such as 127.0.0.1, ::1 or localhost; 0.0.0.0 for all."
    try:
        found = socket.getaddrinfo(host or None, None, type=socket.SOCK_STREAM) if host else []
    except (OSError, UnicodeError) as error:
        raise ServeError(f"There is no host {host!r} ({getattr(error, 'strerror', None) or error}).", remedy) from error
    addresses = [
        str(entry[4][0]).partition("%")[0] for entry in sorted(found, key=lambda entry: entry[0] != socket.AF_INET)
    ]
    if not addresses:
        raise ServeError(f"There is no host {host!r}.", remedy)
    address = ipaddress.ip_address(addresses[0])
    if address.is_link_local or address.is_multicast or str(address) == "255.255.255.255":
        raise ServeError(f"{host} is no address that a server can be reached at.", remedy)
    return addresses[0]


def _bind(ip: str, port: int, name: str) -> socket.socket:
    probe = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET)
    try:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((ip, port))
    except OSError as error:
        probe.close()
        if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EINVAL, errno.ENETUNREACH):
            raise ServeError(
                f"{ip} is no address of this machine ({error.strerror}).", "Give another --host; 0.0.0.0 is for all."
            ) from error
        raise _taken(ip, port, name, error) from error
    return probe


def _taken(ip: str, port: int, name: str, error: OSError) -> ServeError:
    return ServeError(
        f"Port {port} on {ip} cannot be used ({error.strerror}).",
        f"Stop what listens there, or choose another with --{name}-port.",
    )
