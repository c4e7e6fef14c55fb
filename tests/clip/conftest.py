"""Two servers: of drawings and their words; and of true networks of a small size, with the real vocabulary."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures.clip import TINY, Reference, write_folder
from fixtures.exporting import job_of, traced_once
from fixtures.serving import Server, serving
from fixtures.shared import Shared

from depthface_client import Client


@pytest.fixture(scope="session")
def drawn_server(drawn_repository: Path) -> Iterator[Server]:
    """The real embedded Triton with the synthetic weights."""
    with serving(drawn_repository) as server:
        yield server


@pytest.fixture
def drawn(drawn_server: Server) -> Iterator[Client]:
    with Client(drawn_server.host, timeout_s=300) as client:
        yield client


@pytest.fixture(scope="session")
def folder(shared: Shared) -> Path:
    """Weights in a folder, as the hub has them."""
    return shared.folder("clip_weights", lambda made: write_folder(made / "clip")) / "clip"


@pytest.fixture(scope="session")
def folder_repository(folder: Path, shared: Shared) -> Path:
    """What an export made of that folder."""

    def make(target: Path) -> None:
        from depthface_export.pipeline import export

        with traced_once(shared):
            assert export(job_of(TINY, target, str(folder))) == "exported"

    return shared.folder("clip_of_folder", make)


@pytest.fixture(scope="session")
def folder_server(folder_repository: Path) -> Iterator[Server]:
    with serving(folder_repository) as server:
        yield server


@pytest.fixture(scope="session")
def reference(folder: Path) -> Reference:
    """`transformers` on the same folder."""
    from transformers import CLIPModel

    return Reference(CLIPModel.from_pretrained(folder).eval())
