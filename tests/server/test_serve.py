"""`depthface serve` as a user meets it: it starts, it says why it does not, it ends and leaves nothing."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import psutil
import pytest
from fixtures.photos import VARIETY, difference
from fixtures.processes import ended, family, kill, listening
from fixtures.serving import COMMAND, ENDS_WITHIN_S, depthface, serving
from fixtures.waiting import HANGS_AFTER_S, until
from PIL import Image

from depthface.contract import MANIFEST_FILE
from depthface.errors import ServeError
from depthface_client import Client, ClientError
from depthface_server import cli, embedded, installation, processes
from depthface_server.address import Address
from depthface_server.options import Options
from depthface_server.repository import contents
from depthface_server.workspace import Workspace

MODEL = "depth_anything_v2_small"
NETWORK = f"{MODEL}_network"
FREE_PORTS = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")


@pytest.fixture
def own_repository(repository, tmp_path) -> Path:
    """A repository to spoil."""
    return Path(shutil.copytree(repository, tmp_path / "model_repository"))


def test_the_defaults_of_options_are_those_of_serve(repository):
    settings = cli.serve.make_context("serve", ["--repository", str(repository)]).params
    options = Options()
    assert dataclasses.replace(cli._read(settings), admin_key=options.admin_key) == options


def fails(repository: Path, *options: str) -> str:
    """Start a server that cannot start; the one line that it says, and the command that mends it, if there is one."""
    done = depthface("serve", "--repository", repository, *(options or FREE_PORTS), timeout_s=HANGS_AFTER_S)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    line, *commands = done.stderr.strip().splitlines()
    assert line.startswith("Error: ")
    assert all(command.startswith("  depthface export ") for command in commands), done.stderr
    return done.stderr


def shm_regions(pid: int) -> list[Path]:
    return list(Path("/dev/shm").glob(f"depthface_{pid}_*"))


@pytest.fixture
def hang_up_is_not_ignored() -> Iterator[None]:
    """As it may be of whoever began the tests, under `nohup`; who is started then ignores it too."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hang_up_is_not_ignored")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_it_starts_answers_and_ends_whole(repository, number):
    with serving(repository) as server:
        assert f"ready: http://{server.host}" == server.lines[-1]
        assert any("RANDOM WEIGHTS" in line for line in server.lines)
        processes = server.family[1:]
        assert len(server.steps(MODEL)) + len(server.steps(NETWORK)) == 3
        assert shm_regions(server.process.pid)
        with Client(server.host) as client:
            assert client.depth_png(VARIETY["tiny 40×30"]).startswith(b"\x89PNG")
        assert server.stop(number) < ENDS_WITHIN_S
        assert server.process.returncode == 0
        assert ended(processes, ENDS_WITHIN_S)
        assert not shm_regions(server.process.pid)


def test_a_killed_serve_takes_triton_with_it_and_the_next_sweeps_up(repository):
    with serving(repository) as server:
        children = server.family[1:]
        server.process.kill()
        server.process.wait()
        assert ended(children)
    processes.sweep()
    assert not shm_regions(server.process.pid)


def test_a_step_that_outlives_its_triton_is_ended_by_the_next_server(repository, server):
    """One that Triton asked and did not hear waits for ever; so does the one that is stopped here."""
    with serving(repository) as killed:
        (network,) = killed.steps(NETWORK)
        network.suspend()
        triton = killed.triton
        killed.process.kill()
        killed.process.wait()
        kill([triton])
        assert ended([triton])
        assert network.is_running()
        processes.sweep()
        assert ended([network])
    assert server.steps(NETWORK)


def test_what_a_server_in_another_container_has_in_shared_memory_is_left_alone():
    """Its process cannot be seen from here, and lives."""
    region = Path("/dev/shm/depthface_999999999_1_of-another-namespace")
    region.touch()
    try:
        processes.sweep()
        assert region.exists()
    finally:
        region.unlink()


def test_it_listens_on_loopback_alone(server):
    port = int(server.host.rsplit(":", 1)[1])
    found = listening(server.family[1:])
    assert port in {number for _, number in found}
    assert {ip.removeprefix("::ffff:") for ip, _ in found} == {"127.0.0.1"}


def test_a_port_in_use_is_named(repository):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = fails(repository, "--http-port", "0", "--grpc-port", str(port), "--metrics-port", "0")
    assert f"Port {port}" in said
    assert "--grpc-port" in said


def test_nothing_exported_says_how_to_export(tmp_path):
    assert "depthface export" in fails(tmp_path)


