"""Gateways that the whole session shares: before the servers of faces and of depth, and before nobody."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
from fixtures import face_networks
from fixtures.gateways import CROWD, MODEL, MOST_MIB, PACK, Gateway, gateway
from fixtures.serving import Server, depthface, serving
from fixtures.shared import Shared, linked

from depthface_client import Client, Face


@pytest.fixture(scope="session")
def faces_gateway(face_server: Server) -> Iterator[Gateway]:
    """immich and faces, before the shared face server."""
    variables = {
        "DEPTHFACE_GATEWAY_ALIASES": f"buffalo_l={PACK}",
        "DEPTHFACE_GATEWAY_MAX_MIB": str(MOST_MIB),
        "FACES_PACK": PACK,
    }
    with gateway("immich", "faces", url=face_server.host, **variables) as running:
        yield running


@pytest.fixture(scope="session")
def depth_gateway(server: Server) -> Iterator[Gateway]:
    """ImmichVR's service, before the shared depth server."""
    with gateway("immichvr", url=server.host, DEPTHFACE_GATEWAY_MAX_MIB=str(MOST_MIB)) as running:
        yield running


@pytest.fixture(scope="session")
def lonely_gateway() -> Iterator[Gateway]:
    """All three, where no Triton answers."""
    with gateway("immich", "immichvr", "faces", url="127.0.0.1:1") as running:
        yield running


@pytest.fixture
def face_client(face_server: Server) -> Iterator[Client]:
    with Client(face_server.host) as client:
        yield client


@pytest.fixture(scope="session")
def people(face_server: Server) -> list[Face]:
    """The crowd as our client sees it at 640, the surest first."""
    with Client(face_server.host) as client:
        return client.faces(CROWD, model=MODEL, det_size=640)


@pytest.fixture(scope="session")
def everything_server(
    repository: Path, pack_repository: Path, drawn_repository: Path, shared: Shared
) -> Iterator[Server]:
    """The real embedded Triton with one model of each task: depth, a pack, CLIP, and a small swapper."""

    def make(folder: Path) -> None:
        linked(repository, pack_repository, drawn_repository, to=folder)
        swapper = shared.root / "inswapper_128.onnx"
        onnx.save(face_networks.swapper(), swapper)
        done = depthface(
            "export", "inswapper_128", "--weights", swapper, "--accept-license", "--repository", folder, timeout_s=900
        )
        assert done.returncode == 0, done.stderr

    with serving(shared.folder("everything", make)) as server:
        yield server


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can make a small disk")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)
