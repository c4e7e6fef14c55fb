"""Files of photos: metadata that costs none."""

from __future__ import annotations

import time
import tracemalloc
import zlib
from io import BytesIO
from struct import pack, unpack_from

import numpy as np
import pytest
from fixtures.photo_files import (
    ODD_CHUNKS,
    ODD_SEGMENTS,
    by_pillow,
    chunk,
    chunks,
    interlaced,
    png_of,
    segment,
    tiff_with,
    with_chunks,
    with_segments,
)
from fixtures.photos import encoded, photo
from PIL import Image

from depthface import containers, image, picture
from depthface.errors import ImageTooLarge, InvalidImage

SMALL = photo("chelsea.png").resize((60, 40))
PNG, JPEG = encoded(SMALL, "PNG"), encoded(SMALL, "JPEG", quality=90)


# Metadata costs no photo


@pytest.mark.parametrize("behind", [False, True], ids=["before the pixels", "behind the pixels"])
@pytest.mark.parametrize("name", ODD_CHUNKS)
def test_a_chunk_that_no_pixel_depends_on_changes_none(name, behind):
    data = with_chunks(PNG, ODD_CHUNKS[name], behind=behind)
    np.testing.assert_array_equal(image.decode(data), np.asarray(SMALL))
    assert image.size_of(data) == (40, 60)


