"""The contracts, one module each, and what such a module offers.

A contract's module has `NAME`, `DEFAULT_PORT`, and `app(context) -> FastAPI`, whose lifespan starts and stops whatever
the contract needs. It may have `HOST_VARIABLE` and `PORT_VARIABLE`, the names by which its users set its address; one
of `JOB_NAMES` has `work(context)` too, which has a worker do its jobs meanwhile.
"""

from __future__ import annotations

import importlib
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, cast

from fastapi import FastAPI

from depthface_gateway.context import Context
from depthface_gateway.settings import Environment, number, text

__all__ = ["JOB_NAMES", "NAMES", "Contract", "address", "contract_named"]

JOB_NAMES = ("jobs", "depthflow")
NAMES = ("immich", "immichvr", "faces", *JOB_NAMES, "page")


class Contract(Protocol):
    """What a contract's module offers."""

    NAME: str
    DEFAULT_PORT: int

    def app(self, context: Context) -> FastAPI:
        """Make the app; raises `InvalidInput` if a setting of its own cannot be."""

    def work(self, context: Context) -> AbstractAsyncContextManager[Any]:
        """Have a worker do the jobs meanwhile; `context.triton` is open already. For those of `JOB_NAMES` alone."""


def contract_named(name: str) -> Contract:
    """Import a contract's module, and no other."""
    return cast(Contract, importlib.import_module(f"depthface_gateway.{name}"))


def address(
    contract: Contract, environment: Environment, host: str | None = None, port: int | None = None
) -> tuple[str, int]:
    """Return host and port of a contract: what was told, or its users' variables, or loopback and its default port."""
    host_variable, port_variable = (getattr(contract, f"{name}_VARIABLE", "") for name in ("HOST", "PORT"))
    if host is None:
        host = text(environment, host_variable, "127.0.0.1") if host_variable else "127.0.0.1"
    if port is None:
        told = number(environment, port_variable, contract.DEFAULT_PORT, 0, 65535) if port_variable else None
        port = contract.DEFAULT_PORT if told is None else round(told)
    return host.strip("[]"), port
