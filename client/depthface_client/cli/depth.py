"""`depthface depth`."""

from __future__ import annotations

import time
from io import BytesIO
from pathlib import Path
from typing import Any

import click

from depthface.tasks.depth import NAME
from depthface.weights import depth_label_of
from depthface_client import outputs
from depthface_client.cli import shared
from depthface_client.client import Client

__all__ = ["depth"]

_SUFFIXES = {"png16": ".png", "png8": ".png", "npy": ".npy", "preview": ".png"}


@click.command()
@shared.photos
@click.option(
    "--out",
    required=True,
    help="A file for one photo, or - for standard output; a folder for several (or if it is one, or ends in /), "
    "filled with <photo>_depth.*.",
)
@click.option(
    "--as",
    "kind",
    type=click.Choice(list(_SUFFIXES)),
    default="png16",
    show_default=True,
    help="Grey PNG, float32 array at the network's grid, or a coloured picture.",
)
@click.option("--model", help="Default: the one that the server serves; of several, the smallest.")
@shared.as_json
@shared.timeout
@shared.url
def depth(
    photos: tuple[Path, ...], out: str, kind: str, model: str | None, as_json: bool, timeout_s: float, url: str
) -> None:
    """Depth maps of photos: relative, larger (white) is nearer.

    Example: depthface depth photo.jpg --out depth.png
    """
    targets = outputs.targets(photos, out, f"_depth{_SUFFIXES[kind]}")
    shared.refuse_two_on_standard_output(as_json, targets)
    with Client(url, timeout_s=timeout_s) as client:
        chosen = model or client.model_for(NAME)
        weights = client.weights(chosen)

        def make(index: int) -> dict[str, Any]:
            started = time.monotonic()
            outputs.write(targets[index], _content(client, outputs.read(photos[index]), kind, chosen))
            milliseconds = round((time.monotonic() - started) * 1000)
            if not as_json:
                shared.say(
                    f"{photos[index]} → {targets[index]} ({milliseconds} ms)", aside=targets[index] == outputs.STANDARD
                )
            return {"depth": str(targets[index]), "milliseconds": milliseconds}

        documents = shared.for_each(client, photos, make)
    if as_json:
        shared.say_json({"model": chosen, "weights": weights, "photos": documents})
    shared.warn(weights)
    shared.end(documents)


def _content(client: Client, photo: bytes, kind: str, model: str) -> bytes:
    from depthface_client import draw

    if kind in ("png16", "png8"):
        png = client.depth_png(photo, bits=int(kind.removeprefix("png")), model=model)
        return draw.labelled(png, client.weights(model))
    result = client.depth(photo, model=model)
    buffer = BytesIO()
    if kind == "npy":
        import numpy as np

        np.save(buffer, result.array)
        return buffer.getvalue()
    picture = result.preview()
    if label := depth_label_of(result.weights):
        picture = draw.banner(picture, label)
    picture.save(buffer, "PNG")
    return draw.labelled(buffer.getvalue(), result.weights)
