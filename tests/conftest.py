"""What the whole run shares: one export of each kind, one running server of each, one reference."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from fixtures.exporting import export_apart, synthetic_pack
from fixtures.processes import by_ids, ended
from fixtures.proxies import reach_this_machine
from fixtures.serving import Server, all_have_left, depthface, leaving, serving
from fixtures.shared import Shared, linked, room
from fixtures.tiny import TINY
from PIL import Image

from depthface.families import card_named
from depthface.spec import ModelCard
from depthface_client import Client

MODEL = "depth_anything_v2_small"


def pytest_configure(config: pytest.Config) -> None:
    """Of several processes on one machine each computes by itself, and so does what it starts.

    OpenMP's threads (torch, OpenBLAS) wait for each other by turning round: where two processes have as many threads
    each as there are cores, that costs more than it gains.
    """
    reach_this_machine()
    if hasattr(config, "workerinput"):
        os.environ.setdefault("OMP_NUM_THREADS", "1")


def shared_root(config: pytest.Config) -> Path | None:
    """Where the processes of a run share what they make; None for a run in one process."""
    return Path(config.option.basetemp).parent / "shared" if hasattr(config, "workerinput") else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, so that no process is left with one when the others have ended."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Run a test marked `quiet` when no other process of the run has one, and no server ends behind one."""
    root, alone = shared_root(item.config), item.get_closest_marker("quiet") is not None
    if root is None:
        if alone:
            ended(by_ids(leaving()))
        return (yield)
    root.mkdir(exist_ok=True)
    with room(root, alone=alone):
        if alone:
            ended(by_ids(int(pid) for path in root.glob("leaving-*") for pid in path.read_text().split()))
        try:
            return (yield)
        finally:
            (root / f"leaving-{os.getpid()}").write_text(" ".join(map(str, leaving())))


@pytest.fixture(scope="session", autouse=True)
def _all_have_left() -> Iterator[None]:
    """At the end, when the shared servers have been told too, look at how each has ended."""
    yield
    all_have_left()


@pytest.fixture(scope="session")
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """Folders that are made once a run, whatever the number of its processes."""
    return Shared(shared_root(request.config) or tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="session")
def repository(shared: Shared) -> Path:
    """A model repository with Small in it: a network of a hundredth of its size, seeded weights, seconds to serve."""
    return shared.folder("depth", lambda folder: export_apart(shared, folder, "tiny"))


@pytest.fixture(scope="session")
def true_repository(shared: Shared) -> Path:
    """The same in the true architecture, for what depends on the network's size, time or numbers: a minute's work."""
    return shared.folder("true_depth", lambda folder: export_apart(shared, folder, MODEL))


@pytest.fixture(scope="session")
def tiny() -> ModelCard:
    """Small's card with a network of a hundredth of its size, so that an export takes seconds."""
    return TINY


@pytest.fixture(scope="session")
def server(repository: Path) -> Iterator[Server]:
    """The real embedded Triton, for tests that leave it as it was."""
    with serving(repository) as server:
        yield server


@pytest.fixture(scope="session")
def true_server(true_repository: Path) -> Iterator[Server]:
    """The same with the true network."""
    with serving(true_repository) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.host) as client:
        yield client


@pytest.fixture(scope="session")
def reference() -> Callable[[bytes], Image.Image]:
    """The `transformers` depth pipeline on the true network's weights: encoded photo to 8-bit picture."""
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
def face_packs(shared: Shared) -> dict[str, FacePack]:
    """The synthetic pack, and a genuine one where DEPTHFACE_WEIGHTS names a folder of weights."""

    def make(folder: Path) -> None:
        import onnx

        from depthface_standins.insightface import synthetic

        (folder / "synthetic").mkdir()
        for name, model in synthetic.pack().items():
            onnx.save(model, folder / "synthetic" / name)

    packs = {"synthetic": FacePack("synthetic", shared.folder("packs", make) / "synthetic", False)}
    genuine = os.environ.get("DEPTHFACE_WEIGHTS")
    if genuine:
        packs["genuine"] = FacePack("insightface", Path(genuine) / "insightface", True)
    return packs


@pytest.fixture(scope="session")
def face_repository(face_packs: dict[str, FacePack], shared: Shared) -> Path:
    """A model repository with every pack of `face_packs` in it, each exported from its folder."""

    def make(folder: Path) -> None:
        packs = [pack.folder for pack in face_packs.values()]
        done = depthface("export", *packs, "--accept-license", "--repository", folder)
        assert done.returncode == 0, done.stderr

    return shared.folder("faces", make)


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
def pack_repository(shared: Shared) -> Path:
    """One face pack under a published name, the synthetic one."""
    return synthetic_pack(shared, "buffalo_l")


@pytest.fixture(scope="session")
def drawn_repository(shared: Shared) -> Path:
    """CLIP with the synthetic weights, which know drawn shapes and their words."""

    def make(folder: Path) -> None:
        done = depthface("export", "clip_vit_b_32", "--weights", "synthetic", "--repository", folder, timeout_s=900)
        assert done.returncode == 0, done.stderr
        assert "SYNTHETIC WEIGHTS" in done.stdout

    return shared.folder("clip_drawn", make)


@pytest.fixture(scope="session")
def full_server(repository: Path, pack_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """What the reader of the README serves: depth, and one face pack, the synthetic one."""
    with serving(
        linked(repository, pack_repository, to=tmp_path_factory.mktemp("full") / "model_repository")
    ) as server:
        yield server
