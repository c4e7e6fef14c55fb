"""`depthface embed` and `depthface classify`."""

from __future__ import annotations

from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

import click

from depthface.tasks.embedding import TEMPLATE, Embedding
from depthface_client import outputs
from depthface_client.cli import shared
from depthface_client.client import Client

__all__ = ["classify", "embed"]

_SHOWN = 40
"""Signs of a text in a warning."""


@click.command()
@click.argument("photos", nargs=-1, type=click.Path(path_type=Path, allow_dash=True), metavar="[PHOTO…]")
@click.option("--text", "texts", multiple=True, help="A text instead of a photo; may be given several times.")
@click.option("--out", help="A .npy file of all vectors, (N, D) float32, in the order given; - for standard output.")
@click.option("--model", help="Default: the one that the server serves.")
@shared.as_json
@shared.timeout
@shared.url
def embed(
    photos: tuple[Path, ...],
    texts: tuple[str, ...],
    out: str | None,
    model: str | None,
    as_json: bool,
    timeout_s: float,
    url: str,
) -> None:
    """Turn photos or texts into vectors of unit length, which say what is in them.

    Example: depthface embed *.jpg --out vectors.npy
    """
    if bool(photos) == bool(texts):
        raise click.UsageError("Give photos, or --text, and not both.")
    results = [] if out is None else [outputs.of_name(out)]
    outputs.refuse_overwriting(results, photos)
    for result in results:
        outputs.check_place(result)
    shared.refuse_two_on_standard_output(as_json, results)
    found: list[Embedding] = []
    with Client(url, timeout_s=timeout_s) as client:
        if texts:
            found = client.embed_text(list(texts), model=model)
            documents: list[dict[str, Any]] = [{"text": text} for text in texts]
        else:

            def see(index: int) -> dict[str, Any]:
                found.append(client.embed(outputs.read(photos[index]), model=model))
                return {}

            client.weights(model) if model else client.loaded()  # as `for_each` wants it
            documents = shared.for_each(client, photos, see)
    done = [document for document in documents if "error" not in document]
    for document, one in zip(done, found, strict=True):
        document.update(model=one.model, weights=one.weights)
        if texts:
            document.update(cut_tokens=one.cut_tokens)
            _warn_of_cut(document["text"], one.cut_tokens)
        if as_json:
            document["embedding"] = one.vector.tolist()
        elif outputs.STANDARD not in results:
            shared.say(f"{document.get('photo', document.get('text'))}: {one.vector.size} numbers of {one.model}")
    if as_json:
        shared.say_json(documents)
    for result in results if found else ():
        outputs.write(result, _npy(found))
    if found:
        shared.warn(found[0].weights)
    shared.end(documents)


@click.command()
@click.argument("photo", type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "--label", "labels", multiple=True, required=True, help="Give two or more, each with an option of its own."
)
@click.option("--template", default=TEMPLATE, show_default=True, help="The sentence that each is put into.")
@click.option("--model", help="Default: the one of photos that the server serves.")
@shared.as_json
@shared.timeout
@shared.url
def classify(
    photo: Path, labels: tuple[str, ...], template: str, model: str | None, as_json: bool, timeout_s: float, url: str
) -> None:
    """Which of some labels fits a photo, by a model that was never taught them.

    Example: depthface classify photo.jpg --label cat --label dog
    """
    with Client(url, timeout_s=timeout_s) as client:
        found = client.classify(outputs.read(photo), labels, template=template, model=model)
    for label in found:
        _warn_of_cut(label.label, label.cut_tokens)
    if as_json:
        shared.say_json([asdict(one) for one in found])
        return
    for one in found:
        shared.say(f"{one.probability:6.1%}  {one.label}")


def _warn_of_cut(text: str, cut_tokens: int) -> None:
    """Say on standard error that a text was too long for the model."""
    if cut_tokens:
        start = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
        click.echo(f"Too long, so its last {cut_tokens} tokens were not read: {start!r}", err=True)


def _npy(found: list[Embedding]) -> bytes:
    import numpy as np

    buffer = BytesIO()
    np.save(buffer, np.stack([one.vector for one in found]))
    return buffer.getvalue()
