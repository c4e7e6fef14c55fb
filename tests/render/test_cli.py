"""`depthface parallax` as a user types it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager

import av
import numpy as np
import pytest
from fixtures.serving import depthface, in_this_process
from fixtures.waiting import HANGS_AFTER_S, until
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from depthface.weights import depth_label_of, label_of
from depthface_render import sources

HEIGHT, WIDTH = 121, 201


@pytest.fixture
def folder(tmp_path):
    """A photo of odd sides, its depth as PNG and as .npy."""
    random = np.random.default_rng(0)
    photo = np.kron(random.integers(0, 256, (13, 21, 3)), np.ones((10, 10, 1)))[:HEIGHT, :WIDTH].astype(np.uint8)
    depth = np.tile(np.linspace(0, 0.4, WIDTH, dtype=np.float32), (HEIGHT, 1))
    depth[40:90, 70:120] = 1.0
    Image.fromarray(photo).save(tmp_path / "photo.png")
    Image.fromarray((depth * 65535).astype(np.uint16)).save(tmp_path / "depth.png")
    np.save(tmp_path / "depth.npy", depth)
    return tmp_path


def parallax(folder, *arguments, depth="depth.png", run=depthface):
    given = ("--depth", folder / depth) if depth else ()
    return run("parallax", folder / "photo.png", *given, "--seconds", "1", "--fps", "5", *arguments)


def made(folder):
    return sorted(path.name for path in folder.iterdir() if path.name not in ("photo.png", "depth.png", "depth.npy"))


def test_a_film(folder):
    done = parallax(folder, "--out", folder / "clip.mp4", "--motion", "circle")
    assert done.returncode == 0, done.stderr
    assert "5 frames of 200×120, 1 s" in done.stdout
    assert "H.264 video takes even sides: 201×121 becomes 200×120" in done.stderr
    with av.open(str(folder / "clip.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 5
    assert made(folder) == ["clip.mp4"]


def test_the_one_of_both_that_takes_even_sides_is_named(folder):
    done = parallax(folder, "--out", folder / "clip.gif", "--mask", folder / "mask.mp4")
    assert done.returncode == 0, done.stderr
    assert "H.264 video takes even sides: 201×121 becomes 200×120" in done.stderr
    assert made(folder) == ["clip.gif", "mask.mp4"]


def test_json_masks_and_all_options(folder):
    done = parallax(
        folder,
        *("--out", folder / "new" / "%02d.png", "--mask", folder / "mask.gif", "--json", "--size", "101"),
        *(
            "--motion",
            "horizontal",
            "--intensity",
            "2",
            "--no-loop",
            "--reverse",
            "--quality",
            "high",
            "--height",
            "0.3",
        ),
        depth="depth.npy",
    )
    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads(done.stdout)
    expected = {"frames": 5, "fps": 5.0, "seconds": 1.0, "size": [101, 61], "motion": "horizontal", "intensity": 2.0}
    assert {name: said[name] for name in expected} == expected
    assert (said["loop"], said["reverse"], said["quality"], said["weights"]) == (False, True, "high", None)
    assert len(list((folder / "new").iterdir())) == 5
    with Image.open(folder / "mask.gif") as picture:
        assert (picture.n_frames, picture.size) == (5, (101, 61))
        assert {0, 255} <= set(np.asarray(picture.convert("L")).ravel())


def test_nothing_that_is_asked_with_is_written_over(folder):
    Image.open(folder / "photo.png").save(folder / "photo.webp", lossless=True)
    (folder / "frames").mkdir()
    Image.open(folder / "photo.png").save(folder / "frames" / "3.png")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    depth = ("--depth", folder / "depth.png", "--seconds", "1", "--fps", "5")
    for photo, outs in (
        ("photo.webp", ("--out", folder / "photo.webp")),
        ("frames/3.png", ("--out", folder / "frames" / "%d.png")),
        ("photo.png", ("--out", folder / "clip.gif", "--mask", folder / "frames" / ".." / "clip.gif")),
    ):
        done = in_this_process("parallax", folder / photo, *depth, *outs)
        assert done.returncode == 1, done.stdout
        assert "would be" in done.stderr
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_link_and_its_permissions_stay(folder):
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "real.gif").write_bytes(b"old")
    (folder / "elsewhere" / "real.gif").chmod(0o640)
    (folder / "clip.gif").symlink_to("elsewhere/real.gif")
    done = parallax(folder, "--out", folder / "clip.gif")
    assert done.returncode == 0, done.stderr
    assert (folder / "clip.gif").is_symlink()
    assert (folder / "elsewhere" / "real.gif").read_bytes().startswith(b"GIF")
    assert (folder / "elsewhere" / "real.gif").stat().st_mode & 0o777 == 0o640
    assert [path.name for path in (folder / "elsewhere").iterdir()] == ["real.gif"]


def test_preview_is_small_and_slow(folder):
    done = depthface("parallax", folder / "photo.png", "--depth", folder / "depth.png", "--preview", "--seconds", "1",
                     "--size", "64x48", "--out", folder / "clip.webp", "--json")  # fmt: skip
    said = json.loads(done.stdout)
    assert (said["fps"], said["quality"], said["size"]) == (15.0, "draft", [64, 48])


def test_the_server_is_asked_and_random_weights_are_on_the_picture(server, folder):
    done = parallax(folder, "--out", folder / "%d.png", "--url", server.host, depth=None)
    assert done.returncode == 0, done.stderr
    assert "RANDOM WEIGHTS" in done.stderr
    with Image.open(folder / "3.png") as picture:
        assert picture.text["Source"] == "depthface: random, seed 0"
        foot = np.asarray(picture)[-3:]
    assert np.all(np.median(foot, axis=(0, 1)) == (176, 0, 32))  # the red bar


@contextmanager
def piped(path, data):
    """A pipe in the place of a file: it gives its bytes once."""
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(data,), daemon=True)
    writer.start()
    yield path
    writer.join(HANGS_AFTER_S)
    assert not writer.is_alive()


def test_a_photo_and_a_map_may_be_pipes(folder):
    photo, depth = ((folder / name).read_bytes() for name in ("photo.png", "depth.npy"))
    with piped(folder / "photo.pipe", photo) as photo_pipe, piped(folder / "pipe.npy", depth) as depth_pipe:
        done = depthface("parallax", photo_pipe, "--depth", depth_pipe, "--seconds", "1", "--fps", "5",
                         "--out", folder / "clip.gif")  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_photo_that_the_server_is_asked_about_is_read_once(server, folder):
    with piped(folder / "photo.pipe", (folder / "photo.png").read_bytes()) as photo:
        done = depthface("parallax", photo, "--url", server.host, "--seconds", "1", "--fps", "5",
                         "--out", folder / "clip.gif")  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("weights", ["random, seed 0", "synthetic"])
def test_a_map_that_says_it_is_of_nobodys_weights_is_labelled_with_which(folder, weights):
    info = PngInfo()
    info.add_text("Source", f"depthface: {weights}")
    with Image.open(folder / "depth.png") as picture:
        picture.save(folder / "depth.png", pnginfo=info)
    done = parallax(folder, "--out", folder / "%d.png")
    assert label_of(weights) in done.stderr
    foot = sources.banner(HEIGHT, WIDTH, depth_label_of(weights))
    with Image.open(folder / "1.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture)[-len(foot) :], foot)


def test_a_map_of_another_size_is_resized_and_that_is_said(folder):
    np.save(folder / "depth.npy", np.load(folder / "depth.npy")[::3, ::3])
    done = parallax(folder, "--out", folder / "clip.gif", depth="depth.npy")
    assert done.returncode == 0
    assert "67×41, the photo 201×121: the map was resized." in done.stderr
    assert "proportions" not in done.stderr
    np.save(folder / "depth.npy", np.load(folder / "depth.npy")[:, :30])
    assert "Their proportions differ" in parallax(folder, "--out", folder / "clip.gif", depth="depth.npy").stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--out", "clip.avi"), "none of the kinds of clip"),
        (("--out", "clip.png"), "%04d.png"),
        (("--out", "clip.gif", "--fps", "60"), "at most 50"),
        (("--out", "clip.mp4", "--seconds", "100", "--fps", "60"), "the limit is 3600"),
        (("--out", "clip.mp4", "--seconds", "nan"), "Give a number above 0"),
        (("--out", "clip.mp4", "--fps", "0"), "Give a number above 0"),
        (("--out", "clip.mp4", "--fps", "0.0004"), "Give a higher rate"),
        (("--out", "clip.mp4", "--motion", "zoom", "--height", "0.3"), "takes no --height"),
        (("--out", "clip.mp4", "--size", "9000"), "16 to 4096"),
        (("--out", "clip.mp4", "--size", "0"), "16 to 4096"),
        (("--out", "clip.gif", "--size", "1"), "16 to 4096"),
        (("--out", "clip.gif", "--intensity", "nan"), "not a finite number"),
        (("--out", "clip.mp4", "--size", "tiny"), "no size"),
        (("--out", "clip.mp4", "--intensity", "-1"), "intensity"),
        (("--out", "clip.mp4", "--depth", "missing.png"), "cannot be read"),
        (("--out", "clip.mp4", "--depth", "photo.png"), "has colours"),
        (("--out", "clip.mp4", "--depth", "text.png"), "not a depth map"),
        (("--out", "clip.mp4", "--depth", "text.npy"), "not a numpy array"),
        (("--out", "clip.mp4", "--depth", "archive.npy"), "not a numpy array"),
        (("--out", "clip.mp4", "--depth", "broken.npy"), "not a numpy array"),
        (("--out", "clip.mp4", "--depth", "empty.npy"), "not a depth map"),
        (("--out", "clip.mp4", "--depth", "flat.npy"), "constant"),
        (("--out", "clip.mp4", "--depth", "nan.npy"), "NaN"),
        (("--out", "clip.mp4", "--depth", "objects.npy"), "not a numpy array"),
        (("--out", "text.png/clip.mp4"), "cannot be written"),
        (("--out", "clip.gif", "--mask", "taken.gif"), "it is a folder"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_left(folder, arguments, says):
    (folder / "text.png").write_text("no")
    (folder / "text.npy").write_text("no")
    with (folder / "archive.npy").open("wb") as archive:
        np.savez(archive, depth=np.eye(4))
    (folder / "broken.npy").write_bytes((folder / "archive.npy").read_bytes()[:40])
    np.save(folder / "empty.npy", np.ones((0, 5)))
    np.save(folder / "flat.npy", np.ones((4, 4)))
    np.save(folder / "nan.npy", np.array([[0, np.nan], [1, 2]]))
    np.save(folder / "objects.npy", np.array([[None, {}]]), allow_pickle=True)
    (folder / "taken.gif").mkdir()
    before = made(folder)
    placed = [folder / one if "." in one and not one[0].isdecimal() else one for one in arguments]
    done = parallax(folder, *placed, run=in_this_process)
    assert done.returncode in (1, 2)
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert made(folder) == before


def test_a_photo_that_is_none(folder):
    (folder / "photo.png").write_bytes(b"no photo")
    for depth in ("depth.png", None):
        done = parallax(folder, "--out", folder / "clip.mp4", depth=depth, run=in_this_process)
        assert done.returncode == 1
        assert "not an image" in done.stderr
    (folder / "photo.png").unlink()
    assert "cannot be read" in parallax(folder, "--out", folder / "clip.mp4").stderr
    assert made(folder) == []


def test_no_server_is_a_remedy(folder):
    done = parallax(folder, "--out", folder / "clip.mp4", "--url", "127.0.0.1:9", depth=None)
    assert done.returncode == 1
    assert "depthface serve" in done.stderr
    assert made(folder) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_ctrl_c_and_sigterm_leave_nothing(folder, number):
    command = [sys.executable, "-m", "depthface", "parallax", folder / "photo.png", "--depth", folder / "depth.png"]
    command += ["--out", folder / "clip.mp4", "--seconds", "60", "--fps", "60", "--size", "1280", "--quality", "high"]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        # Whatever runs the tests in the background may ignore it, and its children with it.
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )

    def has_begun() -> bool:
        assert process.poll() is None
        return any(path.name.startswith(".depthface-") and any(path.iterdir()) for path in folder.iterdir())

    until(has_begun)
    process.send_signal(number)
    _, said = process.communicate(timeout=HANGS_AFTER_S)
    assert process.returncode == 130
    assert "Stopped. Nothing of the clip was kept." in said
    assert "Traceback" not in said
    assert made(folder) == []


def test_what_was_kept_is_said_where_the_mask_fails(folder):
    """Its second picture is a link to a disk that is full; the clip is there already."""
    (folder / "masks").mkdir()
    (folder / "masks" / "2.png").symlink_to("/dev/full")
    done = parallax(folder, "--out", folder / "clip.gif", "--mask", folder / "masks" / "%d.png")
    assert done.returncode == 1
    assert f"2 files were kept, the last of them {folder / 'masks' / '1.png'}." in done.stderr
    assert made(folder) == ["clip.gif", "masks"]


def test_ctrl_c_during_the_mask_says_that_the_clip_is_there(folder):
    command = [sys.executable, "-m", "depthface", "parallax", folder / "photo.png", "--depth", folder / "depth.png"]
    command += ["--out", folder / "clip.webp", "--mask", folder / "mask.webp", "--seconds", "30", "--fps", "60"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    )
    until((folder / "clip.webp").exists)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=HANGS_AFTER_S)
    assert process.returncode == 130
    assert f"Stopped. {folder / 'clip.webp'} was kept." in said
    assert made(folder) == ["clip.webp"]


def test_a_closed_standard_error_stops_no_clip(folder):
    command = [sys.executable, "-m", "depthface", "parallax", folder / "photo.png", "--depth", folder / "depth.png"]
    command += ["--out", folder / "clip.gif", "--seconds", "1", "--fps", "5"]
    done = subprocess.run(["sh", "-c", 'exec "$@" 2>&-', "sh", *command], check=False, timeout=HANGS_AFTER_S)
    assert done.returncode == 0
    assert made(folder) == ["clip.gif"]


def test_a_photo_of_40_megapixels(folder):
    """Decoded only as fine as the clip needs it."""
    wide = np.tile(np.linspace(0, 255, 7300, dtype=np.uint8), (5480, 1))
    Image.fromarray(np.stack([wide, wide, wide], -1)).save(folder / "photo.jpg", quality=60)
    done = depthface("parallax", folder / "photo.jpg", "--depth", folder / "depth.png", "--preview", "--seconds", "0.2",
                     "--out", folder / "clip.mp4", "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["size"] == [480, 360]
