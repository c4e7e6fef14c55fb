"""`depthface gateway` and `depthface gateway-worker`."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from depthface_gateway import logs
from depthface_gateway.context import Context
from depthface_gateway.contracts import JOB_NAMES, NAMES, address, contract_named
from depthface_gateway.running import listen, run, serve, work
from depthface_gateway.settings import Settings
from depthface_gateway.triton import Triton

__all__ = ["gateway", "gateway_worker"]

_IMMICHS = {"verbose": "debug", "log": "info", "warn": "warning", "fatal": "critical"}


class _Level(click.Choice):  # type: ignore[type-arg]  # click 8.1 has it without a type
    """A level of the log, by our word or by immich's."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return our word."""
        return super().convert(_IMMICHS.get(str(value).lower(), value), param, ctx)


_OPTIONS = (
    click.option(
        "--url", "urls", default="127.0.0.1:8000", show_default=True, envvar="DEPTHFACE_URL", show_envvar=True,
        metavar="HOST:PORT[,…]", help="Triton's address; several serve as one.",
    ),
    click.option(
        "--data", type=click.Path(file_okay=False, path_type=Path), default=Path("gateway-data"), show_default=True,
        envvar=["DEPTHFACE_GATEWAY_DATA", "DATABASE_DIR"], show_envvar=True, help="Folder for what outlives a restart.",
    ),
    click.option(
        "--database", envvar="DATABASE_URL", show_envvar=True,
        help="SQLAlchemy URL for jobs.  [default: SQLite in the data folder]",
    ),
    click.option("--log-format", default="text", show_default=True, type=click.Choice(["text", "json"])),
    click.option(
        "--log-level", default="info", show_default=True,
        envvar=["DEPTHFACE_GATEWAY_LOG_LEVEL", "IMMICH_LOG_LEVEL", "LOG_LEVEL"], show_envvar=True,
        type=_Level(["debug", "info", "warning", "error", "critical"], case_sensitive=False),
    ),
)  # fmt: skip


def _takes_context(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command these options, start the log, and hand it the `Context` that they and the environment make."""

    @functools.wraps(command)
    def told(*, urls: str, data: Path, database: str | None, log_format: str, log_level: str, **others: Any) -> None:
        logs.start(log_format == "json", log_level)
        environment = dict(os.environ)
        settings = Settings.of(environment)
        context = Context(
            triton=Triton([url.strip() for url in urls.split(",") if url.strip()], settings),
            settings=settings,
            environment=environment,
            data=data,
            database=database or "",
        )
        command(context=context, **others)

    for option in reversed(_OPTIONS):
        told = option(told)
    return told


@click.command()
@click.argument("names", nargs=-1, required=True, type=click.Choice(NAMES), metavar="NAME…")
@click.option(
    "--host",
    help="Address to listen on, 0.0.0.0 for all.  [default: the replaced service's own variable, or 127.0.0.1]",
)
@click.option(
    "--port", type=click.IntRange(0, 65535),
    help="Port, if you give one NAME; 0: a free one.  [default: the usual port of that NAME]",
)  # fmt: skip
@click.option(
    "--with-worker/--without-worker", default=None,
    help="Whether jobs are done in this process too.  [default: with SQLite they are]",
)  # fmt: skip
@click.option(
    "--upstream", default="", envvar="DEPTHFACE_GATEWAY_UPSTREAM", show_envvar=True, metavar="URL",
    help="immich: a machine learning service for what is not served here.",
)  # fmt: skip
@_takes_context
def gateway(
    names: tuple[str, ...],
    host: str | None,
    port: int | None,
    with_worker: bool | None,
    upstream: str,
    context: Context,
) -> None:
    """Answer as other services do, each at its own port, on depthface's models.

    NAME is one or more of immich, immichvr, faces, jobs, depthflow, and page: a web page that shows what is served. The
    variables by which those services are set up count here too; the pages "The gateway" and "Jobs" of the documentation
    list them.

    Example: depthface gateway immich --url 127.0.0.1:9000
    """
    names = tuple(dict.fromkeys(names))
    if port and len(names) > 1:
        raise click.UsageError("--port is for one NAME. Leave it out, and each has its own default.")
    context = replace(context, with_worker=with_worker, upstream=upstream.rstrip("/"))
    contracts = [contract_named(name) for name in names]
    apps = [
        (listen(name, *address(contract, context.environment, host, port)), contract.app(context))
        for name, contract in zip(names, contracts, strict=True)
    ]
    run(serve(apps, click.echo))


@click.command("gateway-worker")
@click.argument("name", default="jobs", type=click.Choice(JOB_NAMES), metavar=f"[{'|'.join(JOB_NAMES)}]")
@click.option(
    "--metrics-port", type=click.IntRange(1, 65535),
    help="Answer Prometheus at this port of 127.0.0.1.  [default: none]",
)  # fmt: skip
@_takes_context
def gateway_worker(name: str, metrics_port: int | None, context: Context) -> None:
    """Do the jobs that `depthface gateway jobs` or `depthface gateway depthflow` takes.

    Start as many as you like, on one machine with SQLite, on several with PostgreSQL and a shared data folder.
    On SIGTERM it finishes its jobs, or puts them back.

    Example: depthface gateway-worker jobs --data gateway-data --database postgresql://anna@db/jobs
    """
    run(work(contract_named(name), context, metrics_port, click.echo))
