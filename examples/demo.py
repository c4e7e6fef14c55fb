"""`make demo`: from weights to a depth map and to faces, the whole way, in one file to read.

Exports Depth Anything V2 Small and a face pack, starts the embedded Triton, sends it photographs, and leaves in demo/:

    astronaut.png           the photo (NASA's portrait of Eileen Collins, public domain, from scikit-image)
    astronaut_depth.png     its depth: 16-bit grey, the nearest is white
    astronaut_preview.png   the two side by side, the depth in colours
    faces.png               faces found, with their points, and who is who
    parallax.webp, .mp4     a photo that moves; of a drawn scene, whose depth is known without any weights

Without the hub it goes on with random weights for depth and marks all that it makes. InsightFace's packs are for
research only: for those who have accepted that (DEPTHFACE_ACCEPT_LICENSE=1) it fetches buffalo_l and looks at the
astronaut; for all others it takes the synthetic pack, which finds drawn faces, and draws some.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from importlib.resources import files
from io import BytesIO
from pathlib import Path

import click
import parallax_scene
from PIL import Image

from depthface.errors import DepthfaceError, WeightsUnavailable
from depthface.families import card_named
from depthface.weights import depth_label_of
from depthface_client import Client, draw
from depthface_export import pipeline
from depthface_export.job import Job
from depthface_export.weights import locate
from depthface_standins.insightface import scenes

DEPTH = "depth_anything_v2_small"
PACK = "buffalo_l"


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("demo"), show_default=True)
@click.option("--repository", type=click.Path(path_type=Path), default=Path("model_repository"), show_default=True)
def main(out: Path, repository: Path) -> None:
    """One photo, one depth map, the whole way."""
    try:
        run(out, repository)
    except DepthfaceError as error:
        raise click.ClickException(str(error)) from error


def run(out: Path, repository: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    print(f"parallax  a drawn scene → {parallax_scene.make(out)}", flush=True)
    photo = out / "astronaut.png"
    shutil.copy(str(files("skimage") / "data" / "astronaut.png"), photo)

    export(DEPTH, repository, otherwise="random")
    has_accepted = os.environ.get("DEPTHFACE_ACCEPT_LICENSE") == "1"
    export(PACK, repository, otherwise="synthetic", wanted="hub" if has_accepted else "synthetic")
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "depthface", "serve", "--repository", str(repository)),
            *("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"),  # free ports: 8000 may be yours
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        with Client(address_of(server)) as client:
            client.check()  # the first request is slower
            ask_depth(client, photo)
            ask_faces(client, photo)
    finally:
        server.terminate()
        server.wait(20)


def export(name: str, repository: Path, *, otherwise: str, wanted: str = "hub") -> None:
    """Export with the weights wanted; where they cannot be had, say so and take the others."""

    def attempt(weights: str) -> str:
        card = card_named(name)
        job = Job(
            card,
            locate(card, weights),
            repository,
            accepts_license=os.environ.get("DEPTHFACE_ACCEPT_LICENSE") == "1",
            report=lambda line: print(f"export  {name}  {line}", flush=True),
        )
        return pipeline.export(job)

    try:
        outcome = attempt(wanted)
    except WeightsUnavailable as error:
        print(
            f"\n{error}\n\nThe demo goes on with {otherwise} weights: everything you will see works and takes the time "
            "that it takes, but what it says of a photograph means nothing, and is marked so.\n",
            flush=True,
        )
        outcome = attempt(otherwise)
    print(f"export  {name}  {outcome}", flush=True)


def address_of(server: subprocess.Popen[str]) -> str:
    assert server.stdout is not None
    for line in server.stdout:
        print(f"serve   {line.rstrip()}", flush=True)
        if line.startswith("ready: "):
            return line.removeprefix("ready: ").strip()
    raise click.ClickException("The server did not start; its message is above.")


def ask_depth(client: Client, photo: Path) -> None:
    started = time.perf_counter()
    png = client.depth_png(photo, bits=16)
    milliseconds = 1000 * (time.perf_counter() - started)

    depth = client.depth(photo)
    mark = "" if depth.is_meaningful else "_random_weights"
    map_path = photo.with_name(f"{photo.stem}_depth{mark}.png")
    preview_path = photo.with_name(f"{photo.stem}_preview{mark}.png")
    map_path.write_bytes(draw.labelled(png, depth.weights))
    preview = draw.beside(Image.open(photo), depth.preview())
    if label := depth_label_of(depth.weights):
        preview = draw.banner(preview, label)
    buffer = BytesIO()
    preview.save(buffer, "PNG")
    preview_path.write_bytes(draw.labelled(buffer.getvalue(), depth.weights))
    print(f"\n{photo} → {map_path}, {preview_path}\n{milliseconds:.0f} ms a photo, weights: {depth.weights}")


def ask_faces(client: Client, photo: Path) -> None:
    model = f"face_analysis_{PACK}"
    weights = client.weights(model)
    picture = Image.fromarray(scenes.draw_crowd(6).image) if weights == "synthetic" else Image.open(photo)
    started = time.perf_counter()
    found = client.faces(picture, model=model)
    milliseconds = 1000 * (time.perf_counter() - started)
    path = photo.with_name("faces.png")
    draw.faces(picture, found).save(path)
    print(f"{len(found)} faces → {path}\n{milliseconds:.0f} ms a photo, weights: {weights}")


if __name__ == "__main__":
    main()
