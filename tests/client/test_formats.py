"""Photos of every format through a real server, whose steps are programs that are not Python."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from fixtures.photo_files import ODD_CHUNKS, exif, with_chunks
from fixtures.photos import encoded, heic, photo
from PIL import Image

from depthface.errors import InvalidImage

SMALL = photo("chelsea.png").resize((60, 40))
LEVELS = np.asarray(SMALL.convert("L"), np.uint16) * 200
FILES = {
    "GIF": encoded(SMALL, "GIF"),
    "AVIF": encoded(SMALL, "AVIF", exif=b"Exif\0\0" + exif(6)),
    "HEIC": heic(SMALL),
    "16-bit grey PNG": encoded(Image.fromarray(LEVELS), "PNG"),
    "16-bit grey TIFF": encoded(Image.fromarray(LEVELS), "TIFF"),
}


@pytest.mark.parametrize("name", FILES)
def test_the_map_is_the_same_bit_for_bit_in_whatever_form_a_photo_comes(client, name, tmp_path):
    path = tmp_path / "photo"
    path.write_bytes(FILES[name])
    by_path = client.depth(path)
    assert by_path.size == ((60, 40) if name == "AVIF" else (40, 60))
    with Image.open(path) as opened:
        for form in (FILES[name], opened, Image.open(BytesIO(FILES[name]))):
            np.testing.assert_array_equal(client.depth(form).array, by_path.array)
    if "16-bit" in name:
        np.testing.assert_array_equal(client.depth(LEVELS).array, by_path.array)


def test_a_long_text_in_a_png_costs_nothing(client):
    plain = client.depth(encoded(SMALL, "PNG"))
    for behind in (False, True):
        odd = with_chunks(encoded(SMALL, "PNG"), ODD_CHUNKS["long zTXt"], ODD_CHUNKS["long iCCP"], behind=behind)
        np.testing.assert_array_equal(client.depth(odd).array, plain.array)


def test_what_is_not_taken_is_named_by_the_server(client):
    with pytest.raises(InvalidImage, match="This is a JPEG 2000 file, which is not taken"):
        client.depth(encoded(SMALL, "JPEG2000"))
    with pytest.raises(InvalidImage, match="HEIC is damaged"):
        client.depth(FILES["HEIC"][:4000])
    assert client.depth(FILES["HEIC"]).size == (40, 60)
