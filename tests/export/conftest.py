"""Exports in this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from depthface.spec import ModelCard
from depthface_export import pipeline


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
