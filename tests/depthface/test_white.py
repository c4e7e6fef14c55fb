"""Which sample of a picture is white: what the file says, or a refusal. A guess would make photos black in silence."""

from __future__ import annotations

from io import BytesIO
from struct import pack

import numpy as np
import pytest
from PIL import Image

from depthface import image, photos, picture
from depthface.errors import InvalidImage

LEVELS = np.linspace(0, 255, 60 * 40).astype(np.uint8).reshape(40, 60)


def tiff(samples: bytes, bits: int, **tags: int) -> bytes:
    """A grey TIFF of 60 × 40, with these samples as they are."""
    said = {
        "ImageWidth": (256, 60),
        "ImageLength": (257, 40),
        "BitsPerSample": (258, bits),
        "Compression": (259, 1),
        "PhotometricInterpretation": (262, tags.get("photometric", 1)),
        "StripOffsets": (273, 8),
        "SamplesPerPixel": (277, 1),
        "RowsPerStrip": (278, 40),
        "StripByteCounts": (279, len(samples)),
        "SampleFormat": (339, tags.get("sample_format", 1)),
    }
    entries = b"".join(pack("<HHII", tag, 4, 1, value) for tag, value in said.values())
    return b"II*\0" + pack("<I", 8 + len(samples)) + samples + pack("<H", len(said)) + entries + bytes(4)


def of_12_bits(levels: np.ndarray) -> bytes:
    """Levels of 12 bits, two in three bytes (TIFF 6.0, FillOrder 1)."""
    first, second = levels.reshape(-1, 2).astype(np.uint16).T
    return np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 1).astype(np.uint8).tobytes()


def forms(data: bytes, tmp_path) -> dict[str, np.ndarray]:
    """What each form of a photo is read as."""
    path = tmp_path / "photo.tif"
    path.write_bytes(data)
    with Image.open(BytesIO(data)) as opened:
        shown = np.asarray(photos.upright(opened))
    return {"bytes": image.decode(data), "path": np.asarray(photos.upright(path)), "picture": shown}


@pytest.mark.parametrize(
    "data",
    [
        tiff(of_12_bits(LEVELS.astype(np.uint16) << 4 | 7), 12),
        tiff((LEVELS.astype("<u2") * 257).tobytes(), 16),
        tiff((65535 - LEVELS.astype("<u2") * 257).tobytes(), 16, photometric=0),
        tiff((255 - LEVELS).tobytes(), 8, photometric=0),
        tiff(LEVELS.tobytes(), 8),
    ],
    ids=["12 bits", "16 bits", "16 bits, 0 is white", "8 bits, 0 is white", "8 bits"],
)
def test_grey_of_a_tiff_is_scaled_by_what_the_file_says_is_white(data, tmp_path):
    for name, got in forms(data, tmp_path).items():
        np.testing.assert_array_equal(got, np.repeat(LEVELS[:, :, None], 3, 2), err_msg=name)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (tiff((LEVELS / np.float32(255) * np.float32(white)).astype("<f4").tobytes(), 32, sample_format=3), "floating")
        for white in (1, 1.01, 256)
    ]
    + [
        (tiff((LEVELS.astype("<i2") * 128).tobytes(), 16, sample_format=2), "integer samples, here from 0 to 32640"),
        (tiff((LEVELS.astype("<i4") + 1).tobytes(), 32), "integer samples, here from 1 to 256"),
        (tiff(LEVELS.astype("<i4").tobytes(), 32, sample_format=2), "integer"),
        (tiff((LEVELS // 2 - 64).astype("i1").tobytes(), 8, sample_format=2), "signed 8-bit samples, here from -64"),
    ],
    ids=["float to 1", "float to 1.01", "float to 256", "signed 16 bits", "32 bits", "signed 32 bits", "signed 8 bits"],
)
def test_samples_whose_white_is_in_doubt_are_refused(data, says, tmp_path):
    for given in (data, tmp_path / "photo.tif", Image.open(BytesIO(data))):
        (tmp_path / "photo.tif").write_bytes(data)
        with pytest.raises(InvalidImage, match=f"{says}.* 65535 is"):
            photos.upright(given)


def test_what_the_refusal_says_mends_it():
    for beyond in (LEVELS.astype(np.int32) + 1, LEVELS.astype(np.float32) + 1):
        made = Image.fromarray(beyond)
        with pytest.raises(InvalidImage, match="mode L"):
            picture.upright(made)
        scaled = Image.fromarray(beyond - 1).convert("L")
        np.testing.assert_array_equal(np.asarray(picture.upright(scaled))[:, :, 0], LEVELS)
    deep = Image.fromarray(LEVELS.astype(np.int32) * 257)
    assert deep.mode == "I"
    np.testing.assert_array_equal(np.asarray(picture.upright(deep.convert("I;16")))[:, :, 0], LEVELS)


def test_a_netpbm_that_pillow_has_scaled_says_what_is_white():
    for most, samples in ((65535, LEVELS.astype(">u2") * 257), (1023, np.minimum(LEVELS.astype(">u2") * 4 + 3, 1023))):
        opened = Image.open(BytesIO(b"P5 60 40 %d\n" % most + samples.astype(">u2").tobytes()))
        assert opened.mode == "I"
        assert np.abs(np.asarray(picture.upright(opened))[:, :, 0].astype(int) - LEVELS).max() <= 1
