"""The forms of a public model: which is made unless another is asked for, and what can be had in which."""

from __future__ import annotations

from depthface.contract import ENSEMBLE, Form
from depthface.errors import ExportError
from depthface.spec import ModelCard, Pipeline

__all__ = ["DEFAULT", "check", "form_of", "staying"]

DEFAULT: Form = "pipeline"
"""Under every Triton. Up to 26.03 an ensemble has no bound on what waits between its steps; under overload it refuses
nothing, and memory grows (24.10, measured: docs/forms.md). From 26.04 on it has one, which could not be measured."""


def form_of(pipeline: Pipeline, asked: Form) -> Form:
    """Return the form that a public model gets: one that is no straight line stays a pipeline."""
    return asked if pipeline.line is not None else "pipeline"


def staying(card: ModelCard, asked: Form) -> list[str]:
    """Return the public models of a card that stay pipelines though an ensemble is asked for."""
    return [pipeline.name for pipeline in card.pipelines if form_of(pipeline, asked) != asked]


def check(card: ModelCard, asked: Form) -> None:
    """Raise `ExportError` if nothing of a card can be an ensemble, and one is asked for."""
    if asked == ENSEMBLE and len(staying(card, asked)) == len(card.pipelines):
        raise ExportError(
            f"{card.title} cannot be an ensemble: its steps depend on what is found in the photo.",
            "Export it as a pipeline, without --form.",
        )
