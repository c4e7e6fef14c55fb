"""`depthface depth`, `models`, `health`."""

from __future__ import annotations

import tempfile
import time
from io import BytesIO
from pathlib import Path

import click
import numpy as np

from depthface.errors import DepthfaceError, ServerUnavailable
from depthface_client import draw
from depthface_client._protocol import DEFAULT_MODEL
from depthface_client.client import Client

__all__ = ["depth", "health", "models"]

_SUFFIXES = {"png16": ".png", "png8": ".png", "npy": ".npy", "preview": ".png"}

_url = click.option("--url", default="127.0.0.1:8000", show_default=True, help="host:port of the server.")


@click.command()
@click.argument("photos", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PHOTO…")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="A file for one photo; a folder for several (or if it is one), filled with <photo>_depth.<ending>.",
)
@click.option(
    "--as",
    "kind",
    type=click.Choice(list(_SUFFIXES)),
    default="png16",
    show_default=True,
    help="Grey PNG, float32 array at the network's grid, or a coloured picture.",
)
@click.option("--model", default=DEFAULT_MODEL, show_default=True)
@click.option("--timeout", "timeout_s", default=60.0, show_default=True, help="Seconds to wait for an answer.")
@_url
def depth(photos: tuple[Path, ...], out: Path, kind: str, model: str, timeout_s: float, url: str) -> None:
    """Depth maps of photos: relative, larger (white) is nearer."""
    is_folder = len(photos) > 1 or out.is_dir()
    failures = 0
    with Client(url, timeout_s=timeout_s) as client:
        for photo in photos:
            target = out / f"{photo.stem}_depth{_SUFFIXES[kind]}" if is_folder else out
            started = time.monotonic()
            try:
                content = _content(client, photo, kind, model)
                _write(target, content)
            except ServerUnavailable:
                raise
            except DepthfaceError as error:
                click.echo(f"Error: {photo}: {error}", err=True)
                failures += 1
                continue
            click.echo(f"{photo} → {target} ({(time.monotonic() - started) * 1000:.0f} ms)")
        if failures < len(photos) and client.weights(model).startswith("random"):
            click.secho("RANDOM WEIGHTS: these maps mean nothing.", fg="red", bold=True, err=True)
    if failures:
        raise SystemExit(1)


@click.command()
@_url
def models(url: str) -> None:
    """What the server serves, and with which weights."""
    with Client(url) as client:
        for model in client.models():
            click.echo(f"{model.name:28} {model.weights if model.ready else 'not served'}")


@click.command()
@_url
def health(url: str) -> None:
    """Exit 0 only if every served model answers a real request."""
    with Client(url) as client:
        started = time.monotonic()
        for name in client.check():
            click.echo(f"{name}: answers")
        click.echo(f"healthy ({(time.monotonic() - started) * 1000:.0f} ms)")


def _content(client: Client, photo: Path, kind: str, model: str) -> bytes:
    if kind in ("png16", "png8"):
        png = client.depth_png(photo, bits=int(kind.removeprefix("png")), model=model)
        return draw.labelled(png, client.weights(model))
    result = client.depth(photo, model=model)
    buffer = BytesIO()
    if kind == "npy":
        np.save(buffer, result.array)
        return buffer.getvalue()
    picture = result.preview()
    if not result.is_meaningful:
        picture = draw.banner(picture, "RANDOM WEIGHTS: NOT A DEPTH MAP")
    picture.save(buffer, "PNG")
    return draw.labelled(buffer.getvalue(), result.weights)


def _write(target: Path, content: bytes) -> None:
    """Write the whole file or none of it."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".", delete=False) as file:
            file.write(content)
        Path(file.name).chmod(0o644)
        Path(file.name).replace(target)
    except OSError as error:
        raise DepthfaceError(f"{target} cannot be written ({error.strerror}).") from error
