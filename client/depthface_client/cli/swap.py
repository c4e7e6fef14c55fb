"""`depthface swap`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from depthface.tasks.swap import NAME
from depthface_client import outputs
from depthface_client.cli import shared
from depthface_client.client import Client

__all__ = ["swap"]


@click.command()
@click.option("--source", required=True, type=click.Path(path_type=Path), help="The photo that gives the face.")
@click.option("--target", required=True, type=click.Path(path_type=Path), help="The photo that gets it.")
@click.option("--out", required=True, help="The PNG to write.")
@click.option("--model", help="Default: the one swapper that the server serves.")
@shared.as_json
@shared.timeout
@shared.url
def swap(source: Path, target: Path, out: str, model: str | None, as_json: bool, timeout_s: float, url: str) -> None:
    """Put the face of one photo on another. The server loads the model at the first call; see `depthface unload`.

    Example: depthface swap --source me.jpg --target group.jpg --out swapped.png
    """
    from depthface_client import draw

    (result,) = outputs.targets([target], out, "_swap.png")
    outputs.refuse_overwriting([result], [source])
    shared.refuse_two_on_standard_output(as_json, [result])
    with Client(url, timeout_s=timeout_s) as client:
        started = time.monotonic()
        chosen = model or client.model_for(NAME)
        png = client.swap(outputs.read(source), outputs.read(target), model=chosen)
        weights = client.weights(chosen)
    outputs.write(result, draw.labelled(png, weights))
    milliseconds = round((time.monotonic() - started) * 1000)
    if as_json:
        facts = {"source": str(source), "target": str(target), "swapped": str(result), "milliseconds": milliseconds}
        shared.say_json({"model": chosen, "weights": weights, **facts})
    else:
        aside = result == outputs.STANDARD
        shared.say(f"{source} on {target} → {result} ({milliseconds} ms)", aside=aside)
    shared.warn(weights)
