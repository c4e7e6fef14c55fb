"""What several tests of face packs share."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from depthface_standins.insightface import synthetic


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> Path:
    """The synthetic pack's files, to be copied."""
    folder = tmp_path_factory.mktemp("files")
    for name, model in synthetic.pack().items():
        onnx.save(model, folder / name)
    return folder
