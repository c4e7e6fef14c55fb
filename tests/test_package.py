"""What a user gets from a package index: built, checked, installed where nothing is, and used from an empty folder."""

from __future__ import annotations

import os
import re
import shutil
import site
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from fixtures.photos import VARIETY
from fixtures.serving import Server
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

# Every package of ours, but for the benchmarks, which stay in the checkout.
PACKAGES = sorted(
    path.parent.relative_to(ROOT)
    for pattern in ("src/depthface/__init__.py", "*/depthface_*/__init__.py")
    for path in ROOT.glob(pattern)
    if path.parts[len(ROOT.parts)] not in ("benchmarks", ".venv")
)

PYTHONS = ("3.11", "3.12", "3.13", "3.14")

# As if by somebody else: without the settings and the user's packages of whoever runs the tests.
CLEAN = {
    name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "DEPTHFACE", "PIP_REQUIRE"))
}


def run(*command: str | Path, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env=CLEAN | environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


@dataclass(frozen=True)
class Built:
    """The two files that would be published."""

    wheel: Path
    sdist: Path

    @property
    def names(self) -> set[str]:
        """Of the files in the wheel."""
        with zipfile.ZipFile(self.wheel) as archive:
            return set(archive.namelist())

    @property
    def metadata(self) -> Message:
        with zipfile.ZipFile(self.wheel) as archive:
            (name,) = [name for name in archive.namelist() if name.endswith("dist-info/METADATA")]
            return message_from_bytes(archive.read(name))


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Built as for a release: the sdist from the checkout, the wheel from the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    done = run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return Built(wheel, sdist)


# The files


def test_an_index_would_take_them(built):
    done = run(sys.executable, "-m", "twine", "check", "--strict", built.wheel, built.sdist)
    assert done.returncode == 0, done.stdout


def test_the_wheel_holds_every_package_whole_and_nothing_else(built):
    assert {"depthface", "depthface_client", "depthface_export", "depthface_server"} <= {path.name for path in PACKAGES}
    committed = run("git", "-C", ROOT, "ls-files", *PACKAGES).stdout.split("\n")[:-1]
    if not committed:
        pytest.skip("this is no checkout of git, so there is no list of the files to compare with")
    ours = {name for name in built.names if ".dist-info/" not in name}
    roots = {path.parent for path in PACKAGES}
    expected = {str(Path(name).relative_to(root)) for name in committed for root in roots & set(Path(name).parents)}
    assert ours == expected


def test_every_package_says_that_it_has_types(built):
    assert {f"{path.name}/py.typed" for path in PACKAGES} <= built.names
    assert (ROOT / "benchmarks" / "depthface_bench" / "py.typed").exists()


def test_the_sdist_is_the_source_and_no_more(built):
    with tarfile.open(built.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "LICENSE", "CHANGELOG.md", "pyproject.toml"} <= names
    assert {name.partition("/")[0] for name in names if "/" in name} == {path.parts[0] for path in PACKAGES}
    assert built.sdist.stat().st_size < 500_000


def test_what_the_index_shows(built):
    metadata = built.metadata
    assert {"Homepage", "Documentation", "Changelog", "Issues"} <= {
        line.partition(", ")[0] for line in metadata.get_all("Project-URL")
    }
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "Apache-2.0"
    # Nothing lies beside the text there: every link and picture must stand alone.
    description = str(metadata.get_payload())
    assert "# depthface" in description
    assert [link for link in re.findall(r"\]\(([^)]+)\)", description) if not link.startswith(("https://", "#"))] == []


def test_numpy_2_is_kept_out_only_of_what_runs_inside_triton(built):
    old = set()
    for requirement in map(Requirement, built.metadata.get_all("Requires-Dist")):
        if requirement.name == "numpy" and not requirement.specifier.contains("2.3"):
            assert requirement.marker is not None
            old |= set(re.findall(r'extra == "([^"]+)"', str(requirement.marker)))
    assert old == {"steps", "server", "bench", "dev"}  # the last three bring the first


def test_the_changelog_has_this_version_or_says_what_is_next():
    text = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(r"^## \[Unreleased\]$", text, re.MULTILINE)
    assert f"## [{PROJECT['project']['version']}]" in text


# Installed


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skip where pip finds no package index."""
    folder = tmp_path_factory.mktemp("registry")
    wanted = ("tritonclient", "geventhttpclient")  # pure and compiled
    done = run(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-cache-dir", "-d", folder, *wanted)
    if done.returncode:
        pytest.skip(f"pip reaches no package index: {done.stderr.strip().splitlines()[-1]}")


def uv(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    done = run(Path(sys.executable).with_name("uv"), *arguments, "--quiet", "--system-certs", cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done


def interpreter(version: str) -> Path:
    """A Python of this version, or a skip."""
    candidates = [
        *([sys.executable] if version == f"{sys.version_info.major}.{sys.version_info.minor}" else []),
        shutil.which(f"python{version}") or "",
        *sorted(map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}")), reverse=True),
    ]
    for candidate in filter(None, candidates):
        if run(candidate, "-c", "").returncode == 0:
            return Path(candidate)
    pytest.skip(f"there is no Python {version} on this machine")


@pytest.mark.slow
@pytest.mark.parametrize("version", PYTHONS)
def test_a_client_beside_the_newest_numpy(version, built, registry, server: Server, tmp_path, client):
    """In an empty environment of each Python: installed, and asking for the same map as here."""
    environment = tmp_path / "environment"
    python = environment / "bin" / "python"
    uv("venv", "--python", interpreter(version), environment)
    uv("pip", "install", "--python", python, "--only-binary", ":all:", f"{built.wheel}[client]", "numpy>=2")
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(VARIETY["landscape JPEG"])
    done = run(
        environment / "bin" / "depthface",
        *("depth", photo, "--out", tmp_path / "out" / "depth.npy", "--as", "npy", "--url", server.host),
        cwd=tmp_path,
        PYTHONWARNINGS="error::DeprecationWarning:depthface",
    )
    assert done.returncode == 0, done.stderr
    map_there = np.load(BytesIO((tmp_path / "out" / "depth.npy").read_bytes()))
    np.testing.assert_array_equal(map_there, client.depth(photo).array)
    said = run(python, "-c", "import numpy, depthface; print(numpy.__version__, depthface.__file__)").stdout.split()
    assert Version(said[0]) >= Version("2")
    assert Path(said[1]).is_relative_to(environment)
    heavy = uv("pip", "freeze", "--python", python).stdout.lower()
    assert "tritonclient" in heavy
    assert not re.search(r"^(torch|transformers|opencv|onnx|scipy)", heavy, re.MULTILINE)


@pytest.mark.slow
def test_a_client_resolves_for_the_newest_python_which_need_not_be_here(registry, tmp_path):
    """Wheels for all that it needs, as uv finds them."""
    done = uv(
        *("pip", "compile", ROOT / "pyproject.toml", "--extra", "client", "--only-binary", ":all:"),
        *("--python-version", PYTHONS[-1], "--python-platform", "x86_64-manylinux_2_28"),
        cwd=tmp_path,
    )
    (numpy,) = re.findall(r"^numpy==(\S+)", done.stdout, re.MULTILINE)
    assert Version(numpy) >= Version("2")


@pytest.fixture(scope="session")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An environment that holds the wheel alone and borrows what it needs from the one that runs the tests."""
    environment = tmp_path_factory.mktemp("installed") / "environment"
    assert run(sys.executable, "-m", "venv", "--without-pip", environment).returncode == 0
    python = environment / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-index", "--no-deps")
    done = run(*pip, built.wheel)
    assert done.returncode == 0, done.stderr
    (packages,) = environment.glob("lib/python*/site-packages")
    # A folder named in a .pth file comes last, and its own .pth files, such as the checkout's, are not read.
    (packages / "borrowed.pth").write_text("\n".join(site.getsitepackages()))
    yield environment


@pytest.mark.slow
def test_from_an_empty_folder_the_wheel_exports_serves_and_answers(installed, tmp_path):
    """Nothing of the checkout is there: no model_repository, no tests, no examples."""
    command = installed / "bin" / "depthface"
    code = "import depthface, depthface_server; print(depthface.__file__, depthface_server.__file__)"
    paths = run(installed / "bin" / "python", "-c", code).stdout.split()
    assert len(paths) == 2
    assert all(Path(path).is_relative_to(installed) for path in paths), paths
    empty = tmp_path / "empty"
    empty.mkdir()
    done = run(command, "export", "buffalo_sc", "--weights", "random", cwd=empty)
    assert done.returncode == 0, done.stderr
    assert "RANDOM WEIGHTS" in done.stdout
    assert [path.name for path in empty.iterdir()] == ["model_repository"]
    process = subprocess.Popen(
        [str(command), "serve", "--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"],
        cwd=empty,
        env=CLEAN | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    running = Server(process)
    try:
        running.wait_until_ready()
        healthy = run(command, "health", "--url", running.host, cwd=empty)
        assert healthy.returncode == 0, healthy.stderr
        (empty / "photo.png").write_bytes(VARIETY["tiny 40×30"])
        found = run(command, "faces", "photo.png", "--json", "--url", running.host, cwd=empty)
        assert found.returncode == 0, found.stderr
        assert "random, seed 0" in found.stdout
    finally:
        if process.poll() is None:
            running.stop()
    assert run(command, "verify", cwd=empty).returncode == 0
