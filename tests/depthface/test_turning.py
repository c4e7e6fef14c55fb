"""How photos' files are turned: by tag, text and packet, in every kind of file and as pictures of Pillow."""

from __future__ import annotations

import zlib
from io import BytesIO
from struct import pack

import numpy as np
import pytest
from fixtures.photo_files import by_pillow, chunk, exif, segment, tiff_with, with_chunks, with_segments, xmp
from fixtures.photos import encoded, heic, photo
from PIL import Image, ImageOps

from depthface import formats, image, picture

SMALL = photo("chelsea.png").resize((60, 40))
PNG, JPEG = encoded(SMALL, "PNG"), encoded(SMALL, "JPEG", quality=90)


def blocks(red: int = 0) -> Image.Image:
    """20 × 12, every corner of another colour."""
    levels = np.zeros((12, 20, 3), np.uint8)
    levels[:6, :10], levels[:6, 10:], levels[6:, :10] = (200 + red, 20, 20), (20, 200, 20), (20, 20, 200)
    return Image.fromarray(levels)


@pytest.mark.parametrize("behind", [False, True], ids=["before the pixels", "behind the pixels"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_png_is_turned_by_whatever_says_so(orientation, behind):
    text = b"\nexif\n%8d\n%s\n" % (32, (b"Exif\0\0" + exif(orientation)).hex().encode())
    for said in (
        chunk(b"eXIf", exif(orientation)),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text)),
        chunk(b"tEXt", b"Raw profile type exif\0" + text),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(orientation)),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp(orientation))),
        chunk(b"eXIf", exif(orientation)) + chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(5)),
    ):
        data = with_chunks(PNG, said, behind=behind)
        np.testing.assert_array_equal(image.decode(data), by_pillow(data))
        np.testing.assert_array_equal(np.asarray(picture.upright(Image.open(BytesIO(data)))), by_pillow(data))
        assert image.size_of(data) == by_pillow(data).shape[:2]


@pytest.mark.parametrize("orientation", [0, 1, 2, 5, 6, 8, 9, 77])
def test_a_jpeg_is_turned_by_whatever_says_so(orientation):
    in_exif, in_xmp = b"Exif\0\0" + exif(orientation), b"http://ns.adobe.com/xap/1.0/\0" + xmp(orientation % 10)
    big_endian = b"Exif\0\0MM\0*" + pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    as_long = b"Exif\0\0II*\0" + pack("<IHHHIII", 8, 1, 0x0112, 4, 1, orientation, 0)
    for said in ([in_exif], [in_xmp], [in_exif, in_xmp], [big_endian], [as_long], [b"Exif\0\0" + in_exif]):
        data = with_segments(JPEG, *(segment(0xE1, each) for each in said))
        np.testing.assert_array_equal(image.decode(data), by_pillow(data))
        assert image.size_of(data) == by_pillow(data).shape[:2]


def exif_of(*entries: tuple[int, int, int, bytes]) -> bytes:
    """An EXIF block of these entries: tag, type, count, value; one of more than four bytes lies at the end."""
    end, tail, body = 14 + 12 * len(entries), b"", b""
    for tag, kind, count, value in entries:
        body += pack("<HHI", tag, kind, count) + (value.ljust(4, b"\0") if len(value) <= 4 else pack("<I", end))
        tail += value if len(value) > 4 else b""
    return b"Exif\0\0II*\0" + pack("<IH", 8, len(entries)) + body + bytes(4) + tail


TURN = 0x0112
SAID: dict[str, tuple[bytes, int]] = {
    "short": (exif_of((TURN, 3, 1, b"\6\0")), 6),
    "long": (exif_of((TURN, 4, 1, b"\6")), 6),
    "rational": (exif_of((TURN, 5, 1, pack("<II", 12, 2))), 6),
    "signed rational": (exif_of((TURN, 10, 1, pack("<ii", -6, -1))), 6),
    "a half": (exif_of((TURN, 5, 1, pack("<II", 13, 2))), 1),
    "by zero": (exif_of((TURN, 5, 1, pack("<II", 6, 0))), 1),
    "nothing by zero": (exif_of((TURN, 5, 1, bytes(8))), 1),
    "float": (exif_of((TURN, 11, 1, pack("<f", 6))), 6),
    "double": (exif_of((TURN, 12, 1, pack("<d", 6))), 6),
    "not a number": (exif_of((TURN, 12, 1, pack("<d", float("nan")))), 1),
    "a place": (exif_of((TURN, 13, 1, b"\6")), 6),
    "text": (exif_of((TURN, 2, 2, b"6\0")), 1),
    "a byte": (exif_of((TURN, 1, 1, b"\6")), 1),
    "anything": (exif_of((TURN, 7, 1, b"\6")), 1),
    "9": (exif_of((TURN, 3, 1, b"\x09\0")), 1),
    "6, then 3": (exif_of((TURN, 3, 1, b"\6\0"), (TURN, 3, 1, b"\3\0")), 6),
    "a byte, then 3": (exif_of((TURN, 1, 1, b"\6"), (TURN, 3, 1, b"\3\0")), 1),
    "none, then 3": (exif_of((TURN, 3, 0, b"\6\0"), (TURN, 3, 1, b"\3\0")), 3),
    "of 64 bits": (b"Exif\0\0II+\0" + pack("<HHQQHHQQQ", 8, 0, 16, 1, TURN, 3, 1, 6, 0), 1),
}


