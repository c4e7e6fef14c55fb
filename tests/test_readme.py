"""The README's commands, run as they are written; only the port differs, so that nobody's server is in the way."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures.photos import VARIETY
from fixtures.serving import Server, depthface, serving
from PIL import Image

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """The code blocks that are marked to be run: those after a `<!-- runs -->` line."""
    return re.findall(rf"<!-- runs -->\n```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "photo.jpg").write_bytes(VARIETY["landscape JPEG"])
    return tmp_path


@pytest.fixture(scope="session")
def readme_server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """What the README's reader has served: depth, and a face pack beside it."""
    both = Path(shutil.copytree(repository, tmp_path_factory.mktemp("readme") / "model_repository"))
    done = depthface("export", "buffalo_l", "--weights", "synthetic", "--repository", both)
    assert done.returncode == 0, done.stderr
    with serving(both) as server:
        yield server


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        command, cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True, timeout=120, check=False
    )


def test_there_is_something_to_run():
    assert len(blocks("python")) >= 1
    assert len(blocks("bash")) >= 2


@pytest.mark.parametrize("block", blocks("python"))
def test_python(block, readme_server, folder):
    done = run([sys.executable, "-W", "error", "-c", block.replace("127.0.0.1:8000", readme_server.host)], folder)
    assert done.returncode == 0, done.stderr
    assert list(folder.glob("depth*.png"))


@pytest.mark.parametrize("block", blocks("bash"))
def test_bash(block, readme_server, folder):
    text = re.sub(r"depthface (depth|models|health)\b", rf"depthface \1 --url {readme_server.host}", block)
    text = text.replace("127.0.0.1:8000", readme_server.host)
    done = run(["bash", "-euo", "pipefail", "-c", text], folder)
    assert done.returncode == 0, done.stderr
    for made in folder.glob("*.png"):
        with Image.open(made) as picture:
            picture.load()


def test_every_make_target_that_is_named_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"make ([a-z-]+)", README))
    assert named
    assert named <= targets


@pytest.mark.slow
def test_the_demo_leaves_its_pictures(tmp_path):
    """`make demo`, from the export on, with a hub that does not answer."""
    done = subprocess.run(
        [
            sys.executable,
            ROOT / "examples" / "demo.py",
            "--out",
            tmp_path / "demo",
            "--repository",
            tmp_path / "models",
        ],
        env=os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hub")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "cannot be fetched from the hub" in done.stdout
    assert "ms a photo" in done.stdout
    assert {path.name for path in (tmp_path / "demo").iterdir()} == {
        "astronaut.png",
        "astronaut_depth_random_weights.png",
        "astronaut_preview_random_weights.png",
        "faces.png",
        "parallax.mp4",
        "parallax.webp",
        "parallax_depth.png",
        "parallax_photo.png",
    }
    with Image.open(tmp_path / "demo" / "astronaut_depth_random_weights.png") as picture:
        assert (picture.size, picture.text["Source"]) == ((512, 512), "depthface: random, seed 0")
