"""`depthface depth`, `faces`, `compare`, `swap`, `load`, `unload`, `models`, `health`."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import click
import numpy as np

from depthface.errors import DepthfaceError, ModelUnavailable, ServerUnavailable
from depthface.families.insightface.result import SAME_PERSON_SIMILARITY, Face
from depthface_client import draw
from depthface_client._faces import SWAP, SWAPPER
from depthface_client._protocol import DEFAULT_MODEL
from depthface_client.client import Client

__all__ = ["compare", "depth", "faces", "health", "load", "models", "swap", "unload"]

_SUFFIXES = {"png16": ".png", "png8": ".png", "npy": ".npy", "preview": ".png"}

# What such weights are worth, loudly: by how the server's name for them begins.
_WARNINGS = {
    "random": "RANDOM WEIGHTS: these answers mean nothing.",
    "synthetic": "SYNTHETIC WEIGHTS: they know drawn faces only; what they say of a photograph means nothing.",
}

_url = click.option("--url", default="127.0.0.1:8000", show_default=True, help="host:port of the server.")
_timeout = click.option(
    "--timeout", "timeout_s", default=60.0, show_default=True, help="Seconds to wait for an answer."
)


def _side(ctx: click.Context, param: click.Parameter, value: str) -> int:
    """The number that the server takes for `--det-size`."""
    if value == "auto":
        return 0
    if not value.isdecimal():
        raise click.BadParameter(f"{value!r} is neither `auto` nor a number of pixels.")
    return int(value)


@click.command()
@click.argument("photos", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PHOTO…")
@click.option(
    "--out",
    required=True,
    help="A file for one photo; a folder for several (or if it is one, or ends in /), filled with <photo>_depth.*.",
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
@_timeout
@_url
def depth(photos: tuple[Path, ...], out: str, kind: str, model: str, timeout_s: float, url: str) -> None:
    """Depth maps of photos: relative, larger (white) is nearer."""
    is_folder = _is_folder(out, photos)
    failures = 0
    with Client(url, timeout_s=timeout_s) as client:
        for photo in photos:
            target = Path(out, f"{photo.stem}_depth{_SUFFIXES[kind]}") if is_folder else Path(out)
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
@click.argument("photos", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PHOTO…")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a line per face.")
@click.option(
    "--draw",
    "drawing",
    metavar="OUT",
    help="Also draw the faces: a PNG for one photo; a folder for several (or if it is one, or ends in /), filled with "
    "<photo>_faces.png.",
)
@click.option("--model", help="Default: the one face model that the server serves.")
@click.option(
    "--det-size",
    default="auto",
    show_default=True,
    callback=_side,
    metavar="auto|PIXELS",
    help="Side of the square in which faces are looked for, a multiple of 32, such as 640; `auto` for 128 and 640 "
    "together.",
)
@click.option("--min-score", type=click.FloatRange(0, 1), help="Least score of a face.  [default: 0.5]")
@click.option("--max-faces", type=click.IntRange(0), help="Most faces to report; 0 for all.  [default: 0]")
@_timeout
@_url
def faces(
    photos: tuple[Path, ...],
    as_json: bool,
    drawing: str | None,
    model: str | None,
    det_size: int,
    min_score: float | None,
    max_faces: int | None,
    timeout_s: float,
    url: str,
) -> None:
    """Faces in photos: where they are and, as far as the model can tell, whose.

    Coordinates are pixels of the upright photo, x to the right and y down; a box is x1 y1 x2 y2.
    """
    is_folder = drawing is not None and _is_folder(drawing, photos)
    documents: list[dict[str, Any]] = []
    with Client(url, timeout_s=timeout_s) as client:
        model = model or client.face_model()
        weights = client.weights(model)
        for photo in photos:
            try:
                found = client.faces(photo, model=model, min_score=min_score, max_faces=max_faces, det_size=det_size)
                if drawing is not None:
                    target = Path(drawing, f"{photo.stem}_faces.png") if is_folder else Path(drawing)
                    _write(target, _drawn(photo, found, weights))
            except (ServerUnavailable, ModelUnavailable):
                raise
            except DepthfaceError as error:
                click.echo(f"Error: {photo}: {error}", err=True)
                documents.append({"photo": str(photo), "error": str(error)})
                continue
            documents.append({"photo": str(photo), "faces": [face.as_dict() for face in found]})
            if not as_json:
                click.echo(f"{photo}: {_counted(len(found))}" + (f" → {target}" if drawing is not None else ""))
                for number, face in enumerate(found, 1):
                    click.echo(f"  {number}  {_line(face)}")
    if as_json:
        click.echo(json.dumps({"model": model, "weights": weights, "photos": documents}))
    _warn(weights)
    if any("error" in document for document in documents):
        raise SystemExit(1)


@click.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option(
    "--threshold",
    default=SAME_PERSON_SIMILARITY,
    show_default=True,
    type=click.FloatRange(-1, 1),
    help="Cosine from which it is the same person: a convention, not a calibrated rate of errors.",
)
@click.option("--model", help="Default: the one face model that the server serves.")
@_timeout
@_url
def compare(a: Path, b: Path, threshold: float, model: str | None, timeout_s: float, url: str) -> None:
    """Whether the largest faces of two photos are the same person's. Exit 0 whatever the verdict."""
    with Client(url, timeout_s=timeout_s) as client:
        model = model or client.face_model()
        result = client.compare(a, b, model=model, threshold=threshold)
        verdict = "the same person" if result.same else "different people"
        click.echo(f"{verdict}: cosine {result.similarity:.4f}, threshold {result.threshold:g}")
        _warn(client.weights(model))


