"""`depthface export`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import cast

import click
from rich.console import Console

from depthface.families import all_cards, card_named
from depthface.spec import Precision
from depthface_export import pipeline

__all__ = ["export"]


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL…")
@click.option(
    "--weights",
    default="hub",
    show_default=True,
    metavar="hub|random|synthetic|PATH",
    help="Published weights, random ones in the true architecture, or a folder in the format of transformers.",
)
@click.option("--precision", type=click.Choice(["fp32", "fp16"]), default="fp32", show_default=True)
@click.option(
    "--repository",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("model_repository"),
    show_default=True,
)
@click.option(
    "--accept-license",
    is_flag=True,
    envvar="DEPTHFACE_ACCEPT_LICENSE",
    help="Accept the licence of weights that are not open.",
)
def export(models: tuple[str, ...], weights: str, precision: str, repository: Path, accept_license: bool) -> None:
    """Turn published weights into a Triton model repository, proven equal to their reference."""
    console = Console(highlight=False, soft_wrap=True)
    for model, card in [(model, card_named(model)) for model in models]:
        started = time.monotonic()
        with console.status(card.name) as status:

            def report(line: str, status=status, name=card.name) -> None:  # type: ignore[no-untyped-def]
                console.print(f"{name}  {line}", markup=False)
                status.update(f"{name}  {line.strip()}")

            outcome = pipeline.export(
                card,
                weights=weights if card.name == model else model,  # a folder is its own weights
                precision=cast(Precision, precision),
                target=repository,
                accept_license=accept_license,
                report=report,
            )
        seconds = time.monotonic() - started
        if outcome == "unchanged":
            console.print(f"{card.name}  unchanged: already in {repository} ({seconds:.1f} s)", markup=False)
        else:
            console.print(f"{card.name}  exported to {repository} in {seconds:.0f} s", markup=False)
        if weights == "random":
            console.print(
                f"{card.name}  RANDOM WEIGHTS: true architecture and speed, meaningless answers.",
                markup=False,
                style="bold red",
            )


export.help = f"{export.help}\n\nModels: {', '.join(all_cards())}."
