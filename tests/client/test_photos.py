"""What a photo means to the client, by path, as bytes, as picture and as array. No server is needed."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from fixtures.photo_files import ODD_CHUNKS, chunk, exif, tiff_with, with_chunks
from fixtures.photos import VARIETY, encoded, heic, photo
from PIL import Image

from depthface import image, photos
from depthface.errors import ImageTooLarge, InvalidImage
from depthface_client import draw

SMALL = photo("chelsea.png").resize((60, 40))
PNG = encoded(SMALL, "PNG")
LEVELS = np.arange(60 * 40, dtype=np.uint16).reshape(40, 60) * 27

FILES = {
    **{name: data for name, data in VARIETY.items() if name != "4000×3000"},
    "16-bit grey PNG": encoded(Image.fromarray(LEVELS), "PNG"),
    "16-bit grey TIFF": encoded(Image.fromarray(LEVELS), "TIFF"),
    "16-bit grey TIFF, big-endian": encoded(Image.frombytes("I;16B", (60, 40), LEVELS.astype(">u2").tobytes()), "TIFF"),
    "1-bit PNG": encoded(SMALL.convert("1"), "PNG"),
    "grey with alpha": encoded(SMALL.convert("LA"), "PNG"),
    "palette with alphas": encoded(SMALL.convert("RGBA").quantize(16), "PNG"),
    "CMYK TIFF": encoded(SMALL.convert("CMYK"), "TIFF"),
    "turned TIFF": tiff_with(SMALL, (0x0112, 3, 1, 6)),
    "PNG turned behind its pixels": with_chunks(PNG, chunk(b"eXIf", exif(8)), behind=True),
    "PNG with a long text behind its pixels": with_chunks(PNG, ODD_CHUNKS["long zTXt"], behind=True),
    "PNG with a broken text behind its pixels": with_chunks(
        PNG, ODD_CHUNKS["zTXt of an unknown method"], chunk(b"eXIf", exif(6)), behind=True
    ),
    "GIF": encoded(SMALL.convert("P"), "GIF"),
    "AVIF": encoded(SMALL, "AVIF", exif=b"Exif\0\0" + exif(6)),
    "HEIC": heic(SMALL),
}


@pytest.mark.parametrize("name", FILES)
def test_a_photo_is_the_same_by_path_as_bytes_and_as_picture(name, tmp_path):
    path = tmp_path / "photo"
    path.write_bytes(FILES[name])
    expected = image.decode(FILES[name])  # what a server sees
    forms = [path, str(path), FILES[name], bytearray(FILES[name]), memoryview(FILES[name])]
    with Image.open(path) as opened, Image.open(path) as another:
        for form in (*forms, opened, opened, Image.open(BytesIO(FILES[name]))):
            np.testing.assert_array_equal(image.decode(photos.encoded(form)), expected)
        for form in (path, FILES[name], opened, another):
            np.testing.assert_array_equal(np.asarray(photos.upright(form)), expected)
            np.testing.assert_array_equal(np.asarray(draw.faces(form, [])), expected)
    for form in forms:
        assert photos.encoded(form) == FILES[name]  # as it is


@pytest.mark.parametrize("name", ["16-bit grey PNG", "16-bit grey TIFF", "16-bit grey TIFF, big-endian", "1-bit PNG"])
def test_an_array_is_the_same_as_its_file(name):
    array = np.asarray(Image.open(BytesIO(FILES[name])))
    np.testing.assert_array_equal(image.decode(photos.encoded(array)), image.decode(FILES[name]))
    np.testing.assert_array_equal(np.asarray(photos.upright(array)), image.decode(FILES[name]))


@pytest.mark.parametrize(
    "array",
    [
        np.asarray(SMALL),
        np.asarray(SMALL)[::-1, ::2],
        np.asfortranarray(np.asarray(SMALL)),
        np.asarray(SMALL.convert("L")),
        np.asarray(SMALL).astype(np.uint16) * 256 + 9,
    ],
    ids=["RGB", "a view", "columns first", "grey", "16-bit RGB"],
)
def test_an_array_is_its_own_pixels(array):
    levels = (array >> 8).astype(np.uint8) if array.dtype == np.uint16 else array
    expected = levels if levels.ndim == 3 else np.repeat(levels[:, :, None], 3, 2)
    np.testing.assert_array_equal(image.decode(photos.encoded(array)), expected)
    np.testing.assert_array_equal(np.asarray(photos.upright(array)), expected)


def test_drawing_on_16_bit_grey_is_not_drawing_on_white():
    drawn = np.asarray(draw.faces(Image.fromarray(LEVELS), []))
    assert abs(drawn.mean() - (LEVELS >> 8).mean()) < 0.5


def test_what_is_drawn_on_is_not_the_callers_own():
    mine = SMALL.copy()
    for given in (mine, np.asarray(mine), PNG, FILES["HEIC"]):
        drawn = photos.upright(given)
        drawn.paste((255, 0, 0), (0, 0, 60, 40))
        assert drawn is not mine
    np.testing.assert_array_equal(np.asarray(mine), np.asarray(SMALL))


def test_a_picture_is_sent_as_it_is_turned_and_stays_as_it_was():
    mine = SMALL.copy()
    mine.getexif()[0x0112] = 6
    mine.info["transparency"] = b"odd"
    assert image.decode(photos.encoded(mine)).shape == (60, 40, 3)
    assert mine.size == (60, 40)
    assert mine.getexif()[0x0112] == 6
    assert mine.info["transparency"] == b"odd"


def test_of_a_picture_with_frames_the_one_that_it_stands_at_is_sent():
    data = encoded(SMALL, "GIF", save_all=True, append_images=[SMALL.rotate(180)])
    with Image.open(BytesIO(data)) as frames:
        frames.seek(1)
        expected = np.asarray(frames.convert("RGB"))
        np.testing.assert_array_equal(image.decode(photos.encoded(frames)), expected)


def closed() -> Image.Image:
    with Image.open(BytesIO(PNG)) as picture:
        pass
    return picture


def closed_after_loading() -> Image.Image:
    picture = SMALL.copy()
    picture.close()
    return picture


def verified() -> Image.Image:
    picture = Image.open(BytesIO(PNG))
    picture.verify()
    return picture


def released() -> memoryview:
    view = memoryview(PNG)
    view.release()
    return view


class NoPath(os.PathLike):
    def __fspath__(self):
        return 7


NOT_PHOTOS = {
    "a closed picture": (closed, "closed"),
    "a picture closed after loading": (closed_after_loading, "closed"),
    "a verified picture": (verified, "closed"),
    "a truncated picture": (lambda: Image.open(BytesIO(VARIETY["landscape JPEG"][:5000])), "truncated"),
    "a truncated PNG": (lambda: Image.open(BytesIO(VARIETY["square PNG"][:50_000])), "truncated"),
    "a truncated AVIF": (lambda: Image.open(BytesIO(FILES["AVIF"][:-400])), "truncated|Truncated|damaged"),
    "a picture without pixels": (lambda: Image.new("RGB", (0, 7)), "no pixels"),
    "a picture in LAB": (lambda: Image.new("LAB", (7, 7)), "LAB"),
    "a picture of 0 to 1": (lambda: Image.new("F", (7, 7), 0.5), "floating-point"),
    "an array without pixels": (lambda: np.zeros((0, 5, 3), np.uint8), "no pixels"),
    "an array without columns": (lambda: np.zeros((5, 0), np.uint8), "no pixels"),
    "an array of floats": (lambda: np.zeros((5, 5, 3), np.float32), "float32"),
    "an array of 64 bits": (lambda: np.zeros((5, 5), np.int64), "int64"),
    "an array of objects": (lambda: np.full((5, 5), None), "object"),
    "an array of four channels": (lambda: np.zeros((5, 5, 4), np.uint8), r"\(5, 5, 4\)"),
    "channels first": (lambda: np.zeros((3, 5, 5), np.uint8), r"\(3, 5, 5\)"),
    "a batch": (lambda: np.zeros((1, 5, 5, 3), np.uint8), r"\(1, 5, 5, 3\)"),
    "a single number": (lambda: np.uint8(7), "uint8"),
    "an array of no dimension": (lambda: np.array(7, np.uint8), "uint8"),
    "a list": (lambda: [[1, 2], [3, 4]], "list"),
    "nothing": (lambda: None, "NoneType"),
    "an open file": (lambda: BytesIO(PNG), "BytesIO"),
    "released bytes": (released, "released"),
    "a path that is a number": (NoPath, "NoPath"),
    "a path with a NUL": (lambda: "photo\0.jpg", r"'photo\\x00.jpg'"),
    "a path with a line break": (lambda: "photo\n.jpg", r"'photo\\n.jpg'"),
    "a path with a lone surrogate": (lambda: "photo\udcff.jpg", r"'photo\\udcff.jpg'"),
    "no path": (lambda: "", "''"),
    "a folder": (lambda: "/", "directory"),
    "a missing file": (lambda: Path("/nowhere/photo.jpg"), "No such file"),
    "a name of 300 characters": (lambda: "a" * 300, "too long"),
    "a path of 10,000 characters": (lambda: "a/" * 5000, "too long"),
    "a file below a file": (lambda: f"{__file__}/photo.jpg", "Not a directory"),
    "a device that never ends": (lambda: "/dev/zero", "no photo"),
    "a device of nothing": (lambda: "/dev/null", "empty"),
}


@pytest.mark.parametrize("name", NOT_PHOTOS)
def test_what_is_no_photo_is_said_in_one_sentence(name, monkeypatch):
    monkeypatch.setattr(photos, "_MOST_BYTES", 2**20)
    make, says = NOT_PHOTOS[name]
    for use in (photos.encoded, photos.upright, lambda given: draw.faces(given, [])):
        with pytest.raises(InvalidImage, match=says) as caught:
            use(make())
        assert str(caught.value).endswith(".")
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 400
        str(caught.value).encode()  # it can be printed


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_the_right_to_read_it_is_said_in_one_sentence(tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(PNG)
    path.chmod(0)
    with pytest.raises(InvalidImage, match=r"cannot be read \(Permission denied\)"):
        photos.encoded(path)


def test_what_cannot_be_drawn_on_is_named():
    with pytest.raises(InvalidImage, match="not an image"):
        photos.upright(b"text")
    with pytest.raises(InvalidImage, match="no bytes"):
        photos.upright(b"")
    with pytest.raises(InvalidImage, match="JPEG 2000"):
        photos.upright(encoded(SMALL, "JPEG2000"))
    with pytest.raises(ImageTooLarge, match="megapixels"):
        photos.upright(encoded(Image.new("1", (10_000, 9000)), "PNG"))


def test_a_named_pipe_is_read(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    child = os.fork()
    if not child:
        with path.open("wb") as pipe:
            pipe.write(PNG)
        os._exit(0)
    assert photos.encoded(path) == PNG
    os.waitpid(child, 0)


def test_the_test_photo_is_a_photo():
    assert image.decode(photos.encoded(photos.probe_picture())).shape == (48, 64, 3)