@pytest.mark.parametrize("name", SAID)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_an_odd_orientation_is_the_same_by_bytes_and_as_picture(name, format):
    block, turn = SAID[name]
    data = encoded(SMALL, format, exif=block)
    plain = Image.fromarray(by_pillow(encoded(SMALL, format)))
    plain.getexif()[TURN] = turn
    expected = np.asarray(ImageOps.exif_transpose(plain))
    if name != "of 64 bits":  # Pillow fails
        np.testing.assert_array_equal(by_pillow(data), expected)
    np.testing.assert_array_equal(image.decode(data), expected)
    np.testing.assert_array_equal(np.asarray(picture.upright(Image.open(BytesIO(data)))), expected)
    assert image.size_of(data) == expected.shape[:2]


def test_an_orientation_behind_a_broken_tag_is_the_same_by_bytes_and_as_picture():
    """Pillow reads no further than the broken one."""
    there = b"Exif\0\0II*\0" + pack("<IHHHIIHHII", 8, 2, 0x010F, 2, 9, 2**20, TURN, 3, 1, 6) + bytes(4)
    data = encoded(SMALL, "JPEG", quality=90, exif=there)
    assert image.decode(data).shape == (60, 40, 3)
    with pytest.warns(UserWarning, match="Truncated"):
        np.testing.assert_array_equal(np.asarray(picture.upright(Image.open(BytesIO(data)))), image.decode(data))


def test_an_orientation_that_was_changed_in_memory_counts():
    data = encoded(SMALL, "JPEG", quality=90, exif=SAID["short"][0])
    for change, shape in (({TURN: 1}, (40, 60, 3)), ({TURN: 8}, (60, 40, 3)), ({}, (40, 60, 3))):
        opened = Image.open(BytesIO(data))
        del opened.getexif()[TURN]
        opened.getexif().update(change)
        expected = np.asarray(ImageOps.exif_transpose(opened))
        np.testing.assert_array_equal(np.asarray(picture.upright(opened)), expected)
        assert expected.shape == shape


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_and_a_webp_are_turned_by_tag_and_packet(orientation):
    packet = xmp(orientation)
    for data in (
        tiff_with(SMALL, (0x0112, 3, 1, orientation)),
        tiff_with(SMALL, (700, 1, len(packet), -1), tail=packet),
        tiff_with(SMALL, (700, 1, len(packet), -1), tail=packet, compression="tiff_lzw"),
        encoded(SMALL, "WEBP", lossless=True, exif=b"Exif\0\0" + exif(orientation)),
        encoded(SMALL, "WEBP", lossless=True, xmp=packet),
    ):
        np.testing.assert_array_equal(image.decode(data), by_pillow(data))
        np.testing.assert_array_equal(np.asarray(picture.upright(Image.open(BytesIO(data)))), by_pillow(data))
        assert image.size_of(data) == by_pillow(data).shape[:2]


@pytest.mark.parametrize("kind", ["AVIF", "HEIC"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_avif_and_heic_are_turned_once(kind, orientation):
    stored = blocks()
    stored.info["exif"] = b"Exif\0\0" + exif(orientation)
    expected = np.asarray(ImageOps.exif_transpose(stored))
    data = heic(stored) if kind == "HEIC" else encoded(stored, "AVIF", exif=stored.info["exif"], quality=90)
    assert formats.format_of(data) == kind
    got = image.decode(data)
    assert got.shape == expected.shape
    assert np.median(np.abs(got.astype(int) - expected)) < 12
    assert image.size_of(data) == expected.shape[:2]
