"""Each script of examples/, run as its first lines say, on a server with depth and the synthetic face pack."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from fixtures.photos import VARIETY
from fixtures.serving import Server
from fixtures.stub import failing_for
from PIL import Image

from depthface_client import Client
from depthface_standins.insightface import scenes

EXAMPLES = Path(__file__).parents[1] / "examples"
PHOTO = VARIETY["landscape JPEG"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "photo.jpg").write_bytes(PHOTO)
    return tmp_path


@pytest.fixture
def crowd(tmp_path: Path) -> Path:
    """Six drawn faces in one photo."""
    path = tmp_path / "crowd.png"
    Image.fromarray(scenes.draw_crowd(6).image).save(path)
    return path


def run(name: str, *arguments: str | Path, url: str) -> str:
    """Run an example; return what it prints."""
    program = ["bash"] if name.endswith(".sh") else [sys.executable, "-W", "error"]
    done = subprocess.run(
        [*program, EXAMPLES / name, *arguments],
        env=os.environ | {"DEPTHFACE_URL": url},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_depth_map(full_server: Server, folder):
    said = run("depth_map.py", folder / "photo.jpg", url=full_server.host)
    with Client(full_server.host) as client:
        assert f"640×427 pixels, grid {client.depth(PHOTO).array.shape}, " in said
    assert "random, seed 0" in said
    with Image.open(folder / "photo_depth16.png") as deep, Image.open(folder / "photo_colours.png") as colours:
        assert np.asarray(deep).dtype == np.uint16
        assert (deep.size, colours.size, colours.mode) == ((640, 427), (640, 427), "RGB")


def test_faces(full_server: Server, crowd):
    said = run("faces.py", crowd, crowd.with_name("faces.png"), url=full_server.host)
    assert f"6 faces → {crowd.with_name('faces.png')}" in said
    with Image.open(crowd) as before, Image.open(crowd.with_name("faces.png")) as after:
        assert before.size == after.size
        assert before.convert("RGB").tobytes() != after.tobytes()


def test_compare(full_server: Server, crowd, folder):
    assert run("compare.py", crowd, crowd, url=full_server.host).startswith("the same person: cosine 1.000")
    with pytest.raises(AssertionError, match=r"photo\.jpg"):  # it says in which photo there is no face
        run("compare.py", crowd, folder / "photo.jpg", url=full_server.host)


def test_who_is_who(full_server: Server, crowd, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.png", "b.png"):
        (photos / name).write_bytes(crowd.read_bytes())
    lines = run("who_is_who.py", photos, url=full_server.host).splitlines()
    assert lines == [f"person {number}: a.png, b.png" for number in range(1, 7)]


def test_folder(full_server: Server, tmp_path):
    photos, maps = tmp_path / "photos", tmp_path / "maps"
    photos.mkdir()
    (photos / "a.jpg").write_bytes(PHOTO)
    (photos / "a.png").write_bytes(VARIETY["tiny 40×30"])
    (photos / "bad.jpg").write_bytes(b"not a photo")
    said = run("folder.py", photos, maps, url=full_server.host)
    assert "bad.jpg: " in said
    assert sorted(path.name for path in maps.iterdir()) == ["a.jpg.png", "a.png.png"]
    with Client(full_server.host) as client:
        assert (maps / "a.jpg.png").read_bytes() == client.depth_png(PHOTO, bits=16)


def test_folder_goes_on_where_the_server_fails_on_a_photo(full_server: Server, tmp_path):
    photos, maps = tmp_path / "photos", tmp_path / "maps"
    photos.mkdir()
    (photos / "a.jpg").write_bytes(PHOTO)
    (photos / "b.png").write_bytes(VARIETY["tiny 40×30"])
    with failing_for(PHOTO, full_server.host) as host:
        lines = run("folder.py", photos, maps, url=host).splitlines()
    assert [line.partition(" → ")[0] for line in sorted(lines) if "The model died" not in line] == ["b.png"]
    assert [line for line in lines if line.startswith("a.jpg: ") and "The model died" in line]
    assert [path.name for path in maps.iterdir()] == ["b.png.png"]


def test_array(full_server: Server):
    assert re.match(r"grid \(\d+, \d+\), the nearest at row \d+, column \d+", run("arrays.py", url=full_server.host))


def test_models(full_server: Server):
    said = run("models.py", "face_detection_buffalo_l", url=full_server.host)
    assert "face_analysis_buffalo_l: faces, synthetic" in said
    assert "face_detection_buffalo_l loaded: synthetic" in said
    with Client(full_server.host) as client:
        client.check()


def test_over_grpc(full_server: Server, folder):
    said = run("over_grpc.py", folder / "photo.jpg", url=f"grpc://127.0.0.1:{full_server.port('grpc')}")
    assert said.startswith("grid (")


@pytest.mark.parametrize("name", ["plain_tritonclient.py", "curl.sh"])
def test_without_depthface(name, full_server: Server, folder):
    for url in (full_server.host, f"http://{full_server.host}"):
        run(name, folder / "photo.jpg", folder / "depth.png", url=url)
        with Client(url) as client, Image.open(folder / "depth.png") as there:
            there.load()
            with Image.open(BytesIO(client.depth_png(PHOTO, bits=16))) as here:
                np.testing.assert_array_equal(np.asarray(there), np.asarray(here))
        (folder / "depth.png").unlink()


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "127.0.0.1:9"])
def test_curl_says_why_it_made_nothing(url, folder):
    with pytest.raises(AssertionError, match=r"curl: \(\d+\) .*"):
        run("curl.sh", folder / "photo.jpg", folder / "depth.png", url=url)


def test_each_example_has_its_test_and_says_how_it_is_run():
    tested = set(re.findall(r"\b(\w+\.(?:py|sh))\b", Path(__file__).read_text()))
    for path in EXAMPLES.iterdir():
        if path.name in ("demo.py", "parallax_scene.py"):  # which `make demo` runs, and test_readme.py
            continue
        if path.suffix in (".py", ".sh"):
            assert path.name in tested
            assert f"examples/{path.name}" in path.read_text()
            assert len(path.read_text().splitlines()) <= 50


def test_no_example_takes_the_name_of_a_module_that_python_has():
    """The folder of a script is where its imports are looked for first: an `array.py` would be numpy's and Pillow's."""
    assert not {path.stem for path in EXAMPLES.glob("*.py")} & sys.stdlib_module_names
