"""A server for the SDK's face tests: one pack, the synthetic one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures.serving import Server, depthface, serving


@pytest.fixture(scope="session")
def swap_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One face pack, so that nobody has to name it, and the swapper, random."""
    repository: Path = tmp_path_factory.mktemp("one_pack") / "model_repository"
    for arguments in (("buffalo_l", "--weights", "synthetic"), ("inswapper_128", "--weights", "random")):
        done = depthface("export", *arguments, "--repository", repository)
        assert done.returncode == 0, done.stderr
    return repository


@pytest.fixture(scope="session")
def face_server(swap_repository: Path) -> Iterator[Server]:
    """The real embedded Triton with them."""
    with serving(swap_repository) as server:
        yield server
