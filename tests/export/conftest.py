"""Exports in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fixtures.exporting import job_of, synthetic_pack, traced_once
from fixtures.shared import Shared, copied

from depthface.spec import ModelCard
from depthface_export import pipeline

Run = Callable[..., tuple[str, list[str]]]


@pytest.fixture(scope="module", autouse=True)
def traced(shared: Shared) -> Iterator[None]:
    """Torch traces each network once a run."""
    with traced_once(shared):
        yield


@pytest.fixture(scope="session")
def run() -> Run:
    """Export a card, collecting what is reported."""

    def run(card: ModelCard, target: Path, **options) -> tuple[str, list[str]]:
        lines: list[str] = []
        return pipeline.export(job_of(card, target, report=lines.append, **options)), lines

    return run


@pytest.fixture(scope="session")
def tiny_repository(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the tiny network in it, in fp32; to be copied by whoever changes it."""
    return copied(repository, to=tmp_path_factory.mktemp("tiny") / "model_repository")


@pytest.fixture(scope="session")
def pack_of_two(shared: Shared) -> Path:
    """A repository with the smallest published pack, the synthetic one; to be copied by whoever changes it."""
    return synthetic_pack(shared, "buffalo_sc")


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
