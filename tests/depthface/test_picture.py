"""What a photo is: pictures of every mode, limits before decoding, what is named."""

from __future__ import annotations

import gzip
import subprocess
import sys
import zlib
from io import BytesIO
from struct import pack

import cv2
import numpy as np
import pytest
from fixtures.photo_files import (
    by_pillow,
    chunk,
    chunks,
    exif,
    png_of,
    tiff_with,
)
from fixtures.photos import encoded, heic, photo
from PIL import Image, ImageFile

from depthface import apart, formats, image, limits, picture
from depthface.errors import ImageTooLarge, InvalidImage

SMALL = photo("chelsea.png").resize((60, 40))
PNG, JPEG = encoded(SMALL, "PNG"), encoded(SMALL, "JPEG", quality=90)


# Pictures of every mode

GREY = np.asarray(SMALL.convert("L"), np.uint16) * 256 + 77
PICTURES = {
    **{
        mode: SMALL.convert(mode) for mode in ("1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LA", "PA", "RGBX")
    },
    "RGBa": SMALL.convert("RGBA").convert("RGBa"),
    "La": SMALL.convert("LA").convert("La"),
    "I of 8 bits": SMALL.convert("L").convert("I"),
    "F of 8 bits": SMALL.convert("L").convert("F"),
}


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_lack_of_memory_is_not_the_pictures_fault(format):
    code = """
import resource, sys
from io import BytesIO
import psutil
from PIL import Image
from depthface import picture
data = sys.stdin.buffer.read()
picture.upright(Image.open(BytesIO(data)))
for mb in range(0, 120, 8):
    opened = Image.open(BytesIO(data))
    limit = psutil.Process().memory_info().vms + mb * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    try:
        picture.upright(opened)
    except MemoryError:
        print("no memory")
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""
    data = encoded(Image.new("RGB", (4000, 3000), "teal"), format)
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(b"no memory") > 1


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_of_any_mode_is_what_pillow_makes_of_it(name):
    made = PICTURES[name]
    through = {"RGBa": "RGBA", "La": "LA"}.get(name)
    expected = (made.convert(through) if through else made).convert("RGB")
    np.testing.assert_array_equal(np.asarray(picture.upright(made)), np.asarray(expected))


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L", "I"])
def test_16_bit_grey_is_scaled_whatever_its_mode(mode):
    levels = GREY.astype({"I": np.int32, "I;16B": ">u2"}.get(mode, "<u2"))
    made = Image.frombytes(mode, SMALL.size, levels.tobytes())
    assert made.mode == mode
    np.testing.assert_array_equal(np.asarray(picture.upright(made)), np.repeat(GREY[:, :, None] >> 8, 3, 2))


@pytest.mark.parametrize("file", ["PNG", "TIFF", "TIFF big-endian", "TIFF lzw"])
def test_16_bit_grey_of_a_file_is_the_same_by_bytes_and_as_picture(file):
    made = Image.fromarray(GREY)
    if file == "TIFF big-endian":
        made = Image.frombytes("I;16B", SMALL.size, GREY.astype(">u2").tobytes())
    data = encoded(made, file[:4].strip(), **({"compression": "tiff_lzw"} if "lzw" in file else {}))
    expected = np.repeat(GREY[:, :, None] >> 8, 3, 2)
    np.testing.assert_array_equal(image.decode(data), expected)
    np.testing.assert_array_equal(np.asarray(picture.upright(Image.open(BytesIO(data)))), expected)


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (Image.new("I", (20, 20), 70_000), "32-bit integer"),
        (Image.new("I", (20, 20), 256), "32-bit integer"),
        (Image.new("I", (20, 20), -1), "32-bit integer"),
        (Image.new("F", (20, 20), 0.5), "floating-point"),
        (Image.new("F", (20, 20), 1.01), "floating-point"),
        (Image.new("F", (20, 20), float("nan")), "floating-point"),
        (Image.new("F", (20, 20), 1e6), "floating-point"),
        (Image.new("LAB", (20, 20)), "LAB"),
        (Image.new("RGB", (0, 20)), "no pixels"),
        (Image.new("I;16", (20, 0)), "no pixels"),
    ],
)
def test_a_picture_that_does_not_say_what_is_white_is_refused_by_name(made, says):
    with pytest.raises(InvalidImage, match=says):
        picture.upright(made)
    if made.width and made.height:
        with pytest.raises(InvalidImage, match=says):
            image.decode(encoded(made, "TIFF"))


# Limits before decoding


def cut_in_its_pixels(kind: str) -> bytes:
    """A photo of 60 × 40 whose head is sound and whose decoding fails."""
    if kind == "PNG":
        parts = dict(chunks(PNG))
        return png_of([chunk(b"IHDR", parts[b"IHDR"]), chunk(b"IDAT", b"no deflate"), chunk(b"IEND", b"")])
    data = encoded(SMALL, kind)
    return data[: -len(data) // 4]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "HEIC"])
def test_a_photo_over_the_limit_is_refused_before_its_pixels_are_looked_at(kind, monkeypatch):
    if kind in ("WEBP", "TIFF", "AVIF", "HEIC"):  # these are looked through to their end when they are opened
        data = heic(SMALL) if kind == "HEIC" else encoded(SMALL, kind)
    else:
        data = cut_in_its_pixels(kind)
        with pytest.raises(InvalidImage):
            image.decode(data)
        assert image.size_of(data) == (40, 60)
    refuse_to_decode(monkeypatch)
    assert image.size_of(data) == (40, 60)
    monkeypatch.setattr(limits, "current", lambda: limits.Limits(max_pixels=60 * 40 - 1))
    for ask in (image.decode, image.size_of):
        with pytest.raises(ImageTooLarge, match="60×40"):
            ask(data)


def refuse_to_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    def decoded(*args: object, **options: object) -> None:
        raise AssertionError("it was decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", decoded)
    monkeypatch.setattr(Image.Image, "load", decoded)
    monkeypatch.setattr(image.simplejpeg, "decode_jpeg", decoded)
    monkeypatch.setattr(apart, "decode", decoded)


def test_a_photo_too_long_for_depth_is_refused_before_it_is_decoded(monkeypatch):
    from depthface.families.depth_anything_v2 import processing

    long = SMALL.resize((20 * int(processing.MAX_ASPECT) + 20, 20))
    photos = [encoded(long, "PNG"), encoded(long, "JPEG"), encoded(SMALL.resize((13, 13)), "PNG")]
    refuse_to_decode(monkeypatch)
    for data in photos:
        with pytest.raises(InvalidImage):
            processing.preprocess(data)


def tiled(width: int, height: int, *, big: bool = False, order: str = "<") -> bytes:
    """The photo of 60 × 40 in grey, as a TIFF of one deflated tile."""
    grey = np.zeros((min(height, 2048), min(width, 2048)), np.uint8)
    grey[:40, :60] = np.asarray(SMALL.convert("L"))
    pixels = zlib.compress(grey.tobytes())
    head = 16 if big else 8
    tags = {256: 60, 257: 40, 258: 8, 259: 8, 262: 1, 277: 1, 322: width, 323: height, 324: head, 325: len(pixels)}
    entries = [pack(order + ("HHQQ" if big else "HHII"), tag, 16 if big else 4, 1, tags[tag]) for tag in tags]
    count, place = pack(order + ("Q" if big else "H"), len(tags)), head + len(pixels)
    start = pack(order + "HHHQ", 43, 8, 0, place) if big else pack(order + "HI", 42, place)
    return {"<": b"II", ">": b"MM"}[order] + start + pixels + count + b"".join(entries) + bytes(8)


@pytest.mark.parametrize(("big", "order"), [(False, "<"), (False, ">"), (True, "<")])
def test_a_tile_of_a_tiff_may_be_larger_than_the_photo_but_not_than_the_limit(monkeypatch, big, order):
    usual, large, huge = (tiled(*size, big=big, order=order) for size in ((256, 256), (2048, 1024), (2**16, 2**15)))
    expected = np.repeat(np.asarray(SMALL.convert("L"))[:, :, None], 3, 2)
    for data in (usual, large):
        np.testing.assert_array_equal(image.decode(data), expected)
    with pytest.raises(ImageTooLarge, match="tiles of 65536×32768"):
        image.size_of(huge)
    monkeypatch.setattr(limits, "current", lambda: limits.Limits(max_pixels=60 * 40))
    np.testing.assert_array_equal(image.decode(usual), expected)
    with pytest.raises(ImageTooLarge, match="tiles of 2048×1024"):
        image.size_of(large)


def test_a_tiff_in_which_pillow_finds_another_directory_is_refused():
    """One of 64 bits with the high byte first: Pillow reads its head as 32 bits, where no limit has been looked at."""
    tags = {256: 1, 257: 1, 258: 8, 259: 1, 262: 1, 273: 0, 277: 1, 278: 1, 279: 1}
    there = pack(">H", len(tags)) + b"".join(pack(">HHII", tag, 4, 1, tags[tag]) for tag in tags) + bytes(4)
    hidden = (b"MM\0+" + pack(">HHQ", 8, 0, 16) + bytes(16)).ljust(0x80000, b"\0") + there
    assert Image.open(BytesIO(hidden)).size == (1, 1)
    for data in (hidden, tiled(64, 64, big=True, order=">")):
        for ask in (image.size_of, image.decode):
            with pytest.raises(InvalidImage, match="64 bits"):
                ask(data)


def test_the_size_of_a_png_inflates_no_pixel():
    header = pack(">IIBBBBB", 4000, 3000, 8, 2, 0, 0, 0)
    data = png_of([chunk(b"IHDR", header), chunk(b"IDAT", b"no deflate"), chunk(b"eXIf", exif(6)), chunk(b"IEND", b"")])
    assert image.size_of(data) == (4000, 3000)


# What is taken, and how the rest is named


def test_of_a_gif_the_first_picture_is_taken():
    data = encoded(SMALL, "GIF", save_all=True, append_images=[SMALL.rotate(180)], duration=100)
    np.testing.assert_array_equal(image.decode(data), by_pillow(data))
    assert image.size_of(data) == (40, 60)
    with pytest.raises(InvalidImage, match="damaged or truncated"):
        image.decode(encoded(photo(), "GIF")[:20_000])


@pytest.mark.parametrize("options", [{}, {"transparency": 0}, {"interlace": True}], ids=str)
def test_a_gif_is_what_pillow_makes_of_it(options):
    data = encoded(SMALL.quantize(32), "GIF", **options)
    np.testing.assert_array_equal(image.decode(data), by_pillow(data))


def test_an_avif_is_what_pillow_makes_of_it():
    for made in (SMALL, SMALL.convert("L"), SMALL.convert("RGBA")):
        data = encoded(made, "AVIF", exif=exif(1)).replace(b"II*\0", b"none" if made.mode == "L" else b"II*\0")
        np.testing.assert_array_equal(image.decode(data), by_pillow(encoded(made, "AVIF")))


def of_float64() -> bytes:
    """A TIFF of one row, of 64-bit floating-point samples."""
    tags = [(256, 2), (257, 1), (258, 64), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 16), (339, 3)]
    body = b"".join(pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + pack("<I", 24) + pack("<dd", 0.5, 1) + pack("<H", len(tags)) + body + bytes(4)


def raw_of_a_camera() -> bytes:
    """Like a NEF or a DNG: its first picture is a small one, and the whole one lies below it."""
    return tiff_with(SMALL, (254, 4, 1, 1), (330, 4, 1, 8))


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (encoded(SMALL, "JPEG2000"), "a JPEG 2000 file"),
        (b"\x00\x00\x00\x0cJXL \r\n\x87\n" + bytes(99), "a JPEG XL file"),
        (b"\xff\x0a" + bytes(99), "a JPEG XL file"),
        (b"8BPS\0\1" + bytes(99), "a Photoshop file"),
        (b"%PDF-1.7\n" + bytes(99), "a PDF"),
        (encoded(SMALL, "EPS"), "a PostScript file"),
        (encoded(SMALL, "PPM"), "a Netpbm file"),
        (encoded(SMALL, "ICO"), "an icon"),
        (encoded(SMALL, "ICNS"), "an icon"),
        (encoded(SMALL, "TGA") + bytes(8) + b"TRUEVISION-XFILE.\0", "a Targa file"),
        (encoded(SMALL, "DDS"), "a DDS texture"),
        (encoded(SMALL, "SGI"), "an SGI file"),
        (encoded(SMALL, "PCX"), "a PCX file"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
        (b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- drawn -->\n<svg/>', "an SVG drawing"),
        (b"\n<!DOCTYPE html><html>", "a web page (HTML)"),
        (b"\0\0\0\x20ftypisom" + bytes(99), "a video"),
        (b"\0\0\0\x14ftypqt  " + bytes(99), "a video"),
        (b"\x1aE\xdf\xa3" + bytes(99), "a video"),
        (b"\0\0\0\x18ftypcrx " + bytes(99), "a camera's raw file"),
        (b"II*\0\x10\0\0\0CR\2\0" + bytes(99), "a camera's raw file"),
        (b"FUJIFILMCCD-RAW " + bytes(99), "a camera's raw file"),
        (raw_of_a_camera(), "a camera's raw file"),
        (gzip.compress(PNG), "an archive"),
        (b"PK\3\4" + bytes(99), "an archive"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_taken_is_named_for_what_it_is(data, name):
    for ask in (image.decode, image.size_of):
        with pytest.raises(InvalidImage) as caught:
            ask(data)
        assert str(caught.value).startswith(f"This is {name}")
        assert str(caught.value).endswith(
            "which is not taken. Send one of: JPEG, PNG, WebP, BMP, TIFF, GIF, AVIF, HEIC."
        )


@pytest.mark.parametrize("data", [b"text", b"BM, a text", bytes(5000), b"P1 is no picture", b'{"a": 1}'], ids=str)
def test_text_and_zeros_are_no_image(data):
    with pytest.raises(InvalidImage, match="These bytes are not an image"):
        image.decode(data)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (of_float64(), "TIFF .* of a kind that cannot be read \\(64-bit floating-point samples\\)"),
        (tiff_with(SMALL)[:8] + bytes(200), "TIFF is damaged"),
        (JPEG.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc1\0\x11\x0c"), "JPEG .* of a kind .*12 bits a sample"),
        (PNG[:30], "PNG is damaged"),
        (heic(SMALL)[:200], "HEIC is damaged"),
    ],
    ids=["float64", "empty TIFF", "12 bits", "cut PNG", "cut HEIC"],
)
def test_what_is_of_a_kind_that_cannot_be_read_is_named(data, says):
    with pytest.raises(InvalidImage, match=says):
        image.decode(data)


def test_every_format_that_is_named_is_taken():
    made = {name: heic(SMALL) if name == "HEIC" else encoded(SMALL, name) for name in formats.FORMATS}
    for name, data in made.items():
        assert formats.format_of(data) == name
        assert formats.stranger(data) is None or name in ("HEIC", "AVIF")
        assert image.decode(data).shape == (40, 60, 3)
        if name in ("JPEG", "PNG", "BMP"):
            seen = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
            np.testing.assert_array_equal(image.decode(data), seen)
