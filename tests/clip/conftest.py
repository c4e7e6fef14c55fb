"""Two servers: of drawings and their words; and of true networks of a small size, with the real vocabulary."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures.clip import TINY, Reference, write_folder
from fixtures.exporting import job_of
from fixtures.serving import Server, depthface, serving

from depthface_client import Client


@pytest.fixture(scope="session")
def drawn_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The real embedded Triton with the synthetic weights."""
    repository = tmp_path_factory.mktemp("drawn") / "model_repository"
    done = depthface("export", "clip_vit_b_32", "--weights", "synthetic", "--repository", repository, timeout_s=900)
    assert done.returncode == 0, done.stderr
    assert "SYNTHETIC WEIGHTS" in done.stdout
    with serving(repository) as server:
        yield server


@pytest.fixture
def drawn(drawn_server: Server) -> Iterator[Client]:
    with Client(drawn_server.host, timeout_s=300) as client:
        yield client


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights in a folder, as the hub has them."""
    return write_folder(tmp_path_factory.mktemp("weights") / "clip")


@pytest.fixture(scope="session")
def folder_repository(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an export made of that folder."""
    from depthface_export.pipeline import export

    repository = tmp_path_factory.mktemp("folder") / "model_repository"
    assert export(job_of(TINY, repository, str(folder))) == "exported"
    return repository


@pytest.fixture(scope="session")
def folder_server(folder_repository: Path) -> Iterator[Server]:
    with serving(folder_repository) as server:
        yield server


@pytest.fixture(scope="session")
def reference(folder: Path) -> Reference:
    """`transformers` on the same folder."""
    from transformers import CLIPModel

    return Reference(CLIPModel.from_pretrained(folder).eval())
