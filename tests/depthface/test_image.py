"""Decoding against Pillow's own, bit for bit; limits before decoding."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from io import BytesIO

import cv2
import numpy as np
import pytest
from fixtures.photos import VARIETY, bomb, encoded, photo, with_orientation
from PIL import Image, ImageOps

from depthface import containers, image, limits
from depthface.errors import ImageTooLarge, InvalidImage


@pytest.mark.parametrize("name", VARIETY)
def test_decode_equals_pillow_bit_for_bit(name):
    expected = np.asarray(ImageOps.exif_transpose(Image.open(BytesIO(VARIETY[name]))).convert("RGB"))
    got = image.decode(VARIETY[name])
    assert got.dtype == np.uint8
    assert got.flags.c_contiguous
    np.testing.assert_array_equal(got, expected)


def test_16_bit_grey_keeps_its_high_byte():
    levels = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    got = image.decode(encoded(Image.fromarray(levels), "PNG"))
    np.testing.assert_array_equal(got, np.repeat(levels[:, :, None] >> 8, 3, axis=2))


def test_a_jpeg_with_harmless_stray_bytes_is_a_photo():
    data = VARIETY["landscape JPEG"]
    np.testing.assert_array_equal(image.decode(data[:-2] + b"\x00\x00" + data[-2:]), image.decode(data))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"this is not a photo",
        VARIETY["landscape JPEG"][:5000],
        VARIETY["square PNG"][:50_000],
        VARIETY["TIFF"][:10_000],
        VARIETY["WebP"][:2000],
        b"\xff\xd8\xff\xe0" + bytes(100),
        encoded(photo(), "GIF")[:20_000],
        encoded(photo(), "JPEG2000"),
        bytes(np.random.default_rng(0).bytes(100_000)),
    ],
    ids=[
        "empty",
        "text",
        "cut JPEG",
        "cut PNG",
        "cut TIFF",
        "cut WebP",
        "JPEG of zeros",
        "cut GIF",
        "JPEG 2000",
        "noise",
    ],
)
def test_what_is_not_a_photo_is_refused(data):
    with pytest.raises(InvalidImage) as caught:
        image.decode(data)
    assert str(caught.value).endswith(".")  # a sentence
    assert "Traceback" not in str(caught.value)


def test_a_bomb_is_refused_before_it_is_decoded():
    data = bomb()
    assert len(data) < 100_000
    tracemalloc.start()
    with pytest.raises(ImageTooLarge):
        image.decode(data)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_over_the_limits_is_refused():
    with pytest.raises(ImageTooLarge, match="megapixels"):
        image.decode(bomb(10_000, 9_000))
    with pytest.raises(ImageTooLarge, match="MiB"):
        image.decode(bytes(limits.current().max_bytes + 1))


def test_the_limits_are_the_environments_but_of_pixels_no_more_than_pillow_takes(monkeypatch):
    for name, value in limits.Limits(1, 2, 3).environment().items():
        monkeypatch.setenv(name, value)
    assert limits.current.__wrapped__() == limits.Limits(1, 2, 3)
    monkeypatch.setenv("DEPTHFACE_MAX_PIXELS", "1000000000")
    assert limits.current.__wrapped__() == limits.Limits(1, limits.LARGEST_PIXELS, 3)


def test_resize_is_pillows(monkeypatch):
    rgb = image.decode(VARIETY["landscape JPEG"])
    expected = Image.fromarray(rgb).resize((70, 42), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(image.resize_bicubic(rgb, 42, 70), np.asarray(expected))
    monkeypatch.setattr(image, "cykooz_resizer", None)
    np.testing.assert_array_equal(image.resize_bicubic(rgb, 42, 70, exact=False), np.asarray(expected))


@pytest.mark.parametrize("size", [(70, 42), (42, 700), (700, 42), (64, 48), (640, 480)], ids=str)
def test_the_faster_resize_is_pillows_to_a_level(size):
    picture = Image.open(BytesIO(VARIETY["landscape JPEG"])).convert("RGB")
    rows_first = picture.resize((size[0], picture.height), Image.Resampling.BICUBIC)
    expected = np.asarray(rows_first.resize(size, Image.Resampling.BICUBIC)).astype(int)
    off = np.abs(image.resize_bicubic(np.asarray(picture), size[1], size[0], exact=False) - expected)
    assert off.max() <= 2
    assert (off > 0).mean() < 0.01


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_padded_photo_is_the_same_with_a_fourth_byte(orientation):
    data = with_orientation(orientation)
    plain, padded = image.decode(data), image.decode(data, padded=True)
    assert padded.shape == (*plain.shape[:2], 4)
    assert padded.flags.c_contiguous
    np.testing.assert_array_equal(padded[:, :, :3], plain)
    for resize in (image.resize_bicubic, image.resize_bilinear):
        for exact in (True, False):
            got = resize(padded, 42, 70, exact=exact)
            np.testing.assert_array_equal(got, resize(plain, 42, 70, exact=exact))


@pytest.mark.parametrize("name", VARIETY)
def test_whatever_is_not_a_jpeg_of_colours_or_grey_is_not_padded(name):
    plain, padded = image.decode(VARIETY[name]), image.decode(VARIETY[name], padded=True)
    np.testing.assert_array_equal(padded[:, :, :3], plain)
    assert padded.shape[2] == (4 if VARIETY[name].startswith(b"\xff\xd8") and "CMYK" not in name else 3)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(48, 64), (1, 1), (1, 300), (300, 1)])
def test_png_round_trip(dtype, shape):
    grey = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    data = image.encode_png(grey)
    for decoded in (np.asarray(Image.open(BytesIO(data))), cv2.imdecode(np.frombuffer(data, np.uint8), -1)):
        assert decoded.dtype == dtype
        np.testing.assert_array_equal(decoded, grey)


def test_png_round_trip_in_colour():
    rgb = image.decode(VARIETY["landscape JPEG"])
    for picture in (rgb, rgb[:, ::-1]):  # as it lies in memory, and not
        np.testing.assert_array_equal(np.asarray(Image.open(BytesIO(image.encode_png(picture)))), picture)


@pytest.mark.parametrize("name", VARIETY)
def test_the_size_is_known_before_decoding(name):
    assert image.size_of(VARIETY[name]) == image.decode(VARIETY[name]).shape[:2]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_size_is_that_of_the_upright_photo(kind, orientation):
    picture = photo().convert("RGB").resize((40, 24))
    exif = picture.getexif()
    exif[0x0112] = orientation
    buffer = BytesIO()
    picture.save(buffer, kind, exif=exif)
    data = buffer.getvalue()
    assert image.size_of(data) == image.decode(data).shape[:2] == ((24, 40) if orientation < 5 else (40, 24))


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_is_decoded_to_what_is_enough(orientation):
    picture = photo().convert("RGB").resize((1600, 1200))
    exif = picture.getexif()
    exif[0x0112] = orientation
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=90, exif=exif)
    upright = (1200, 1600) if orientation == 1 else (1600, 1200)
    enough = (upright[0] // 3, upright[1] // 3)
    small = image.decode(buffer.getvalue(), at_least=enough)
    # The nearest eighth above a third is three eighths.
    assert small.shape[:2] == (upright[0] * 3 // 8, upright[1] * 3 // 8)
    whole = image.resize_bicubic(image.decode(buffer.getvalue()), *small.shape[:2])
    assert np.abs(small.astype(int) - whole).mean() < 2


def test_what_is_not_a_jpeg_or_already_small_is_decoded_whole():
    for name in ("square PNG", "landscape JPEG"):
        whole = image.decode(VARIETY[name])
        np.testing.assert_array_equal(image.decode(VARIETY[name], at_least=whole.shape[:2]), whole)


@pytest.mark.parametrize(
    ("enough", "eighths"), [((60, 80), 4), ((75, 100), 5), ((76, 100), 8), ((60, 101), 8)], ids=str
)
@pytest.mark.parametrize("orientation", [1, 6])
def test_above_five_eighths_a_jpeg_is_decoded_whole(enough, eighths, orientation):
    """To six and seven eighths libjpeg-turbo decodes more slowly than whole."""
    picture = photo().convert("RGB").resize((160, 120) if orientation == 1 else (120, 160))  # upright: 160×120
    exif = picture.getexif()
    exif[0x0112] = orientation
    buffer = BytesIO()
    picture.save(buffer, "JPEG", exif=exif)
    data = buffer.getvalue()
    whole = image.decode(data)
    got = image.decode(data, at_least=enough)
    assert got.shape[:2] == tuple(side * eighths // 8 for side in whole.shape[:2])
    if eighths == 8:
        np.testing.assert_array_equal(got, whole)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize("size", [(1, 1), (4000, 3), (257, 16383)])
def test_the_canvas_of_a_webp_is_known_before_it_is_opened(size, lossless, mode):
    data = encoded(Image.new(mode, size, "teal"), "WEBP", lossless=lossless)
    assert containers.canvas_of_webp(data) == size
    animated = encoded(Image.new(mode, size), "WEBP", save_all=True, append_images=[Image.new(mode, size, "teal")])
    assert containers.canvas_of_webp(animated) == size
    assert containers.canvas_of_webp(data[:29]) == (0, 0)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_lack_of_memory_is_not_the_photos_fault(format):
    code = """
import resource, sys
import psutil
from depthface import image
data = sys.stdin.buffer.read()
image.decode(data)
for mb in range(0, 120, 8):
    limit = psutil.Process().memory_info().vms + mb * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    try:
        image.decode(data)
    except MemoryError:
        print("no memory")
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""
    buffer = BytesIO()
    options = {"TIFF": {"compression": "tiff_lzw"}, "WEBP": {"lossless": True, "method": 0}}
    Image.new("RGB", (4000, 3000), "teal").save(buffer, format, **options.get(format, {}))
    done = subprocess.run([sys.executable, "-c", code], input=buffer.getvalue(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(b"no memory") > 1
