"""What the whole session shares: one export, one running server, one reference."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from fixtures.serving import Server, depthface, serving
from fixtures.tiny import TINY
from PIL import Image

from depthface.families import card_named
from depthface.spec import ModelCard
from depthface_client import Client

MODEL = "depth_anything_v2_small"


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository with Small in it: the true architecture, seeded weights."""
    folder = tmp_path_factory.mktemp("repository") / "model_repository"
    done = depthface("export", MODEL, "--weights", "random", "--repository", folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def tiny() -> ModelCard:
    """Small's card with a network of a hundredth of its size, so that an export takes seconds."""
    return TINY


@pytest.fixture(scope="session")
def server(repository: Path) -> Iterator[Server]:
    """The real embedded Triton, for tests that leave it as it was."""
    with serving(repository) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.host) as client:
        yield client


@pytest.fixture(scope="session")
def reference() -> Callable[[bytes], Image.Image]:
    """The `transformers` depth pipeline on the same weights: encoded photo to 8-bit picture."""
    from transformers import DPTImageProcessorPil, pipeline

    from depthface_standins.depth_anything_v2 import random_model

    estimate = pipeline(
        "depth-estimation",
        model=random_model(card_named(MODEL)),
        image_processor=DPTImageProcessorPil(
            size={"height": 518, "width": 518},
            ensure_multiple_of=14,
            keep_aspect_ratio=True,
            image_mean=[0.485, 0.456, 0.406],
            image_std=[0.229, 0.224, 0.225],
        ),
    )
    return lambda data: estimate(Image.open(BytesIO(data)))["depth"]


@pytest.fixture(scope="session")
def real_photos() -> list[Path]:
    """Openly licensed photographs in the folder that DEPTHFACE_PHOTOS names."""
    folder = os.environ.get("DEPTHFACE_PHOTOS")
    if not folder:
        pytest.skip("DEPTHFACE_PHOTOS names no folder of photographs")
    found = sorted(path for path in Path(folder).iterdir() if path.suffix in (".jpg", ".png"))
    assert found, f"there is no photograph in {folder}"
    return found


def levels(png: bytes) -> np.ndarray:
    """The grey levels of a PNG."""
    return np.asarray(Image.open(BytesIO(png)))


@dataclass(frozen=True)
class FacePack:
    """A face pack that the shared face server serves, and its original files, for InsightFace itself.

    `name` is in the models' names; `folder` holds the files as InsightFace loads them; `is_genuine` tells a trained
    pack, which finds people, from the synthetic one, which finds drawn faces.
    """

    name: str
    folder: Path
    is_genuine: bool


@pytest.fixture(scope="session")
def face_packs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FacePack]:
    """The synthetic pack, and a genuine one where DEPTHFACE_WEIGHTS names a folder of weights."""
    import onnx

    from depthface_standins.insightface import synthetic

    folder = tmp_path_factory.mktemp("packs") / "synthetic"
    folder.mkdir()
    for name, model in synthetic.pack().items():
        onnx.save(model, folder / name)
    packs = {"synthetic": FacePack("synthetic", folder, False)}
    genuine = os.environ.get("DEPTHFACE_WEIGHTS")
    if genuine:
        packs["genuine"] = FacePack("insightface", Path(genuine) / "insightface", True)
    return packs


@pytest.fixture(scope="session")
def face_repository(face_packs: dict[str, FacePack], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository with every pack of `face_packs` in it, each exported from its folder."""
    target = tmp_path_factory.mktemp("faces") / "model_repository"
    for pack in face_packs.values():
        done = depthface("export", pack.folder, "--accept-license", "--repository", target)
        assert done.returncode == 0, done.stderr
    return target


@pytest.fixture(scope="session")
def face_server(face_repository: Path) -> Iterator[Server]:
    """The real embedded Triton with the face packs, for tests that leave it as it was."""
    with serving(face_repository) as server:
        yield server


@pytest.fixture(scope="session", params=["synthetic", "genuine"])
def face_pack(request: pytest.FixtureRequest, face_packs: dict[str, FacePack]) -> FacePack:
    """Each pack in turn."""
    if request.param not in face_packs:
        pytest.skip("DEPTHFACE_WEIGHTS names no folder of genuine weights")
    return face_packs[request.param]


@pytest.fixture(scope="session")
def full_server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """What the reader of the README serves: depth, and one face pack, the synthetic one."""
    both = Path(
        shutil.copytree(repository, tmp_path_factory.mktemp("full") / "model_repository", copy_function=os.link)
    )
    done = depthface("export", "buffalo_l", "--weights", "synthetic", "--repository", both)
    assert done.returncode == 0, done.stderr
    with serving(both) as server:
        yield server
