"""`depthface serve`."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import click

from depthface.contract import ADMIN_HEADER
from depthface.errors import MismatchError, ServeError
from depthface.families.insightface.facts import MAX_FACES
from depthface.limits import LARGEST_PIXELS, Limits
from depthface.verify import refuse_mismatches, verdicts
from depthface.weights import warning_of
from depthface_server.embedded import Address, Triton
from depthface_server.installation import Installation
from depthface_server.log import Log
from depthface_server.options import Options
from depthface_server.repository import contents
from depthface_server.watchdog import Watchdog

__all__ = ["serve", "verify"]

_MIB = 2**20

_repository = click.option(
    "--repository",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    default=Path("model_repository"),
    show_default=True,
)


@click.command()
@_repository
@click.option(
    "--triton",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="DEPTHFACE_TRITON",
    help="Folder of the Triton to run.  [default: /opt/tritonserver, if there is one, or else the wheel's]",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@click.option("--http-port", default=8000, show_default=True, help="0 takes a free one, here and below.")
@click.option("--grpc-port", default=8001, show_default=True)
@click.option("--metrics-port", default=8002, show_default=True)
@click.option(
    "--max-mib", default=Limits().max_bytes / _MIB, show_default=True, type=click.FloatRange(0, min_open=True),
    help="Largest encoded photo.",
)  # fmt: skip
@click.option(
    "--max-megapixels", default=LARGEST_PIXELS / 1e6, type=click.FloatRange(0, LARGEST_PIXELS / 1e6, min_open=True),
    help="Largest photo, looked at before it is decoded.  [default and most: 89.478485]",
)  # fmt: skip
@click.option(
    "--max-faces", default=MAX_FACES, show_default=True, type=click.IntRange(1, MAX_FACES),
    help="Most faces in a photo; one with more is refused unless it asks for fewer.",
)  # fmt: skip
@click.option(
    "--queue-size",
    type=click.IntRange(0),
    help="Requests that wait before one pipeline; 0: no limit, of time neither.  [default: the repository's, 256]",
)
@click.option(
    "--queue-seconds", type=click.FloatRange(0, min_open=True),
    help="How long one may wait there.  [default: the repository's, 300]",
)  # fmt: skip
@click.option("--load-threads", default=4, show_default=True, type=click.IntRange(1), help="Models loaded at once.")
@click.option(
    "--idle-minutes", default=0.0, show_default=True, type=click.FloatRange(0),
    help="A network that nobody asks for so long leaves memory until the next request; 0: never.",
)  # fmt: skip
@click.option(
    "--log-format", default="text", show_default=True, type=click.Choice(["text", "json"]),
    help="json: each line of this command and of Triton's log as one JSON object on standard output.",
)  # fmt: skip
def serve(
    repository: Path,
    folder: Path | None,
    host: str,
    http_port: int,
    grpc_port: int,
    metrics_port: int,
    max_mib: float,
    max_megapixels: float,
    max_faces: int,
    queue_size: int | None,
    queue_seconds: float | None,
    load_threads: int,
    idle_minutes: float,
    log_format: str,
) -> None:
    """Serve the exported models: with an embedded Triton, no Docker, no GPU; or, in NVIDIA's container, with its.

    Who may load and unload models, or use shared memory, tracing and logging, shows the key in DEPTHFACE_ADMIN_KEY;
    without one the server makes one up, which this user's own commands on this machine find by themselves.
    """
    if queue_size == 0 and queue_seconds is not None:
        raise click.UsageError("--queue-size 0 means no limit of time either. Leave out --queue-seconds.")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())

    log = Log(log_format == "json", click.secho)
    found = contents(repository)
    refuse_mismatches(verdicts(repository))
    for name in found.missing:
        log.say(f"{name}: not exported, not served")
    address = Address.free(host, http_port, grpc_port, metrics_port)
    models = (*found.exported, *found.networks)  # a pipeline does not bring the networks that it asks
    options = Options(
        limits=Limits(round(max_mib * _MIB), round(max_megapixels * 1e6), max_faces),
        queue_size=queue_size,
        queue_time_s=queue_seconds,
        load_threads=load_threads,
        idle_minutes=idle_minutes,
    )
    with Triton(repository, models, address, options, Installation.find(folder)) as triton, log.following(triton.log):
        triton.wait_until_ready(stop)
        if stop.is_set():
            return
        for name, manifest in found.exported.items():
            lazy = ", loaded when it is first used" if name in found.lazy else ""
            log.say(f"{name}: {manifest.weights['origin']}, {manifest.precision}{lazy}")
            if warning := warning_of(manifest.weights["origin"]):
                log.warn(f"{name}: {warning}")
        log.say(f"ready: {address.url}")
        headers = {ADMIN_HEADER: options.admin_key}
        watchdog = Watchdog(f"{host}:{address.http_port}", headers, triton.recoveries, triton.processes, log.say)
        watchdog.start()
        while triton.is_running and not stop.wait(0.2):
            triton.reap()
        watchdog.stop()
        if not stop.is_set():
            raise ServeError(f"Triton ended by itself. Its log says why: {triton.log}")


@click.command()
@_repository
def verify(repository: Path) -> None:
    """Hold every artefact against its manifest, and every engine against this machine; `serve` does so too."""
    found = verdicts(repository)
    if not found:
        raise MismatchError(f"There is no exported model in {repository.resolve().name}/.")
    for verdict in found:
        if not verdict.problems:
            click.echo(str(verdict))
    refuse_mismatches(found)
