"""A small network of the true kind, so that the stages can be tried in seconds."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from depthface.families import card_named
from depthface.spec import ModelCard
from depthface_export import pipeline


@pytest.fixture(scope="session")
def tiny() -> ModelCard:
    """Small's card with a network of a hundredth of its size."""
    return dataclasses.replace(
        card_named("depth_anything_v2_small"),
        architecture={
            "hidden_size": 48,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "out_indices": (1, 2, 3, 4),
            "neck_hidden_sizes": (8, 8, 16, 16),
            "fusion_hidden_size": 16,
        },
        # Its range is narrow for the size of its numbers, so rounding weighs more.
        tolerances={
            "fp32": {"max_error": 5e-4, "mean_error": 2e-5, "delta1_loss": 0.0},
            "fp16": {"max_error": 1e-1, "mean_error": 1e-2, "delta1_loss": 1e-2},
        },
    )


@pytest.fixture
def run():
    """Export a card, collecting what is reported."""

    def run(card: ModelCard, target: Path, **options) -> tuple[str, list[str]]:
        lines: list[str] = []
        settings = {"weights": "random", "precision": "fp32", "accept_license": False} | options
        return pipeline.export(card, target=target, report=lines.append, **settings), lines

    return run


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
