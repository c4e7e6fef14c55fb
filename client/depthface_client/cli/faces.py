"""`depthface faces` and `depthface compare`."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import click

from depthface.cli import Number
from depthface.errors import InvalidInput
from depthface.tasks.faces import SAME_PERSON_SIMILARITY, Face, Options
from depthface.weights import label_of
from depthface_client import outputs
from depthface_client.cli import shared
from depthface_client.client import Client

__all__ = ["compare", "faces"]


def _side(ctx: click.Context, param: click.Parameter, value: str) -> int:
    """Return the number that the server takes for `--det-size`."""
    if value == "auto":
        return 0
    if not value.isdecimal():
        raise click.BadParameter(f"{value!r} is neither `auto` nor a number of pixels.")
    return int(value)


@click.command()
@shared.photos
@shared.as_json
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
@click.option("--min-score", type=float, help="Least score of a face, above 0 and at most 1.  [default: 0.5]")
@click.option("--max-faces", type=int, help="Most faces to report; 0 for all.  [default: 0]")
@shared.timeout
@shared.url
def faces(
    photos: tuple[Path, ...],
    as_json: bool,
    drawing: str | None,
    model: str | None,
    timeout_s: float,
    url: str,
    **asked: Any,
) -> None:
    """Find the faces in photos: box, score and, if the model gives them, gender, age and pose.

    Coordinates are pixels of the upright photo, x to the right and y down; a box is x1 y1 x2 y2.

    Example: depthface faces photo.jpg --draw faces.png
    """
    try:
        Options.of(**asked)
    except InvalidInput as error:
        raise click.UsageError(str(error)) from error
    targets = outputs.targets(photos, drawing, "_faces.png") if drawing is not None else None
    shared.refuse_two_on_standard_output(as_json, targets or ())
    with Client(url, timeout_s=timeout_s) as client:
        chosen = model or client.face_model()
        weights = client.weights(chosen)

        def find(index: int) -> dict[str, Any]:
            photo = outputs.read(photos[index])
            found = client.faces(photo, model=chosen, **asked)
            if targets is not None:
                outputs.write(targets[index], _drawn(photo, found, weights))
            if not as_json:
                drawn = f" → {targets[index]}" if targets is not None else ""
                aside = targets is not None and targets[index] == outputs.STANDARD
                shared.say(f"{photos[index]}: {_counted(len(found))}{drawn}", aside=aside)
                for number, face in enumerate(found, 1):
                    shared.say(f"  {number}  {_line(face)}", aside=aside)
            return {"faces": [face.as_dict() for face in found]} if as_json else {}  # or they are kept for nothing

        documents = shared.for_each(client, photos, find)
    if as_json:
        shared.say_json({"model": chosen, "weights": weights, "photos": documents})
    shared.warn(weights)
    shared.end(documents)


@click.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option(
    "--threshold",
    default=SAME_PERSON_SIMILARITY,
    show_default=True,
    type=Number(-1, 1),
    help="Cosine from which it is the same person: a convention, not a calibrated rate of errors.",
)
@click.option("--model", help="Default: the one face model that the server serves.")
@shared.as_json
@shared.timeout
@shared.url
def compare(a: Path, b: Path, threshold: float, model: str | None, as_json: bool, timeout_s: float, url: str) -> None:
    """Whether the largest faces of two photos are the same person's. Exit 0 whatever the verdict.

    Example: depthface compare passport.jpg door.jpg
    """
    with Client(url, timeout_s=timeout_s) as client:
        chosen = model or client.face_model()
        result = client.compare(a, b, model=chosen, threshold=threshold)
        weights = client.weights(chosen)
    verdict = "the same person" if result.same else "different people"
    if as_json:
        facts = {"same": result.same, "similarity": result.similarity, "threshold": result.threshold}
        shared.say_json({"model": chosen, "weights": weights, **facts})
    else:
        shared.say(f"{verdict}: cosine {result.similarity:.4f}, threshold {result.threshold:g}")
    shared.warn(weights)


def _drawn(photo: bytes, found: Sequence[Face], weights: str) -> bytes:
    from depthface_client import draw

    picture = draw.faces(photo, found)
    if label := label_of(weights):
        picture = draw.banner(picture, label)
    buffer = BytesIO()
    picture.save(buffer, "PNG", compress_level=3)
    return draw.labelled(buffer.getvalue(), weights)


def _counted(faces: int) -> str:
    return f"{faces or 'no'} face{'' if faces == 1 else 's'}"


def _line(face: Face) -> str:
    """Return what is known of a face, for people to read."""
    facts = [f"score {face.score:.3f}", "box " + " ".join(f"{side:.1f}" for side in face.box)]
    if face.gender is not None and face.age is not None:
        facts.append(f"{face.gender}, {face.age} years")
    if face.pose is not None:
        facts.append("pitch {:.0f}° yaw {:.0f}° roll {:.0f}°".format(*face.pose))
    return "  ".join(facts)
