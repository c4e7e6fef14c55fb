"""What several tests of the server share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fixtures.lab import Lab, opened


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A server for small models, each of a name of its own."""
    with opened(tmp_path_factory.mktemp("lab")) as lab:
        yield lab
