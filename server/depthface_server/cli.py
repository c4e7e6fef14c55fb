"""`depthface serve` and `depthface verify`."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from depthface.cli import Number, ending_signals
from depthface.cores import Cores
from depthface.errors import MismatchError
from depthface.limits import LARGEST_PIXELS, MAX_FACES, Limits
from depthface.verify import refuse_mismatches, verdicts
from depthface.weights import warning_of
from depthface_server.address import PORTS, Address
from depthface_server.embedded import Triton
from depthface_server.installation import FOLDER, Installation
from depthface_server.log import follow, rendering
from depthface_server.options import Options
from depthface_server.repository import Contents, contents, refuse_for_native
from depthface_server.supervisor import supervise

__all__ = ["serve", "verify"]

_log = logging.getLogger(__name__)

_MIB = 2**20

_PORT = click.IntRange(0, 65535)
_MOST_MIB = 2048.0
"""Triton adds up the bytes of a tensor of texts in 32 bits."""
_MOST_SECONDS = 86_400.0
_MOST_MINUTES = 525_600.0


_repository = click.option(
    "--repository",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    default=Path("model_repository"),
    show_default=True,
)


def _options(command: Callable[..., None]) -> Callable[..., None]:
    """Return what `serve` takes, in the order of its help."""
    for option in reversed((
        _repository,
        click.option(
            "--triton",
            "folder",
            type=click.Path(file_okay=False, path_type=Path),
            envvar=FOLDER,
            help="Folder of the Triton to run.  [default: /opt/tritonserver, if there is one, or else the wheel's]",
        ),
        click.option(
            "--host", default="127.0.0.1", show_default=True,
            help="Address or name of this machine to listen on; 0.0.0.0 for all.",
        ),
        click.option(
            "--http-port", default=PORTS["http"], show_default=True, type=_PORT,
            help="0 takes a free one, here and below.",
        ),
        click.option("--grpc-port", default=PORTS["grpc"], show_default=True, type=_PORT),
        click.option("--metrics-port", default=PORTS["metrics"], show_default=True, type=_PORT),
        click.option(
            "--max-mib", default=Limits().max_bytes / _MIB, show_default=True,
            type=Number(0, _MOST_MIB, min_open=True, max_open=True), help="Largest encoded photo.",
        ),
        click.option(
            "--max-megapixels", default=Limits().max_pixels / 1e6, type=Number(0, LARGEST_PIXELS / 1e6, min_open=True),
            help=f"Largest photo, looked at before it is decoded.  [default and most: {LARGEST_PIXELS / 1e6}]",
        ),
        click.option(
            "--max-faces", default=Limits().max_faces, show_default=True, type=click.IntRange(1, MAX_FACES),
            help="Most faces in a photo; one with more is refused unless it asks for fewer.",
        ),
        click.option(
            "--queue-size", type=click.IntRange(0, 2**31 - 1),
            help="Most requests that wait before one pipeline; 0: no limit of number or time.  "
            "[default: the repository's, 256]",
        ),
        click.option(
            "--queue-seconds", type=Number(0, _MOST_SECONDS, min_open=True),
            help="How long one may wait there, up to a day.  [default: the repository's, 300]",
        ),
        click.option(
            "--load-threads", default=Options.load_threads, show_default=True, type=click.IntRange(1, 128),
            help="Models loaded at once.",
        ),
        click.option(
            "--idle-minutes", default=Options.idle_minutes, show_default=True, type=Number(0, _MOST_MINUTES),
            help="Minutes without a request after which a network leaves memory. The next request loads it again; "
            "0: never.",
        ),
        click.option(
            "--log-format", default="text", show_default=True, type=click.Choice(["text", "json"]),
            help="json: each line of this command and of Triton's log as one JSON object on standard output.",
        ),
    )):  # fmt: skip
        command = option(command)
    return command


@click.command()
@_options
@click.option("--explain", is_flag=True, help="Say what would run on this machine, and why, and end.")
def serve(
    repository: Path,
    folder: Path | None,
    host: str,
    http_port: int,
    grpc_port: int,
    metrics_port: int,
    log_format: str,
    explain: bool,
    **settings: Any,
) -> None:
    """Serve the exported models with an embedded Triton (no Docker, no GPU), or with NVIDIA's Triton in its container.

    Loading and unloading models, shared memory, tracing and logging need the key in DEPTHFACE_ADMIN_KEY. Without that
    variable the server makes a random key. Commands of the same user on this machine find it.

    Example: depthface serve --repository model_repository --http-port 8000
    """
    if settings["queue_size"] == 0 and settings["queue_seconds"] is not None:
        raise click.UsageError("--queue-size 0 means no limit of time either. Leave out --queue-seconds.")
    with rendering(log_format == "json", click.secho):
        found = contents(repository)
        refuse_mismatches(verdicts(repository))
        for path in found.closed:
            _log.warning("%s cannot be read by this user: what needs it is not served", path)
        for name in found.missing:
            _log.info("%s: not exported, not served", name)
        installation = Installation.find(folder)
        if explain:
            from depthface_server.explain import explanation

            for line in explanation(repository, found, _read(settings), installation, Cores.found()):
                click.echo(line)
            return
        address = Address.free(host, http_port, grpc_port, metrics_port)
        models = (*found.exported, *found.networks)  # a pipeline does not bring the networks that it asks
        if installation.is_native:
            refuse_for_native(repository)
        if installation.is_native and settings["idle_minutes"]:
            _log.warning("--idle-minutes: NVIDIA's own backends do not know it; their networks stay in memory")
        triton = Triton(repository, models, address, _read(settings), installation)
        stop = threading.Event()
        for number in ending_signals():  # until here they interrupt, as they do any command
            signal.signal(number, lambda *_: stop.set())
        _run(triton, found, stop, is_json=log_format == "json")


def _read(settings: dict[str, Any]) -> Options:
    """Return the settings as an operator's options."""
    limits = Limits(
        max_bytes=max(round(settings["max_mib"] * _MIB), 1),
        max_pixels=max(round(settings["max_megapixels"] * 1e6), 1),
        max_faces=settings["max_faces"],
    )
    return Options(
        limits=limits,
        queue_size=settings["queue_size"],
        queue_time_s=settings["queue_seconds"],
        load_threads=settings["load_threads"],
        idle_minutes=settings["idle_minutes"],
    )


def _run(triton: Triton, found: Contents, stop: threading.Event, *, is_json: bool) -> None:
    """Serve until `stop` is set, or the server cannot be kept alive."""
    with triton, ExitStack() as stack:
        if is_json:
            stack.enter_context(follow(triton.log))
        triton.wait_until_ready(stop)
        if stop.is_set():
            return
        for name, manifest in found.exported.items():
            lazy = ", loaded when it is first used" if name in found.lazy else ""
            _log.info("%s: %s, %s%s", name, manifest.weights["origin"], manifest.precision, lazy)
            if warning := warning_of(manifest.weights["origin"]):
                _log.warning("%s: %s", name, warning)
        _log.info("ready: %s", triton.address.url)
        supervise(triton, stop)


@click.command()
@_repository
def verify(repository: Path) -> None:
    """Compare files with their manifest, engines with this machine, and models with this depthface.

    `serve` does so too.

    Example: depthface verify --repository model_repository
    """
    found = verdicts(repository)
    if not found:
        raise MismatchError(
            f"There is no exported model in {repository.resolve().name}/.",
            f"Export one first: depthface export MODEL --repository {repository}",
        )
    for verdict in found:
        if not verdict.problems:
            click.echo(str(verdict))
    refuse_mismatches(found)
