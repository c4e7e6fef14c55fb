"""`depthface serve`."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import click

from depthface.errors import ServeError
from depthface_server.embedded import Address, Triton
from depthface_server.repository import contents
from depthface_server.watchdog import Watchdog

__all__ = ["serve"]


@click.command()
@click.option(
    "--repository",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    default=Path("model_repository"),
    show_default=True,
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@click.option("--http-port", default=8000, show_default=True, help="0 takes a free one, here and below.")
@click.option("--grpc-port", default=8001, show_default=True)
@click.option("--metrics-port", default=8002, show_default=True)
def serve(repository: Path, host: str, http_port: int, grpc_port: int, metrics_port: int) -> None:
    """Serve the exported models with an embedded Triton: no Docker, no GPU."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())

    found = contents(repository)
    for name in found.missing:
        click.echo(f"{name}: not exported, not served")
    address = Address.free(host, http_port, grpc_port, metrics_port)
    models = (*found.exported, *found.networks)  # a pipeline does not bring the networks that it asks
    with Triton(repository, models, address) as triton:
        triton.wait_until_ready(stop)
        if stop.is_set():
            return
        for name, manifest in found.exported.items():
            click.echo(f"{name}: {manifest.weights['origin']}, {manifest.precision}")
            if manifest.is_random:
                click.secho(f"{name}: RANDOM WEIGHTS, its answers mean nothing", fg="red", bold=True)
        click.echo(f"ready: {address.url}")
        watchdog = Watchdog(f"{host}:{address.http_port}", models, click.echo)
        watchdog.start()
        while triton.is_running and not stop.wait(0.2):
            pass
        watchdog.stop()
        if not stop.is_set():
            raise ServeError(f"Triton ended by itself. Its log says why: {triton.log}")