def test_what_is_laid_out_but_not_exported_is_said_and_not_served(own_repository):
    shutil.copytree(own_repository / "depth_anything_v2_small", own_repository / "depth_anything_v2_base")
    config = own_repository / "depth_anything_v2_base" / "config.pbtxt"
    config.write_text(config.read_text().replace("v2_small", "v2_base"))
    found = contents(own_repository)
    assert list(found.exported) == ["depth_anything_v2_small"]
    assert found.missing == ("depth_anything_v2_base",)


def test_a_truncated_model_is_one_line(own_repository):
    model = own_repository / NETWORK / "1" / "model.onnx"
    model.write_bytes(model.read_bytes()[:1000])
    said = fails(own_repository)
    assert NETWORK in said
    assert "model.onnx" in said


def test_a_missing_model_is_one_line(own_repository):
    (own_repository / NETWORK / "1" / "model.onnx").unlink()
    assert NETWORK in fails(own_repository)


def test_a_step_that_cannot_be_imported_is_one_line(own_repository):
    step = own_repository / MODEL / "1" / "model.py"
    step.write_text("import no_such_package\n")
    said = fails(own_repository)
    assert MODEL in said
    assert "no_such_package" in said


def test_a_missing_wheel_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(installation.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ServeError, match=r"depthface\[server\]"):
        installation.Installation.find()


def test_a_broken_manifest_is_no_manifest(own_repository):
    (own_repository / NETWORK / "1" / MANIFEST_FILE).write_text("{")
    assert "no exported model" in fails(own_repository)


def test_sigterm_while_it_starts_ends_it_too(repository):
    process = subprocess.Popen(
        [*COMMAND, "serve", "--repository", str(repository), *FREE_PORTS], stdout=subprocess.DEVNULL
    )
    until(lambda: family(process.pid)[1:], "Triton")
    process.terminate()
    assert process.wait(ENDS_WITHIN_S) == 0
    assert not shm_regions(process.pid)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_who_interrupts_while_files_are_looked_at_starts_no_triton(own_repository, number):
    """A file of 4 GB, which takes some seconds to read."""
    model = own_repository / NETWORK / "1" / "model.onnx"
    os.truncate(model, 4 * 2**30)
    process = subprocess.Popen(
        [*COMMAND, "serve", "--repository", str(own_repository), *FREE_PORTS], stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # whoever began the tests may ignore it
    )  # fmt: skip
    until(lambda: str(model) in {file.path for file in psutil.Process(process.pid).open_files()}, "the file's reader")
    process.send_signal(number)
    _, said = process.communicate(timeout=HANGS_AFTER_S)
    assert (process.returncode, said.strip()) == (130, "Interrupted.")


def answers(client: Client) -> bool:
    try:
        return bool(client.depth_png(VARIETY["tiny 40×30"]))
    except ClientError:
        return False


@pytest.fixture
def workspace() -> Iterator[Workspace]:
    """What `serve` makes for each of its own."""
    with Workspace.temporary() as made:
        yield made


def test_the_same_repository_serves_under_plain_tritonserver_options(server, repository, workspace):
    """What NVIDIA's container is given: the folder and the model's name. No option of ours is needed; ours has OpenVINO
    compute what this one gives to ONNX Runtime."""
    found = installation.Installation.find()
    address = Address.free("127.0.0.1", 0, 0, 0)
    environment = found.environment_in(workspace)
    process = subprocess.Popen(
        [
            str(found.program),
            f"--model-repository={repository}",
            f"--backend-directory={found.backends}",
            "--model-control-mode=explicit",
            "--load-model=depth_anything_v2_small",
            f"--http-port={address.http_port}",
            "--allow-grpc=false",
            "--allow-metrics=false",
        ],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with Client(f"127.0.0.1:{address.http_port}") as plain, Client(server.host) as ours:
            until(lambda: answers(plain), "an answer of the plain Triton")
            png = plain.depth_png(VARIETY["tiny 40×30"])
            largest, _ = difference(png, Image.open(BytesIO(ours.depth_png(VARIETY["tiny 40×30"]))))
            assert largest <= 1
            assert plain.weights() == "unknown"  # only --model-config-name=exported tells
    finally:
        process.terminate()
        process.wait(HANGS_AFTER_S)


def test_a_template_that_was_never_exported_does_not_load(repository, tmp_path):
    """As a plain `tritonserver` meets the depth sizes that nobody exported: a sentence, and not ready."""
    copy = Path(shutil.copytree(repository, tmp_path / "models"))
    (copy / NETWORK / "1" / "model.onnx").unlink()
    triton = embedded.Triton(copy, [MODEL], Address.free("127.0.0.1", 0, 0, 0))
    with triton, pytest.raises(ServeError, match=f"its network {NETWORK} is not exported. Export it"):
        triton.wait_until_ready(threading.Event())
