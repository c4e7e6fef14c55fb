"""A server for the SDK's face tests: one pack, the synthetic one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures.serving import Server, depthface, serving
from fixtures.shared import Shared, linked


@pytest.fixture(scope="session")
def swap_repository(pack_repository: Path, shared: Shared) -> Path:
    """One face pack, so that nobody has to name it, and the swapper, random."""

    def make(folder: Path) -> None:
        linked(pack_repository, to=folder)
        done = depthface("export", "inswapper_128", "--weights", "random", "--repository", folder)
        assert done.returncode == 0, done.stderr

    return shared.folder("swap", make)


@pytest.fixture(scope="session")
def face_server(swap_repository: Path) -> Iterator[Server]:
    """The real embedded Triton with them."""
    with serving(swap_repository) as server:
        yield server
