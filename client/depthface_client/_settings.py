"""How a client was asked to work, checked when it is made, and the transport that does so."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from depthface import admin
from depthface.errors import ClientError
from depthface_client._transports.address import Address

if TYPE_CHECKING:
    from depthface_client._transports.base import AsyncTransport, Transport

__all__ = ["Settings"]

_LOAD_TIMEOUT_S = 300.0
"""The longest wait for a model to load: a face swapper is half a gigabyte."""


@dataclass(frozen=True)
class Settings:
    """What a client is made of; its transports are imported when one is made, not before."""

    url: str = field(repr=False)  # a password may be in it
    address: Address
    timeout_s: float
    retries: int
    admin_key: str | None = field(default=None, repr=False)

    @classmethod
    def checked(cls, url: str, timeout_s: float, retries: int, admin_key: str | None) -> Settings:
        """Return the settings; raise `InvalidInput` for an address or a key that cannot be used."""
        if admin_key is not None:
            admin.check(admin_key, "admin_key")
        return cls(url, Address.of(url), timeout_s, retries, admin_key)

    def timeout_of(self, is_load: bool) -> float:
        """Return the time limit of a call, in seconds."""
        return max(self.timeout_s, _LOAD_TIMEOUT_S) if is_load else self.timeout_s

    def transport(self) -> Transport:
        """Return a blocking transport; raise `ClientError` if gRPC is not installed."""
        if self.address.protocol == "grpc":
            _require_grpc()
            from depthface_client._transports.grpc import GrpcTransport

            return GrpcTransport(self.address, self.admin_key)
        from depthface_client._transports.http import HttpTransport

        return HttpTransport(self.address, self.admin_key)

    def async_transport(self, connections: int) -> AsyncTransport:
        """Return a transport for asyncio; raise `ClientError` if gRPC is not installed."""
        if self.address.protocol == "grpc":
            _require_grpc()
            from depthface_client._transports.grpc import AsyncGrpcTransport

            return AsyncGrpcTransport(self.address, self.admin_key, connections)
        from depthface_client._transports.http_aio import AsyncHttpTransport

        return AsyncHttpTransport(self.address, self.admin_key, connections)


def _require_grpc() -> None:
    if importlib.util.find_spec("grpc") is None:
        raise ClientError("gRPC is not installed.", "Install it: pip install 'depthface[grpc]'.")
