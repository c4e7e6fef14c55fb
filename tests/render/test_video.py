"""Files: whole or not there, and a real browser plays them."""

from __future__ import annotations

import itertools
import resource
import signal
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
from fixtures import browser
from PIL import Image

from depthface.errors import DepthfaceError, InvalidInput, OutputError
from depthface_render import video

HEIGHT, WIDTH, COUNT = 72, 128, 20
ALL = ("clip.mp4", "clip.webm", "clip.gif", "clip.webp", "frames/%03d.png")
SOURCE = "depthface: random, seed 0"


def frames(count=COUNT, height=HEIGHT, width=WIDTH):
    """A white square that runs over a blue wall."""
    for number in range(count):
        frame = np.full((height, width, 3), (40, 90, 200), np.uint8)
        frame[height // 2 :, number * 4 : number * 4 + 30] = 255
        yield frame


def write(folder, name, rate=Fraction(10), made=None, loop=True):
    video.write(folder / name, made or frames(), rate=rate, loop=loop, source=SOURCE)
    return folder / name


def test_a_browser_plays_each_of_them(tmp_path):
    for name in ALL[:4]:
        write(tmp_path, name)
    write(tmp_path, "once.gif", loop=False)
    write(tmp_path, "thirty.gif", rate=Fraction(30))
    seen = browser.opened(tmp_path, [*ALL[:4], "once.gif", "thirty.gif"])
    for name, what in seen.items():
        assert "error" not in what, (name, what)
        assert (what["width"], what["height"]) == (WIDTH, HEIGHT), name
        assert np.abs(np.array(what["pixel"][:3]) - (40, 90, 200)).max() <= 10, (name, what["pixel"])  # BT.709, range
    for name in ("clip.mp4", "clip.webm"):
        assert seen[name]["seconds"] == pytest.approx(2.0, abs=0.01)
        steps = np.diff(seen[name]["times"]) / 0.1  # of frames; a busy machine leaves some out
        assert len(steps) > 0
        assert (steps > 0.5).all()
        assert np.abs(steps - steps.round()).max() <= 0.05
    for name, seconds in (("clip.gif", 2.0), ("clip.webp", 2.0), ("once.gif", 2.0), ("thirty.gif", 2 / 3)):
        assert sum(seen[name]["durations"]) == pytest.approx(seconds, abs=0.02), name
        assert len(seen[name]["durations"]) == COUNT
        assert seen[name]["loops"] == (0 if name == "once.gif" else -1)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.webm"])
def test_videos_say_what_players_need(tmp_path, name):
    path = write(tmp_path, name, rate=Fraction(30000, 1001))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (context.pix_fmt, context.width, context.height) == ("yuv420p", WIDTH, HEIGHT)
        tags = (context.color_range, context.colorspace, context.color_primaries, context.color_trc)
        assert tags == (1, 1, 1, 1)  # limited range, BT.709 throughout
        assert abs(stream.average_rate - Fraction(30000, 1001)) < 0.01
        assert SOURCE in container.metadata.values()
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(decoded) == COUNT
    assert np.abs(decoded[-1][4, 4].astype(int) - (40, 90, 200)).max() <= 10
    if name == "clip.mp4":
        content = path.read_bytes()
        assert 0 < content.find(b"moov") < content.find(b"mdat")  # plays while it loads


@pytest.mark.parametrize("name", ["clip.gif", "clip.webp"])
def test_pictures_that_move(tmp_path, name):
    for odd in (0, 1):
        path = write(tmp_path, name, made=frames(height=HEIGHT + odd, width=WIDTH + odd))
        with Image.open(path) as picture:
            assert (picture.n_frames, picture.size) == (COUNT, (WIDTH + odd, HEIGHT + odd))
            picture.seek(COUNT - 1)
            pixels = np.asarray(picture.convert("RGB")).astype(int)
        assert np.abs(pixels[8, 8] - (40, 90, 200)).max() <= 12
        assert np.abs(pixels[-8, (COUNT - 1) * 4 + 15] - 255).max() <= 12


def test_a_gif_that_begins_black_has_white_in_it(tmp_path):
    """As the mask of a path that begins where the photo was taken."""
    masks = [np.zeros((HEIGHT, WIDTH, 3), np.uint8) for _ in range(3)]
    masks[2][20:40, 30:60] = 255
    with Image.open(write(tmp_path, "mask.gif", made=iter(masks))) as picture:
        picture.seek(2)
        assert np.array_equal(np.asarray(picture.convert("RGB")), masks[2])


def test_what_stands_still_costs_a_gif_nothing(tmp_path):
    moving = write(tmp_path, "moving.gif").stat().st_size
    still = write(tmp_path, "still.gif", made=itertools.repeat(next(frames()), COUNT)).stat().st_size
    assert still < moving


def test_numbered_pngs_are_the_frames_themselves(tmp_path):
    write(tmp_path, ALL[4])
    names = sorted(path.name for path in (tmp_path / "frames").iterdir())
    assert names == [f"{number:03}.png" for number in range(1, COUNT + 1)]
    with Image.open(tmp_path / "frames" / "007.png") as picture:
        assert np.array_equal(np.asarray(picture), list(frames())[6])
        assert picture.text["Source"] == SOURCE


def test_older_pngs_are_not_taken_for_a_part_of_the_clip(tmp_path):
    write(tmp_path, ALL[4])
    before = {path: path.read_bytes() for path in (tmp_path / "frames").iterdir()}
    with pytest.raises(InvalidInput, match=r"006\.png is there already"):
        write(tmp_path, ALL[4], made=frames(5))
    assert {path: path.read_bytes() for path in (tmp_path / "frames").iterdir()} == before
    write(tmp_path, ALL[4])


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_what_stops_half_way_leaves_nothing_and_harms_nothing(tmp_path, name, error):
    def broken():
        yield from frames(5)
        raise error

    with pytest.raises(error):
        write(tmp_path / "new", name, made=broken())
    assert list(tmp_path.iterdir()) == []
    whole = write(tmp_path, name)
    before = sorted(path for path in tmp_path.rglob("*"))
    with pytest.raises(error):
        write(tmp_path, name, made=broken())
    assert sorted(path for path in tmp_path.rglob("*")) == before
    assert "%" in name or whole.stat().st_size > 0


@pytest.mark.parametrize("name", ALL)
def test_a_full_disk_is_a_sentence_and_leaves_nothing(tmp_path, name):
    """The kernel refuses to write on, as it does when the disk is full."""
    noise = np.random.default_rng(0).integers(0, 256, (COUNT, HEIGHT, WIDTH, 3), np.uint8)
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(DepthfaceError, match=r"cannot be written .*Nothing of it was kept"):
            write(tmp_path / "new", name, made=iter(noise))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


def test_what_an_encoder_refuses_is_a_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    with pytest.raises(OutputError, match=r"clip\.mp4 cannot be written \(.*external.*\)\. Nothing of it was kept"):
        write(tmp_path, "clip.mp4", made=frames(height=HEIGHT + 1, width=WIDTH + 1))
    monkeypatch.setitem(video.FORMATS, ".gif", replace(video.FORMATS[".gif"], codec="nobodys"))
    with pytest.raises(OutputError, match=r"no encoder nobodys"):
        write(tmp_path, "clip.gif")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DepthfaceError, match="cannot be written"):
        write(tmp_path / "file", "clip.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_in_the_place_of_one_of_many_files_keeps_all_as_it_was(tmp_path):
    (tmp_path / "frames" / "003.png").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"003\.png cannot be written \(it is a folder\)"):
        write(tmp_path, ALL[4])
    assert [path.name for path in (tmp_path / "frames").iterdir()] == ["003.png"]


