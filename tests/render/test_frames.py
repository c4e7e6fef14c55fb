"""`parallax` as a library: what stays, what moves, what is refused."""

from __future__ import annotations

import itertools
import threading
import time
import tracemalloc
import weakref

import cv2
import numpy as np
import pytest

import depthface_render
from depthface.errors import InvalidInput
from depthface_render import PRESETS, QUALITIES, Motion, Timing, parallax, parallax_with_masks
from depthface_render import frames as framing
from depthface_render.project import project

HEIGHT, WIDTH = 90, 160
RANDOM = np.random.default_rng(0)
PHOTO = np.kron(RANDOM.integers(0, 256, (HEIGHT // 10, WIDTH // 10, 3)), np.ones((10, 10, 1))).astype(np.uint8)
DEPTH = np.zeros((HEIGHT, WIDTH), np.float32)
DEPTH[:, :] = np.linspace(0, 0.4, WIDTH)
DEPTH[30:70, 60:100] = 1.0


def frames(motion, timing=None, **options):
    return list(parallax(PHOTO, DEPTH, motion, timing=timing or Timing(1, 4), **options))


@pytest.mark.parametrize("quality", QUALITIES)
def test_nothing_moves_at_height_0(quality):
    motion = Motion(height=0.0, offset=(0.9, -0.5), isometric=0.0, origin=(0.3, 0.1))
    assert all(np.array_equal(frame, PHOTO) for frame in frames(motion, quality=quality))
    assert all(np.array_equal(frame, PHOTO) for frame in frames(PRESETS["static"](), quality=quality))


def test_steady_stays_put_and_all_else_moves():
    """Three sheets: the middle one is steady."""
    depth = np.full((HEIGHT, WIDTH), 0.3, np.float32)
    depth[5:40, 10:50], depth[50:85, 100:150] = 1.0, 0.0
    moved = [
        next(parallax(PHOTO, depth, Motion(offset=(x, y), steady=0.3, isometric=1.0), timing=Timing(1, 1)))
        for x, y in ((0.0, 0.0), (0.8, 0.0), (-0.5, 0.6))
    ]
    far_from_the_others = np.s_[55:85, 5:90]
    for frame in moved[1:]:
        assert np.array_equal(frame[far_from_the_others], PHOTO[far_from_the_others])
        assert not np.array_equal(frame[10:35, 15:45], PHOTO[10:35, 15:45])
        assert not np.array_equal(frame[55:80, 105:145], PHOTO[55:80, 105:145])


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "static"])
def test_a_loop_closes(name):
    """The last frame leads into the first by a step like all others; a second round shows the same frames."""
    path, count = PRESETS[name](0.5), 12
    shown = frames(lambda time: path(2 * time), Timing(1, 2 * count))
    for one, other in zip(shown[:count], shown[count:], strict=True):
        assert np.abs(one.astype(int) - other).max() <= 1
    steps = [np.abs(a.astype(int) - b).mean() for a, b in itertools.pairwise(shown[: count + 1])]
    assert 0 < steps[-1] <= 1.5 * max(steps[:-1])


def test_reverse_is_the_same_clip_backwards():
    for loop in (True, False):
        path = PRESETS["horizontal"](1.0, loop=loop)
        forward = frames(path, Timing(1, 6, loop=loop))
        backward = frames(path, Timing(1, 6, loop=loop, reverse=True))
        expected = [forward[0], *forward[:0:-1]] if loop else forward[::-1]
        assert all(np.array_equal(a, b) for a, b in zip(backward, expected, strict=True))
    assert not np.array_equal(forward[0], forward[-1])


def test_a_path_that_does_not_loop_is_gone_to_its_end():
    assert Timing(1, 5, loop=False).times == [0, 0.25, 0.5, 0.75, 1]
    assert Timing(1, 4).times == [0, 0.25, 0.5, 0.75]
    assert len(Timing(2.5, 24).times) == 60


def test_threads_change_nothing():
    one, four = (frames(PRESETS["orbital"](), Timing(1, 12), threads=threads) for threads in (1, 4))
    assert all(np.array_equal(a, b) for a, b in zip(one, four, strict=True))


def test_few_frames_are_ahead_and_none_is_kept(monkeypatch):
    """However long the caller takes with one: what is made does not pile up."""
    made: list[weakref.ref[np.ndarray]] = []

    def noting(*arguments, **options):
        frame, mask = project(*arguments, **options)
        made.append(weakref.ref(frame))
        return frame, mask

    monkeypatch.setattr(depthface_render.frames, "project", noting)
    before = set(threading.enumerate())
    clip = parallax(PHOTO, DEPTH, timing=Timing(60, 60), threads=2)
    for taken in range(1, 41):
        next(clip)
        if taken % 20 == 0:
            time.sleep(0.2)  # in which dozens could be made
        assert len(made) <= taken + 2 * 2
        assert sum(frame() is not None for frame in made) <= 2 * 2 + 1
    clip.close()
    assert set(threading.enumerate()) <= before


def test_memory_is_bounded_by_the_pixels_of_a_frame():
    """Of 1920 × 1440 pixels in 360 MB, beside what Python and its libraries take."""
    height, width = 540, 960
    tracemalloc.start()
    clip = parallax(PHOTO, DEPTH, timing=Timing(1, 4), size=(height, width), threads=1)
    for_the_background = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    next(clip)
    for_a_frame = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    clip.close()
    assert for_the_background <= 130 * height * width
    assert for_a_frame <= 130 * height * width


def scaled_whole(photo, size):
    """The middle of a photo that is scaled as a whole."""
    height, width = framing.covering_size(photo.shape, size)
    whole = cv2.resize(photo, (width, height), interpolation=cv2.INTER_CUBIC)
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    return whole[top : top + size[0], left : left + size[1]]


def still(photo, size):
    ramp = np.tile(np.linspace(0, 1, photo.shape[1], dtype=np.float32), (photo.shape[0], 1))
    return next(parallax(photo, ramp, Motion(height=0.0), timing=Timing(1, 1), size=size))


@pytest.mark.parametrize("size", [(180, 100), (120, 640), (181, 319), (270, 120)])
def test_a_photo_of_other_proportions_is_cut_to_the_pixel(size):
    assert np.array_equal(still(PHOTO, size), scaled_whole(PHOTO, size))


@pytest.mark.parametrize(("height", "width"), [(20, 2003), (1999, 21), (3, 3000)])
def test_of_a_strip_the_middle_is_shown_as_if_the_whole_had_been_scaled(height, width):
    """To within a pixel of the frame, which here is two levels at most."""
    y, x = np.mgrid[:height, :width] / min(height, width)
    photo = (128 + 90 * np.stack([np.sin(x), np.cos(y), np.sin(x + y)], -1)).round().astype(np.uint8)
    off = still(photo, (64, 64)).astype(int) - scaled_whole(photo, (64, 64))
    assert np.abs(off).max() <= 3


def test_of_a_strip_no_more_is_scaled_than_a_frame_needs():
    """Whole it would be 400 MB."""
    photo = np.tile(PHOTO[:16], (1, 100, 1))
    tracemalloc.start()
    still(photo, (360, 360))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 130 * 360 * 360 + 20 * photo.size


def test_masks_tell_what_was_invented():
    frame, mask = next(parallax_with_masks(PHOTO, DEPTH, PRESETS["horizontal"](1.0)(0.25), timing=Timing(1, 1)))
    assert (mask.shape, mask.dtype) == (frame.shape[:2], bool)
    assert 0.01 < mask.mean() < 0.25
    still, nothing = next(parallax_with_masks(PHOTO, DEPTH, Motion(height=0.0), timing=Timing(1, 1)))
    assert not nothing.any()
    assert np.array_equal(still, PHOTO)


def test_what_comes_into_view_is_background_not_foreground_drawn_out():
    """A red square before a green wall: nothing in between, wherever the camera is."""
    photo = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    photo[...] = (20, 160, 40)
    photo[30:70, 60:100] = (220, 30, 30)
    depth = (photo[..., 0] > 100).astype(np.float32)
    for frame, mask in parallax_with_masks(photo, depth, PRESETS["circle"](1.0), timing=Timing(1, 8)):
        is_red, is_green = frame[..., 0] > 200, frame[..., 1] > 140
        assert not is_red[mask].any()
        assert abs(int(is_red.sum()) - 1600) < 400  # nearer, it is a little larger, and never stretched
        between = ~is_red & ~is_green
        assert between.sum() <= 2 * 170  # a soft outline, a pixel wide on either side


@pytest.mark.parametrize("scale", [2, 5])
def test_a_coarse_blurred_map_gives_clean_edges(scale):
    """Depth as a network gives it: on a coarse grid, soft at edges. No pixel hangs between the two surfaces."""
    photo = np.zeros((HEIGHT * 2, WIDTH * 2, 3), np.uint8)
    photo[...] = (20, 160, 40)
    photo[60:140, 120:200] = (220, 30, 30)
    red = (photo[::scale, ::scale, 0] > 100).astype(np.float32)
    for frame in parallax(photo, red, PRESETS["horizontal"](1.0), timing=Timing(1, 4)):
        between = (frame[..., 0] <= 200) & (frame[..., 1] <= 140)
        assert between.sum() <= 3 * 340


def test_sizes_and_kinds_of_input():
    motion = PRESETS["orbital"]()(0.25)
    once = Timing(1, 1)
    photo_before, depth_before = PHOTO.copy(), DEPTH.copy()
    for size in ((45, 80), (180, 320), (64, 64), (91, 161)):
        assert next(parallax(PHOTO, DEPTH, motion, timing=once, size=size)).shape == (*size, 3)
    grey = next(parallax(PHOTO[..., 0], DEPTH, motion, timing=once))
    assert np.array_equal(grey[..., 0], grey[..., 2])
    same = [
        next(parallax(PHOTO, depth, motion, timing=once))
        for depth in (DEPTH, DEPTH.astype(np.float64) * 7 - 3, (DEPTH * 65535).round().astype(np.uint16))
    ]
    assert np.abs(same[0].astype(int) - same[1]).max() <= 1
    assert np.abs(same[0].astype(int) - same[2]).mean() < 1
    assert next(parallax(PHOTO, DEPTH[::3, ::3], motion, timing=once)).shape == PHOTO.shape
    assert np.array_equal(PHOTO, photo_before)
    assert np.array_equal(DEPTH, depth_before)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"depth": np.zeros((9, 16))}, "constant"),
        ({"depth": np.where(DEPTH > 0.9, np.nan, DEPTH)}, "NaN"),
        ({"depth": np.where(DEPTH > 0.9, -np.inf, DEPTH)}, "no finite number in 1600"),
        ({"depth": DEPTH[..., None]}, "not a depth map"),
        ({"depth": np.empty((0, 0))}, "not a depth map"),
        ({"depth": DEPTH.astype(complex)}, "not a depth map"),
        ({"photo": PHOTO.astype(np.float32)}, "not a photo"),
        ({"photo": PHOTO[..., :2]}, "not a photo"),
        ({"size": (2, 2)}, "16 to 4096"),
        ({"size": (9000, 90)}, "16 to 4096"),
        ({"quality": "best"}, "draft, normal, high"),
        ({"threads": 0}, "0 threads"),
        ({"threads": -1}, "-1 threads"),
    ],
)
def test_what_is_wrong_is_said_at_once_in_a_sentence(change, says):
    arguments = {"photo": PHOTO, "depth": DEPTH} | change
    with pytest.raises(InvalidInput, match=says):
        parallax(**arguments)


@pytest.mark.parametrize(
    "values", [(0, 30), (5, 0), (-1, 30), (float("nan"), 30), (5, float("inf")), (61, 60), (1e308, 1e308), (5, 0.0004)]
)
def test_a_clip_that_cannot_be_is_refused(values):
    with pytest.raises(InvalidInput, match="Give "):
        Timing(*values)
