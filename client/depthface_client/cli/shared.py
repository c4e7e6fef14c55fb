"""What the commands that ask a server have in common."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from depthface import picture
from depthface.cli import said
from depthface.errors import ClientError, DepthfaceError, InvalidInput, ModelUnavailable, ServerUnavailable
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

T = TypeVar("T")

_BACK_WITHIN_S = 30.0
"""How long a batch waits for a server or a model that was there: `depthface serve` brings back in seconds what died."""

_LOOKS_EVERY_S = 0.5


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

    A failure ends no other's, nor does a lack of memory. A server that goes away is waited for, and so is a model; if
    it stays away, what is left is not tried, and fails as well. The server is to be asked something first: one that
    never was there is not worth a wait.

    Raises:
        ClientError: nobody answers any more, and nothing is done yet.
    """
    documents: list[dict[str, Any]] = []
    for index, photo in enumerate(photos):
        try:
            do = partial(work, index)
            can_ask_again = documents and photo != outputs.STANDARD  # which is read once
            documents.append(
                {"photo": str(photo), **(_patiently(client, do, ModelUnavailable) if can_ask_again else do())}
            )
        except Exception as error:
            if not (isinstance(error, DepthfaceError) or picture.says_no_memory(error)):
                raise
            lost = _lost(client, error)
            if lost is not None and not documents:
                raise lost from None if lost is error else error
            name, text = shown(photo), said(error)
            click.echo(f"Error: {text if text.startswith(name) else f'{name}: {text}'}", err=True)
            documents.append({"photo": str(photo), "error": text})
            if lost is not None:
                left = photos[index + 1 :]
                if left:
                    click.echo(f"Error: {len(left)} more were not tried: {said(lost)}", err=True)
                return documents + [{"photo": str(one), "error": said(lost)} for one in left]
    return documents


def _lost(client: Client, error: Exception) -> ClientError | None:
    """Return why no other photo would fare better; None if one may."""
    if isinstance(error, ModelUnavailable):
        return error
    if isinstance(error, ServerUnavailable):  # it may be this photo that breaks the connection, or ends the server
        try:
            _patiently(client, client.loaded, ClientError)
        except ClientError as gone:
            return gone
    return None


def _patiently(client: Client, ask: Callable[[], T], missing: type[ClientError]) -> T:
    """Return what is asked for; where it is missing, ask again for a while before that is raised."""
    deadline: float | None = None
    while True:
        try:
            return ask()
        except missing:
            if deadline is None:
                deadline = time.monotonic() + _BACK_WITHIN_S
                click.echo(f"Waiting up to {_BACK_WITHIN_S:g} s for {client.server} to serve again.", err=True)
            elif time.monotonic() >= deadline:
                raise
        time.sleep(_LOOKS_EVERY_S)


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
