"""The README's and the site's commands, run as they are written; only the port is another, a free one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures.photos import VARIETY
from fixtures.shared import linked
from PIL import Image

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(language: str) -> list[object]:
    """The code blocks that are marked to be run: those after a `<!-- runs -->` line."""
    marked = re.compile(rf"<!-- runs -->\n```{language}\n(.*?)```", re.DOTALL)
    return [
        pytest.param(block, id=f"{page.stem}-{number}")
        for page in PAGES
        for number, block in enumerate(marked.findall(page.read_text()))
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "photo.jpg").write_bytes(VARIETY["landscape JPEG"])
    return tmp_path


def run(command: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"} | environment
    return subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=900, check=False
    )


def test_there_is_something_to_run():
    assert len(blocks("python")) >= 1
    assert len(blocks("bash")) >= 2


def test_first_steps_install_what_they_run_and_export_what_they_serve():
    """Of every block that begins with pip: `serve` ends at once where nothing was exported."""
    extra_of = {"export": "export", "serve": "server", "gateway": "gateway"}
    found = 0
    for page in PAGES:
        for block in re.findall(r"```bash\n(pip install .*?)```", page.read_text(), re.DOTALL):
            used = re.findall(r"^depthface (\w+)", block, re.MULTILINE)
            extras = {extra for names in re.findall(r"\[([\w,]+)\]", block) for extra in names.split(",")}
            assert {extra_of[name] for name in used if name in extra_of} <= extras, (page.name, block)
            if "serve" in used:
                assert "export" in used[: used.index("serve")], (page.name, block)
                found += 1
    assert found >= 2


@pytest.mark.parametrize("block", blocks("python"))
def test_python(block, full_server, folder):
    done = run([sys.executable, "-W", "error", "-c", block.replace("127.0.0.1:8000", full_server.host)], folder)
    assert done.returncode == 0, done.stderr
    saved = re.findall(r"save\(\"([\w./]+)\"\)", block)
    assert all((folder / name).is_file() for name in saved)
    assert saved or done.stdout


@pytest.mark.parametrize("block", blocks("bash"))
def test_bash(block, full_server, folder):
    text = block.replace("127.0.0.1:8000", full_server.host)
    done = run(["bash", "-euo", "pipefail", "-c", text], folder, DEPTHFACE_URL=full_server.host)
    assert done.returncode == 0, done.stderr
    named = re.findall(r"(?<!>)(?:--out|-o|>) +([\w./]+)", block)
    assert named
    for made in (folder / name for name in named):
        if made.is_dir():
            assert list(made.iterdir())
        assert made.is_dir() or made.stat().st_size > 0
        if made.suffix == ".png":
            with Image.open(made) as picture:
                picture.load()
                assert picture.size == (640, 427)


@pytest.mark.slow
def test_the_demo_leaves_its_pictures(true_repository, tmp_path):
    """`make demo`, with a hub that does not answer; its depth network is exported already, which takes the time."""
    linked(true_repository, to=tmp_path / "models")
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
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "cannot be fetched from the hub" in done.stdout
    assert "export  depth_anything_v2_small  unchanged" in done.stdout
    assert "export  buffalo_l  exported" in done.stdout
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
