"""`depthface gateway-worker`."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import click
from prometheus_client import start_http_server

from depthface_gateway import logs
from depthface_gateway.context import Context
from depthface_gateway.settings import Settings
from depthface_gateway.triton import Triton

__all__ = ["gateway_worker"]

_NAMES = ("jobs", "depthflow")


@click.command("gateway-worker")
@click.argument("name", default="jobs", type=click.Choice(_NAMES), metavar="[NAME]")
@click.option(
    "--url", "urls", default="127.0.0.1:8000", show_default=True, envvar="DEPTHFACE_URL", metavar="HOST:PORT[,…]",
    help="Triton's address; several serve as one.",
)  # fmt: skip
@click.option(
    "--data", type=click.Path(file_okay=False, path_type=Path), default=Path("gateway-data"), show_default=True,
    envvar=["DEPTHFACE_GATEWAY_DATA", "DATABASE_DIR"], help="The gateway's folder for files of jobs.",
)  # fmt: skip
@click.option(
    "--database", envvar="DATABASE_URL", help="The gateway's SQLAlchemy URL.  [default: SQLite in the data folder]"
)
@click.option(
    "--metrics-port",
    type=click.IntRange(1, 65535),
    help="Answer Prometheus at this port of 127.0.0.1.  [default: none]",
)
@click.option("--log-format", default="text", show_default=True, type=click.Choice(["text", "json"]))
@click.option(
    "--log-level", default="info", show_default=True, envvar=["DEPTHFACE_GATEWAY_LOG_LEVEL", "LOG_LEVEL"],
    type=click.Choice(["debug", "info", "warning", "error", "critical"], case_sensitive=False),
)  # fmt: skip
def gateway_worker(
    name: str,
    urls: str,
    data: Path,
    database: str | None,
    metrics_port: int | None,
    log_format: str,
    log_level: str,
) -> None:
    """Do the jobs that `depthface gateway jobs` takes.

    Start as many as you like, on one machine with SQLite, on several with PostgreSQL and a shared data folder.
    SIGTERM lets it end what it does.

    Example: depthface gateway-worker jobs --data gateway-data --database postgresql://anna@db/jobs
    """
    logs.start(log_format == "json", log_level)
    environment = dict(os.environ)
    settings = Settings.of(environment)
    context = Context(
        triton=Triton([url.strip() for url in urls.split(",") if url.strip()], settings),
        settings=settings,
        environment=environment,
        data=data,
        database=database or f"sqlite:///{data.absolute() / 'gateway.sqlite3'}",
    )
    asyncio.run(_work(name, context, metrics_port))


async def _work(name: str, context: Context, metrics_port: int | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    contract = importlib.import_module(f"depthface_gateway.{name}")
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(context.triton)
        core = await stack.enter_async_context(contract.work(context))
        if metrics_port is not None:
            server, thread = start_http_server(metrics_port, "127.0.0.1", core.registry)
            stack.callback(thread.join, 5)
            stack.callback(server.shutdown)
        click.echo(f"ready: {core.worker.worker_id}")
        await stop.wait()
