"""`depthface gateway`."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import click

from depthface_gateway import logs
from depthface_gateway.context import Context
from depthface_gateway.contracts import NAMES, address, contract_named
from depthface_gateway.running import listen, serve
from depthface_gateway.settings import Settings
from depthface_gateway.triton import Triton

__all__ = ["gateway"]


@click.command()
@click.argument("names", nargs=-1, required=True, type=click.Choice(NAMES), metavar="NAME…")
@click.option(
    "--url", "urls", default="127.0.0.1:8000", show_default=True, envvar="DEPTHFACE_URL", metavar="HOST:PORT[,…]",
    help="Triton's address; several serve as one.",
)  # fmt: skip
@click.option(
    "--host", help="Address to listen on, 0.0.0.0 for all.  [default: what the contract's variable says, or 127.0.0.1]"
)
@click.option(
    "--port", type=click.IntRange(0, 65535),
    help="Port of the one contract that is named; 0: a free one.  [default: the contract's own]",
)  # fmt: skip
@click.option(
    "--data", type=click.Path(file_okay=False, path_type=Path), default=Path("gateway-data"), show_default=True,
    envvar=["DEPTHFACE_GATEWAY_DATA", "DATABASE_DIR"], help="Folder for files of jobs.",
)  # fmt: skip
@click.option(
    "--database", envvar="DATABASE_URL", help="SQLAlchemy URL for jobs.  [default: SQLite in the data folder]"
)
@click.option(
    "--with-worker/--without-worker", default=None,
    help="Whether jobs are done in this process too.  [default: with SQLite they are]",
)  # fmt: skip
@click.option(
    "--upstream", default="", envvar="DEPTHFACE_GATEWAY_UPSTREAM", metavar="URL",
    help="immich: a machine learning service for what is not served here.",
)  # fmt: skip
@click.option("--log-format", default="text", show_default=True, type=click.Choice(["text", "json"]))
@click.option(
    "--log-level", default="info", show_default=True,
    envvar=["DEPTHFACE_GATEWAY_LOG_LEVEL", "IMMICH_LOG_LEVEL", "LOG_LEVEL"],
    type=click.Choice(["debug", "info", "warning", "error", "critical"], case_sensitive=False),
)  # fmt: skip
def gateway(
    names: tuple[str, ...],
    urls: str,
    host: str | None,
    port: int | None,
    data: Path,
    database: str | None,
    with_worker: bool | None,
    upstream: str,
    log_format: str,
    log_level: str,
) -> None:
    """Answer as other services do, each at its own port, on depthface's models.

    NAME is one or more of immich, immichvr, faces, jobs, depthflow. The variables by which those services are set up
    count here too; docs/gateway.md has them all.

    Example: depthface gateway immich --url 127.0.0.1:9000
    """
    names = tuple(dict.fromkeys(names))
    if port and len(names) > 1:
        raise click.UsageError("--port is for one NAME. Leave it out, and each has its own default.")
    logs.start(log_format == "json", log_level)
    environment = dict(os.environ)
    settings = Settings.of(environment)
    context = Context(
        triton=Triton([url.strip() for url in urls.split(",") if url.strip()], settings),
        settings=settings,
        environment=environment,
        data=data,
        database=database or f"sqlite:///{data.absolute() / 'gateway.sqlite3'}",
        with_worker=with_worker,
        upstream=upstream.rstrip("/"),
    )
    contracts = [contract_named(name) for name in names]
    apps = [
        (listen(name, *address(contract, environment, host, port)), contract.app(context))
        for name, contract in zip(names, contracts, strict=True)
    ]
    asyncio.run(serve(apps, click.echo))
