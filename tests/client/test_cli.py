"""The command line as a user types it."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from fixtures.photos import VARIETY
from fixtures.serving import depthface, in_this_process
from PIL import Image

from depthface_client import Client
from depthface_client.cli import shared

PHOTO = VARIETY["landscape JPEG"]


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "rocket.jpg"
    path.write_bytes(PHOTO)
    return path


def test_png16_is_the_default_and_names_its_weights(server, photo, tmp_path):
    out = tmp_path / "new" / "depth.png"
    done = depthface("depth", photo, "--out", out, "--url", server.host)
    assert done.returncode == 0, done.stderr
    assert "RANDOM WEIGHTS" in done.stderr
    with Image.open(out) as picture:
        assert picture.size == (640, 427)
        assert np.asarray(picture).dtype == np.uint16
        assert picture.text["Source"] == "depthface: random, seed 0"


@pytest.mark.parametrize(("kind", "mode"), [("png8", "L"), ("preview", "RGB")])
def test_other_pictures(server, photo, tmp_path, kind, mode):
    out = tmp_path / "out.png"
    assert depthface("depth", photo, "--out", out, "--as", kind, "--url", server.host).returncode == 0
    with Image.open(out) as picture:
        assert (picture.mode, picture.size) == (mode, (640, 427))


def test_npy(server, photo, tmp_path, client):
    out = tmp_path / "out.npy"
    assert depthface("depth", photo, "--out", out, "--as", "npy", "--url", server.host).returncode == 0
    np.testing.assert_array_equal(np.load(BytesIO(out.read_bytes())), client.depth(PHOTO).array)


def test_several_photos_go_to_a_folder_and_a_bad_one_stops_none(server, photo, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"not a photo")
    other = tmp_path / "other.png"
    other.write_bytes(VARIETY["tiny 40×30"])
    out = tmp_path / "maps"
    done = depthface("depth", photo, bad, tmp_path / "missing.jpg", other, "--out", out, "--url", server.host)
    assert done.returncode == 1
    assert sorted(path.name for path in out.iterdir()) == ["other_depth.png", "rocket_depth.png"]
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 2
    assert "bad.jpg" in errors[0]
    assert "missing.jpg" in errors[1]
    assert "Traceback" not in done.stderr


def test_what_cannot_be_written_is_a_sentence_and_nothing_half(server, photo, tmp_path):
    (tmp_path / "file").write_text("")
    done = depthface("depth", photo, "--out", tmp_path / "file" / "x.png", "--url", server.host)
    assert done.returncode == 1
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_server_is_exit_1_and_a_remedy(photo, tmp_path):
    for arguments in (("depth", photo, "--out", tmp_path / "x.png"), ("health",), ("models",)):
        done = in_this_process(*arguments, "--url", "127.0.0.1:9")
        assert done.returncode == 1
        assert "depthface serve" in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "x.png").exists()


def test_health_and_models(server):
    assert "healthy" in depthface("health", "--url", server.host).stdout
    said = depthface("models", "--url", server.host).stdout
    assert "random, seed 0" in said
    assert "depth_anything_v2_small  depth" in said
    document = json.loads(depthface("models", "--json", "--url", server.host).stdout)
    assert [(model["name"], model["task"], model["ready"]) for model in document] == [
        ("depth_anything_v2_small", "depth", True)
    ]


def test_a_photo_that_there_is_no_memory_for_stops_no_other(capsys):
    def work(index: int) -> dict[str, bool]:
        if index == 0:
            bytearray(2**62)
        return {"done": True}

    with Client("127.0.0.1:9") as client:  # which is not asked
        first, second = shared.for_each(client, [Path("large.png"), Path("small.png")], work)
    assert "not enough memory" in first["error"]
    assert second == {"photo": "small.png", "done": True}
    assert capsys.readouterr().err.startswith("Error: large.png: There is not enough memory for this.")
