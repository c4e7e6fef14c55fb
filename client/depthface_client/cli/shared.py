"""What the commands that ask a server have in common."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from depthface import picture
from depthface.cli import said
from depthface.errors import DepthfaceError, InvalidInput, ModelUnavailable, ServerUnavailable
from depthface.photos import shown
from depthface.weights import warning_of
from depthface_client import outputs
from depthface_client._transports.address import Address
from depthface_client.client import Client

__all__ = [
    "as_json",
    "end",
    "for_each",
    "photos",
    "refuse_two_on_standard_output",
    "say",
    "say_json",
    "timeout",
    "url",
    "warn",
]


def _address(ctx: click.Context, param: click.Parameter, value: str) -> str:
    try:
        Address.of(value)
    except InvalidInput as error:
        raise click.BadParameter(str(error)) from error
    return value


def _seconds(ctx: click.Context, param: click.Parameter, value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise click.BadParameter(f"{value:g} is not a number of seconds above 0.")
    return value


url = click.option(
    "--url",
    default="127.0.0.1:8000",
    show_default=True,
    envvar="DEPTHFACE_URL",
    show_envvar=True,
    callback=_address,
    help="The server: host:port, or a URL of http, https or grpc.",
)
timeout = click.option(
    "--timeout",
    "timeout_s",
    type=float,
    default=60.0,
    show_default=True,
    callback=_seconds,
    help="Seconds to wait for an answer.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="One JSON document for programs.")
photos = click.argument(
    "photos", nargs=-1, required=True, type=click.Path(path_type=Path, allow_dash=True), metavar="PHOTO…"
)


def for_each(client: Client, photos: Sequence[Path], work: Callable[[int], dict[str, Any]]) -> list[dict[str, Any]]:
    """Do the work for each photo, by its index, and return what each came to.

    A failure ends no other's, nor does a lack of memory.

    Raises:
        ServerUnavailable, ModelUnavailable: nobody answers any more, so that no other photo would fare better.
    """
    documents: list[dict[str, Any]] = []
    for index, photo in enumerate(photos):
        try:
            documents.append({"photo": str(photo), **work(index)})
        except ModelUnavailable:
            raise
        except Exception as error:
            if not (isinstance(error, DepthfaceError) or picture.says_no_memory(error)):
                raise
            if isinstance(error, ServerUnavailable):
                client.models()  # raises, if it is not this photo that breaks the connection
            name, text = shown(photo), said(error)
            click.echo(f"Error: {text if text.startswith(name) else f'{name}: {text}'}", err=True)
            documents.append({"photo": str(photo), "error": text})
    return documents


def refuse_two_on_standard_output(as_json: bool, results: Sequence[Path]) -> None:
    """Refuse a result and a JSON document that would follow one another there: nobody could read either."""
    if as_json and outputs.STANDARD in results:
        raise click.UsageError("Standard output takes the result or, with --json, the document. Write one to a file.")


def say(text: str, *, aside: bool = False) -> None:
    """Print a line for people; aside, on standard error, where standard output is a result's."""
    click.echo(text, err=aside)


def say_json(document: object) -> None:
    """Print a document for programs."""
    click.echo(json.dumps(document))


def warn(weights: str) -> None:
    """Say loudly what stand-in weights are worth."""
    if warning := warning_of(weights):
        click.secho(warning, fg="red", bold=True, err=True)


def end(documents: Sequence[dict[str, Any]]) -> None:
    """Exit with 1 if one of the photos failed."""
    if any("error" in document for document in documents):
        sys.exit(1)
