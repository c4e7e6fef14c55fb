"""Exports in this process."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixtures.exporting import job_of

from depthface.spec import ModelCard
from depthface_export import pipeline


@pytest.fixture
def run():
    """Export a card, collecting what is reported."""

    def run(card: ModelCard, target: Path, **options) -> tuple[str, list[str]]:
        lines: list[str] = []
        return pipeline.export(job_of(card, target, report=lines.append, **options)), lines

    return run


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