def test_what_is_kept_of_many_files_is_said(tmp_path):
    """The third is a link to a disk that is full."""
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "003.png").symlink_to("/dev/full")
    with pytest.raises(OutputError, match=r"No space left.*2 files were kept, the last of them .*002\.png"):
        write(tmp_path, ALL[4])
    assert sorted(path.name for path in (tmp_path / "frames").iterdir()) == ["001.png", "002.png", "003.png"]


def test_where_a_clip_could_not_be_put_is_told_before_it_is_made(tmp_path):
    write(tmp_path, ALL[4])
    (tmp_path / "file").write_text("")
    (tmp_path / "clip.gif").mkdir()
    for name, says in (("file/clip.mp4", "Not a directory"), ("clip.gif", "folder"), ("x" * 300 + ".gif", "long")):
        with pytest.raises(OutputError, match=says):
            video.check_place(tmp_path / name, COUNT)
    with pytest.raises(InvalidInput, match=r"006\.png is there already"):
        video.check_place(tmp_path / ALL[4], 5)
    for name in ("new/deep/clip.mp4", ALL[4]):
        video.check_place(tmp_path / name, COUNT)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.gif", "file", "frames"]


@pytest.mark.parametrize("name", ["clip.avi", "clip", "clip.png", "clip%04d.mp4", "%d%d.png", "%s.png"])
def test_names_that_say_no_format_are_refused(tmp_path, name):
    with pytest.raises(InvalidInput):
        video.format_of(tmp_path / name)


def test_a_rate_that_players_do_not_keep_to_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="GIF files show at most 50"):
        write(tmp_path, "clip.gif", rate=Fraction(60))
    assert list(tmp_path.iterdir()) == []
