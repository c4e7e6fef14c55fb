"""`depthface export`."""

from __future__ import annotations

import inspect
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast, get_args

import click
from rich.console import Console

from depthface.cache import expanded
from depthface.contract import Form, Precision
from depthface.families import all_cards, card_named
from depthface.spec import EngineOptions, HardwareCompatible
from depthface.weights import warning_of
from depthface_export import forms, pipeline, quickest
from depthface_export import weights as weights_stage
from depthface_export.job import Engines, Job
from depthface_export.progress import Display

__all__ = ["export"]


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL…")
@click.option(
    "--weights",
    default="hub",
    show_default=True,
    metavar="hub|random|synthetic|PATH",
    help="Of models given by name. hub: the published weights. random: the true architecture with meaningless "
    "answers. synthetic (faces, CLIP): weights that know drawn pictures. PATH: a folder (of transformers, or of a "
    "pack's ONNX files), or a face swapper's file. A folder given as MODEL brings its own weights.",
)
@click.option(
    "--precision",
    type=click.Choice([*get_args(Precision), quickest.AUTO]),
    default="fp32",
    show_default=True,
    help="fp16 is for GPUs; bf16 for processors that are quick at it (AMX, or AMD's AVX512-BF16), through "
    "OpenVINO; int8 for depth and embeddings on those with VNNI. auto makes and proves each that this machine could "
    "gain by, times them, and keeps the quickest.",
)
@click.option(
    "--form",
    type=click.Choice(get_args(Form)),
    default=forms.DEFAULT,
    show_default=True,
    help="How a model is laid out: a pipeline is one process that asks the network; an ensemble is a chain of steps "
    "that Triton runs. The answers are the same.",
)
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
    show_envvar=True,
    help="Accept the licence of weights that are not open.",
)
@click.option("--engine", is_flag=True, help="Build TensorRT engines too, for the GPU and TensorRT of this machine.")
@click.option("--without-engine", multiple=True, metavar="NETWORK", help="Leave this network to ONNX Runtime.")
@click.option("--version-compatible", is_flag=True, help="Engines for later versions of TensorRT too; slower.")
@click.option(
    "--hardware-compatible",
    type=click.Choice(get_args(HardwareCompatible)),
    default="none",
    show_default=True,
    help="Engines for other GPUs than this one's kind too; slower.",
)
@click.option("--workspace-mib", type=click.IntRange(1), help="Memory for the builder's trials; all there is if unset.")
@click.option(
    "--optimization-level", type=click.IntRange(0, 5), help="How much the builder tries; TensorRT's own is 3."
)
def export(
    models: tuple[str, ...],
    weights: str,
    precision: str,
    form: str,
    repository: Path,
    accept_license: bool,
    **of_engines: Any,
) -> None:
    """Turn published weights into a Triton model repository, proven equal to their reference.

    Example: depthface export depth_anything_v2_small --weights random
    """
    engines, is_auto = _engines(**of_engines), precision == quickest.AUTO
    # By name: what is printed during a build is kept from the terminal, but for what this console shows of it.
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    cards = [card_named(model) for model in models]
    _refuse_weights_for_nobody(models, weights)
    for model, card in zip(models, cards, strict=True):
        started = time.monotonic()
        with Display(console, card.name) as display:
            job = Job(
                card,
                weights_stage.locate(card, _choice(model, weights)),
                repository,
                "fp32" if is_auto else cast(Precision, precision),
                accepts_license=accept_license,
                engines=engines and replace(engines, phases=display),
                form=cast(Form, form),
                report=display.say,
                precisions=quickest.candidates(card, with_engines=engines is not None) if is_auto else (),
            )
            outcome = pipeline.export(job)
        seconds = time.monotonic() - started
        if outcome == "unchanged":
            console.print(f"{card.name}  unchanged: already in {repository} ({seconds:.1f} s)", markup=False)
        else:
            console.print(f"{card.name}  exported to {repository} in {seconds:.0f} s", markup=False)
        if warning := warning_of(job.weights.origin):
            console.print(f"{card.name}  {warning}", markup=False, style="bold red")


def _choice(model: str, weights: str) -> str:
    """Return which weights a model is to have: those of --weights, but a folder its own, whatever it is called."""
    return weights if model in all_cards() else str(expanded(model).absolute())


def _refuse_weights_for_nobody(models: tuple[str, ...], weights: str) -> None:
    """Raise `click.UsageError` for other weights than the usual beside folders alone: they would have no effect."""
    if weights != "hub" and not any(model in all_cards() for model in models):
        raise click.UsageError(
            f"{models[0]} is a folder, and so its own weights: --weights is for models that are given by name. Leave "
            "it out."
        )


def _engines(engine: bool, without_engine: tuple[str, ...], **options: Any) -> Engines | None:
    wished = Engines(EngineOptions(**options), without=frozenset(without_engine))
    if engine:
        return wished
    if wished != Engines(EngineOptions()):
        raise click.UsageError("The options of engines need --engine.")
    return None


export.help = f"{inspect.cleandoc(export.help or '')}\n\nModels: {', '.join(all_cards())}."