@click.command()
@click.option("--source", required=True, type=click.Path(path_type=Path), help="The photo that gives the face.")
@click.option("--target", required=True, type=click.Path(path_type=Path), help="The photo that gets it.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The PNG to write.")
@click.option("--model", default=SWAPPER, show_default=True)
@_timeout
@_url
def swap(source: Path, target: Path, out: Path, model: str, timeout_s: float, url: str) -> None:
    """Put the face of one photo on another. The server loads the model at the first call; see `depthface unload`."""
    with Client(url, timeout_s=timeout_s) as client:
        started = time.monotonic()
        png = client.swap(source, target, model=model)
        weights = client.weights(model)
        _write(out, draw.labelled(png, weights))
        click.echo(f"{source} on {target} → {out} ({(time.monotonic() - started) * 1000:.0f} ms)")
        _warn(weights)


@click.command()
@click.argument("model")
@_url
def unload(model: str, url: str) -> None:
    """Have the server give back the memory of a model, until `load`; a face swapper comes again by itself."""
    with Client(url) as client:
        client.unload(model)
    click.echo(f"{model}: unloaded")


@click.command()
@click.argument("model")
@_url
def load(model: str, url: str) -> None:
    """Have the server load a model of its repository: one that was unloaded, or exported since the server started."""
    with Client(url) as client:
        client.load(model)
    click.echo(f"{model}: loaded")


@click.command()
@_url
def models(url: str) -> None:
    """What the server serves, and with which weights."""
    with Client(url) as client:
        for model in client.models():
            absent = "not loaded; its first call loads it" if model.name.startswith(SWAP) else "not served"
            click.echo(f"{model.name:28} {model.weights if model.ready else absent}")


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


def _drawn(photo: Path, found: Sequence[Face], weights: str) -> bytes:
    picture = draw.faces(photo, found)
    for kind in _WARNINGS:
        if weights.startswith(kind):
            picture = draw.banner(picture, f"{kind.upper()} WEIGHTS")
    buffer = BytesIO()
    picture.save(buffer, "PNG", compress_level=3)
    return draw.labelled(buffer.getvalue(), weights)


def _counted(faces: int) -> str:
    return f"{faces or 'no'} face{'' if faces == 1 else 's'}"


def _line(face: Face) -> str:
    """What is known of a face, for people to read."""
    facts = [f"score {face.score:.3f}", "box " + " ".join(f"{side:.1f}" for side in face.box)]
    if face.gender is not None and face.age is not None:
        facts.append(f"{face.gender}, {face.age} years")
    if face.pose is not None:
        facts.append("pitch {:.0f}° yaw {:.0f}° roll {:.0f}°".format(*face.pose))
    return "  ".join(facts)


def _warn(weights: str) -> None:
    for kind, warning in _WARNINGS.items():
        if weights.startswith(kind):
            click.secho(warning, fg="red", bold=True, err=True)


def _is_folder(out: str, photos: tuple[Path, ...]) -> bool:
    return len(photos) > 1 or out.endswith(os.sep) or Path(out).is_dir()


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
