"""The serving container, whole, but for NVIDIA's image: installed by the Dockerfile's steps, started by its command."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from fixtures.container import Container, build, lay_out, running
from fixtures.deploy import stages
from fixtures.photos import VARIETY, difference
from fixtures.processes import command_line, ended, family, kill
from fixtures.serving import ENDS_WITHIN_S, serving
from fixtures.waiting import until
from PIL import Image

from depthface.errors import ServeError
from depthface_server import embedded, installation
from depthface_server.address import Address
from depthface_server.installation import Installation
from depthface_server.workspace import Workspace

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The container's file tree, as the Dockerfile's steps leave it."""
    root = tmp_path_factory.mktemp("container")
    build(stages()["environment"], root)
    return root


@pytest.fixture(scope="module")
def triton(root: Path) -> Path:
    return lay_out(root)


@pytest.fixture(scope="module")
def container(root: Path, triton: Path, repository: Path) -> Iterator[Container]:
    models = Path(shutil.copytree(repository, root / "models", ignore=shutil.ignore_patterns("__pycache__")))
    with running(stages()["serve"], root, triton, models) as container:
        yield container


def test_the_environment_is_light_and_has_the_right_numpy(root):
    python = root / "opt" / "depthface" / "bin" / "python3"
    done = subprocess.check_output([sys.executable, "-m", "pip", "--python", python, "list"], text=True)
    installed = dict(line.lower().split()[:2] for line in done.splitlines()[2:])
    assert installed["numpy"].startswith("1.")
    ours = {"cykooz-resizer", "depthface", "isal", "opencv-python-headless", "simplejpeg", "tritonclient"}
    assert ours <= set(installed)
    assert not {"torch", "transformers", "onnx", "onnxruntime", "nvidia-pytriton", "pip", "setuptools"} & set(installed)


def test_it_serves_with_the_triton_that_is_there(container, triton):
    (server,) = container.first.children()
    assert server.exe() == str(triton / "bin" / "tritonserver")
    stubs = {child.exe() for child in server.children()}
    assert stubs == {str(triton / "backends" / "python" / "triton_python_backend_stub")}


def test_it_answers(container, tmp_path, client):
    (tmp_path / "photo.png").write_bytes(VARIETY["tiny 40×30"])
    done = container.run("depthface", "depth", tmp_path / "photo.png", "--out", tmp_path / "d.png", *container.address)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "d.png") as depth:
        largest, _ = difference(client.depth_png(tmp_path / "photo.png"), depth)
    assert largest <= 1  # OpenVINO has computed one, ONNX Runtime the other


def test_its_health_check_is_a_real_inference(container):
    done = container.run(*stages()["serve"].health_check, *container.address)
    assert done.returncode == 0, done.stderr
    assert "depth_anything_v2_small: answers" in done.stdout


def test_at_rest_no_network_is_asked_for_anything(container, root):
    """NVIDIA's own backends compute whatever comes; under bf16 a failing probe would spoil what comes after it."""
    port = 8002 if container.is_isolated else container.server.port("metrics")
    code = (
        "import time, urllib.request as u\n"
        f"get = lambda: [line for line in u.urlopen('http://127.0.0.1:{port}/metrics').read().decode().splitlines() "
        "if line.startswith('nv_inference_')]\n"
        "before, now = [], get()\n"
        "while now != before: before = now; time.sleep(1); now = get()\n"  # of what was asked before
        "time.sleep(5); assert before and before == get()"
    )
    done = container.run(root / "opt" / "depthface" / "bin" / "python3", "-c", code)
    assert done.returncode == 0, done.stderr


def test_its_models_cannot_be_written(container):
    if not container.is_isolated:
        pytest.skip("this user may not mount anything")
    models = next(word for word in container.first.cmdline() if word.endswith("/models"))
    assert "Read-only" in container.run("touch", f"{models}/x").stderr
    assert not list(Path(models).rglob("__pycache__"))


def test_it_buries_the_orphans_that_it_inherits(container):
    if not container.is_isolated:
        pytest.skip("this user may not have a process namespace, and is not its first process")
    assert container.run("sh", "-c", "sleep 1000 > /dev/null 2>&1 &").returncode == 0

    def orphans() -> list[psutil.Process]:
        return [child for child in container.first.children() if command_line(child) == ["sleep", "1000"]]

    until(orphans, "the orphan")
    (orphan,) = orphans()
    kill([orphan])
    until(lambda: orphan not in container.first.children(), "its burial")


def test_it_ends_on_sigterm_and_leaves_nothing(root, triton, repository):
    with running(stages()["serve"], root, triton, repository) as container:
        processes = family(container.first.pid)
        assert len(processes) == 5  # serve, tritonserver and three Python models
        container.first.send_signal(signal.SIGTERM)
        assert container.server.process.wait(ENDS_WITHIN_S) == 0
        assert ended(processes, 1)
        if not container.is_isolated:
            assert not list(Path("/dev/shm").glob(f"depthface_{container.first.pid}_*"))


def test_nvidias_is_taken_where_it_is(triton, monkeypatch):
    wheel = Installation.find()
    monkeypatch.setattr(installation, "_NVIDIA", triton)
    found = Installation.find()
    assert (found.program, found.backends) == (triton / "bin" / "tritonserver", triton / "backends")
    assert wheel.program != found.program
    assert (found.is_native, wheel.is_native) == (True, False)
    with Workspace.temporary() as workspace:
        environment = found.environment_in(workspace)
    assert environment["LD_LIBRARY_PATH"].startswith(str(triton / "lib"))
    assert not [name for name in environment if name.startswith("MALLOC_") and name not in os.environ]


def test_what_nvidias_backends_do_not_know_is_said_and_what_they_need_is_given(triton, tmp_path, repository):
    """Idle networks stay in memory there; and one pool of threads is for all networks."""
    native = embedded.Triton(repository, [], Address("h", "127.0.0.1", 1, 2, 3), installation=Installation.find(triton))
    native._served = native._backends = tmp_path
    assert "--backend-config=onnxruntime,enable-global-threadpool=1" in native._command()
    options = ("--idle-minutes", "30", "--triton", str(triton))
    with serving(repository, *options) as server:
        assert sum("--idle-minutes" in line for line in server.lines) == 1


def test_a_folder_without_triton_is_refused(tmp_path):
    with pytest.raises(ServeError, match="bin/tritonserver"):
        Installation.find(tmp_path)


def test_a_triton_for_another_python_is_refused(triton, tmp_path):
    other = tmp_path / "tritonserver"
    for name in ("bin/tritonserver", "backends/python/triton_python_backend_stub"):
        (other / name).parent.mkdir(parents=True)
        os.link(triton / name, other / name)
    stub = other / "backends/python/triton_python_backend_stub"
    content = stub.read_bytes()
    stub.unlink()
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub.write_bytes(content.replace(f"libpython{version}".encode(), b"libpython3.99"))
    with pytest.raises(ServeError, match=r"runs Python 3\.99 and this is"):
        Installation.find(other)