@pytest.mark.parametrize("behind", [False, True], ids=["before the pixels", "behind the pixels"])
def test_texts_are_not_unpacked(behind):
    data = with_chunks(PNG, *(ODD_CHUNKS[name] for name in ODD_CHUNKS if "long" not in name), behind=behind)
    tracemalloc.start()
    image.decode(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * len(data) + 3 * 2**20


def test_a_png_that_ends_in_a_broken_chunk_behind_its_pixels_is_whole():
    parts = [chunk(kind, data) for kind, data in chunks(PNG)][:-1]
    for end in (b"", b"\0\0\0\x09tEXtcut", b"\0\0", b"junk of another program"):
        np.testing.assert_array_equal(image.decode(png_of(parts) + end), np.asarray(SMALL))


def test_a_png_whose_own_chunks_are_damaged_is_refused():
    parts = dict(chunks(PNG))
    body = [chunk(b"IDAT", parts[b"IDAT"]), chunk(b"IEND", b"")]
    for damaged in (
        png_of([chunk(b"IHDR", parts[b"IHDR"], crc=1), *body]),
        png_of([chunk(b"IHDR", parts[b"IHDR"]), chunk(b"IDAT", parts[b"IDAT"][:-500]), chunk(b"IEND", b"")]),
        png_of([chunk(b"IHDR", parts[b"IHDR"]), chunk(b"IEND", b"")]),
        PNG[: len(PNG) // 2],
    ):
        with pytest.raises(InvalidImage, match="damaged"):
            image.decode(damaged)


@pytest.mark.parametrize("mode", ["P", "L", "RGB", "1"])
def test_transparency_of_a_png_changes_no_colour(mode):
    plain = encoded(SMALL.convert(mode), "PNG")
    kinds = dict(chunks(plain))
    clear = chunk(b"tRNS", {"P": bytes(range(0, 250, 10)), "RGB": bytes(6)}.get(mode, bytes(2)))
    parts = [chunk(kind, kinds[kind]) for kind in kinds]
    at = 2 if mode == "P" else 1
    data = png_of([*parts[:at], clear, *parts[at:]])
    np.testing.assert_array_equal(image.decode(data), image.decode(plain))
    np.testing.assert_array_equal(image.decode(data), np.asarray(picture.upright(Image.open(BytesIO(data)))))


def test_of_an_animated_png_the_first_picture_is_taken():
    data = encoded(SMALL, "PNG", save_all=True, append_images=[SMALL.rotate(180)], duration=100)
    assert Image.open(BytesIO(data)).n_frames == 2
    np.testing.assert_array_equal(image.decode(data), by_pillow(data))


def test_an_interlaced_png_is_read():
    grey = np.asarray(SMALL.convert("L"))
    data = with_chunks(interlaced(grey), ODD_CHUNKS["long zTXt"], behind=True)
    np.testing.assert_array_equal(image.decode(data), np.repeat(grey[:, :, None], 3, 2))


@pytest.mark.parametrize("name", ODD_SEGMENTS)
def test_a_segment_that_no_pixel_depends_on_changes_none(name):
    data = with_segments(JPEG, ODD_SEGMENTS[name])
    np.testing.assert_array_equal(image.decode(data), by_pillow(JPEG))
    np.testing.assert_array_equal(np.asarray(picture_of(data)), by_pillow(JPEG))
    assert image.size_of(data) == (40, 60)


def picture_of(data: bytes) -> Image.Image:
    """By Pillow's decoder, not the server's faster one."""
    with picture.opened(data) as opened:
        return opened.decoded()


def test_the_tags_of_a_jpeg_are_not_read_in():
    data = with_segments(JPEG, ODD_SEGMENTS["an EXIF with tags of 64 KiB, 5000 times"])
    tracemalloc.start()
    image.decode(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


@pytest.mark.parametrize("kind", ["CMYK", "RGB"])
def test_the_segment_that_says_which_colours_a_jpeg_has_counts(kind):
    data = encoded(SMALL.convert(kind), "JPEG", quality=90, keep_rgb=True) if kind == "RGB" else encoded(
        SMALL.convert(kind), "JPEG", quality=90
    )  # fmt: skip
    np.testing.assert_array_equal(image.decode(data), by_pillow(data))


def test_a_jpeg_with_a_second_picture_gives_the_first():
    data = encoded(SMALL, "MPO", save_all=True, append_images=[SMALL.rotate(180)])
    assert Image.open(BytesIO(data)).format == "MPO"
    np.testing.assert_array_equal(image.decode(data), by_pillow(data))


@pytest.mark.parametrize("lossless", [False, True])
def test_broken_metadata_of_a_webp_changes_no_pixel(lossless):
    plain = encoded(SMALL, "WEBP", lossless=lossless)
    expected = by_pillow(plain)
    rich = encoded(SMALL, "WEBP", lossless=lossless, exif=b"Exif\0\0broken", xmp=b"\xff\xfe", icc_profile=b"none")
    cut = rich[:-5]  # in its last chunk, the XMP
    longer = rich[:4] + pack("<I", len(rich) + 1000) + rich[8:]
    unknown = rich + b"ABCD" + pack("<I", 10**6) + b"cut"
    for data in (rich, cut, longer, unknown):
        np.testing.assert_array_equal(image.decode(data), expected)
        assert image.size_of(data) == (40, 60)
    with pytest.raises(InvalidImage):
        image.decode(plain[:-100])


@pytest.mark.parametrize(
    "entries",
    [
        [(34665, 4, 1, 2**31)],  # EXIF that lies outside
        [(34853, 4, 1, 0)],  # places, where the header lies
        [(40965, 4, 1, 8)],  # Interop without an EXIF
        [(34665, 2, 1, 65)],  # a place that is text
        [(700, 2, 4, 0x41414141)],  # a packet that is text
        [(34675, 7, 2**31, 8)],  # a profile of 2 GiB
        [(33432, 2, 5000, 2**31)],  # a copyright that lies outside
        [(282, 5, 1, 2**31), (283, 5, 1, 2**31)],  # resolutions that lie outside
        [(65000, 77, 1, 0)],  # a type that nobody knows
        [(330, 13, 1, 2**31)],  # further pictures that lie outside
    ],
    ids=str,
)
@pytest.mark.parametrize("compression", [None, "tiff_lzw", "jpeg"])
def test_broken_tags_of_a_tiff_change_no_pixel(entries, compression):
    plain = encoded(SMALL, "TIFF", compression=compression)
    data = tiff_with(SMALL, *entries, compression=compression)
    np.testing.assert_array_equal(image.decode(data), by_pillow(plain))
    assert image.size_of(data) == (40, 60)


def counting(data: bytes, entries: int) -> bytes:
    """The same TIFF, whose directory says that it has so many entries."""
    (start,) = unpack_from("<I", data, 4)
    return data[:start] + pack("<H", entries) + data[start + 2 :]


def test_a_tag_of_a_tiff_that_comes_twice_or_has_too_many_values_takes_no_memory():
    plain = encoded(SMALL, "TIFF")
    strips = tiff_with(SMALL, (273, 3, 2_000_000, -1), tail=bytes(4_000_000), before=True)
    tracemalloc.start()
    for data in (strips, counting(strips, 0xFFFF)):
        for ask in (image.size_of, image.decode):
            with pytest.raises(InvalidImage, match="values"):
                ask(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 2**20
    often = tiff_with(SMALL, *[(258, 3, 2**17, -1)] * 1000, tail=bytes([8, 0]) * 2**17)
    np.testing.assert_array_equal(image.decode(often), by_pillow(plain))


@pytest.mark.parametrize("entry", [(256, 3, 1, 30), (258, 3, 1, 1), (262, 3, 1, 0), (273, 4, 1, 9)], ids=str)
def test_of_a_tag_that_comes_twice_the_first_that_can_be_read_counts(entry):
    plain, (tag, kind, _, _) = encoded(SMALL, "TIFF"), entry
    behind = tiff_with(SMALL, entry)
    np.testing.assert_array_equal(image.decode(behind), by_pillow(plain))
    np.testing.assert_array_equal(np.asarray(picture.upright(Image.open(BytesIO(behind)))), by_pillow(plain))
    for nothing in ((tag, kind, 0, 0), (tag, 77, 1, 0), (tag, kind, 999, 2**31)):
        np.testing.assert_array_equal(image.decode(tiff_with(SMALL, nothing, before=True)), by_pillow(plain))


def test_a_tiff_whose_directory_is_cut_is_read_as_far_as_it_goes():
    plain = encoded(SMALL, "TIFF")
    np.testing.assert_array_equal(image.decode(counting(tiff_with(SMALL), 0xFFFF)), by_pillow(plain))


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "CMYK", "RGBA", "LA", "I;16", "YCbCr"])
def test_a_tiff_without_its_other_tags_is_the_same(mode, big):
    made = Image.fromarray(np.asarray(SMALL.convert("L"), np.uint16) * 257) if mode == "I;16" else SMALL.convert(mode)
    compressions = ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"] + (["group4"] if mode == "1" else [])
    for compression in compressions:
        data = encoded(made, "TIFF", compression=compression, big_tiff=big, description="a photo")
        expected = image.decode(encoded(made, "PNG")) if mode == "I;16" else by_pillow(data)
        np.testing.assert_array_equal(image.decode(data), expected)


def test_a_comment_of_a_gif_changes_no_pixel_and_is_not_read_in():
    plain = encoded(SMALL.convert("P"), "GIF")
    head = 13 + (3 << (plain[10] & 7) + 1)
    comment = b"!\xfe" + (b"\xff" + bytes(range(255))) * 20_000 + b"\0"
    data = plain[:head] + comment + plain[head:]
    tracemalloc.start()
    got = image.decode(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(got, by_pillow(plain))
    assert peak < 2**20


@pytest.mark.parametrize("disposal", [2, 3])
def test_to_open_a_gif_takes_no_memory_for_its_second_picture(disposal):
    turned = SMALL.rotate(180)
    data = encoded(SMALL, "GIF", save_all=True, append_images=[turned], duration=100, disposal=disposal, transparency=0)
    assert Image.open(BytesIO(data)).dispose is not None
    lean = containers.lean(data, "GIF").data
    assert Image.open(BytesIO(lean)).dispose is None
    np.testing.assert_array_equal(image.decode(data), by_pillow(data))


def test_a_file_of_too_many_pieces_is_refused_in_time():
    for data in (PNG[:33] + chunk(b"teXt", b"") * 1_100_000, JPEG[:2] + segment(0xFE, b"") * 1_100_000):
        with pytest.raises(InvalidImage, match="pieces"):
            image.size_of(data)


def bmp(width: int, height: int, runs: bytes, compression: int = 1, *, bits: int = 8) -> bytes:
    """A BMP of red, green and blue, in run lengths unless it says otherwise."""
    colours = bytes([0, 0, 255, 0, 0, 255, 0, 0, 255, 0, 0, 0]).ljust(4 << bits, b"\0")
    start = 54 + len(colours)
    head = pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(runs), 0, 0, 0, 0)
    return b"BM" + pack("<IHHI", start + len(runs), 0, 0, start) + head + colours + runs


def test_a_bmp_in_run_lengths_is_read():
    red, green, blue = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    for data in (
        bmp(4, 2, b"\4\1\0\0\2\0\2\2\0\1"),  # the lower row comes first
        bmp(4, 2, b"\4\x11\0\0\2\0\2\x22\0\1", 2, bits=4),
        bmp(4, 2, bytes([1, 1, 1, 1, 0, 0, 2, 2]), 0),
    ):
        assert image.decode(data).tolist() == [[list(red)] * 2 + [list(blue)] * 2, [list(green)] * 4]


def test_a_large_bmp_in_run_lengths_is_refused_before_it_is_decoded():
    """Pillow decodes it in Python: of 38 KB it made ten seconds of computing."""
    for data in (
        bmp(2001, 2000, b"\0\1"),
        bmp(2001, -2000, b"\0\1"),
        bmp(2001, 2000, b"\0\1", 2, bits=4),
        bmp(4, 2, b"\0\0" * 4_000_000),
    ):
        for ask in (image.size_of, image.decode):
            with pytest.raises(ImageTooLarge, match="run lengths"):
                ask(data)
    assert image.size_of(bmp(2001, 2000, b"", 0)) == (2000, 2001)
    oldest = b"BM" + pack("<IHHIIHHHH", 0, 0, 0, 794, 12, 4, 2, 1, 8) + b"\0\0\0\0\1\0\0\0".ljust(768, b"\0") + bytes(8)
    assert image.decode(oldest).shape == (2, 4, 3)  # where others have their compression, it has colours


GIF = encoded(SMALL.convert("P"), "GIF")
GIF_HEAD = GIF[: 13 + (3 << (GIF[10] & 7) + 1)]
HEIC_HEAD = pack(">I4s4sI", 16, b"ftyp", b"heic", 0)
PIECES = {
    "PNG": (PNG[:33], chunk(b"teXt", b"")),
    "JPEG": (JPEG[:2], segment(0xFE, b"")),
    "WebP": (b"RIFF\0\0\0\0WEBP", b"junk" + bytes(4)),
    "GIF, extensions": (GIF_HEAD, b"!\xfe\0"),
    "GIF, blocks of one extension": (GIF_HEAD + b"!\xfe", b"\1a"),
    "HEIC, boxes": (HEIC_HEAD, pack(">I4s", 8, b"free")),
    "HEIC, items": (HEIC_HEAD + pack(">I4s", 0, b"meta"), b"infe\2" + bytes(7) + b"Exif"),
}
"""The head of a file, and the smallest of the parts that follow it in any number."""


@pytest.mark.parametrize("kind", PIECES)
def test_the_pieces_of_every_kind_of_file_are_counted(monkeypatch, kind):
    monkeypatch.setattr(containers.parts, "_MOST_PARTS", 100)
    head, piece = PIECES[kind]
    with pytest.raises(InvalidImage, match="pieces"):
        image.size_of(head + 101 * piece)


def test_what_comes_often_is_read_once():
    turns = b"".join(pack("<HHII", 0x0112, 3, 2**21, 8) for _ in range(20_000))
    exif_block = b"II*\0" + pack("<I", 2**22 + 8) + bytes([6, 0]) * 2**21 + pack("<H", 20_000) + turns + bytes(4)
    text = chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(2**20)))
    started = time.process_time()
    assert containers.turned(exif_block, None) == 6
    assert image.size_of(with_chunks(PNG, *[text] * 3000)) == (40, 60)
    assert time.process_time() - started < 1


def test_a_lean_file_is_only_smaller():
    for data, name in ((PNG, "PNG"), (JPEG, "JPEG"), (encoded(SMALL, "WEBP"), "WebP"), (encoded(SMALL, "GIF"), "GIF")):
        assert len(containers.lean(data, name).data) <= len(data)
