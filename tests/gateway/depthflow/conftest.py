"""The app of the DepthFlow API, for all tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fixtures.depthflow import Service, serving


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("data")) as running:
        yield running
