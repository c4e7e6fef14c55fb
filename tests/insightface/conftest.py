"""What several tests of face packs share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def files(face_packs) -> Path:
    """The synthetic pack's files, to be copied."""
    return face_packs["synthetic"].folder
