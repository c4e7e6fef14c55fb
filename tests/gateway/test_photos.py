"""What a gateway reads of a photo itself: base64; its size, on the event loop only where that is quick in any case."""

from __future__ import annotations

import asyncio
import base64
import random
from io import BytesIO

import pytest
from PIL import Image

from depthface import containers, picture
from depthface.errors import InvalidInput
from depthface_gateway.photos import from_base64, upright_size

_PICTURE = Image.effect_noise((40, 30), 50)


def encoded(format: str, **options: object) -> bytes:
    buffer = BytesIO()
    _PICTURE.convert("RGB").save(buffer, format, **options)
    return buffer.getvalue()


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body


def with_head(*pieces: bytes) -> bytes:
    """A JPEG with these before its own head."""
    plain = encoded("JPEG")
    return plain[:2] + b"".join(pieces) + plain[2:]


def turned(picture: Image.Image = _PICTURE) -> bytes:
    exif = picture.getexif()
    exif[0x0112] = 6
    return encoded("JPEG", exif=exif)


@pytest.fixture
def threads(monkeypatch) -> list[object]:
    """What is done in a thread."""
    begun: list[object] = []
    to_thread = asyncio.to_thread

    def noted(function: object, *arguments: object) -> object:
        begun.append(function)
        return to_thread(function, *arguments)

    monkeypatch.setattr(asyncio, "to_thread", noted)
    return begun


@pytest.mark.parametrize(
    ("photo", "size"),
    [
        (encoded("JPEG"), (40, 30)),
        (encoded("JPEG", progressive=True), (40, 30)),
        (turned(), (30, 40)),
        (with_head(segment(0xE1, b"a" * 60_000)), (40, 30)),  # a preview in its EXIF
        (encoded("JPEG") + bytes(2**22), (40, 30)),
    ],
    ids=["baseline", "progressive", "turned", "with a preview", "large"],
)
def test_a_usual_jpeg_wakes_no_thread(threads, photo, size):
    assert asyncio.run(upright_size(photo)) == size
    assert threads == []


@pytest.mark.parametrize(
    "photo",
    [
        *map(encoded, ("PNG", "WebP", "TIFF", "GIF", "BMP", "AVIF")),
        with_head(*[segment(0xFE, b"")] * containers.jpeg._PLAIN_SEGMENTS),
        with_head(*[segment(0xE2, b"a" * 60_000)] * 2),
        with_head(b"\xff" * 5),
        with_head(b"\xff\xd0"),
    ],
    ids=["PNG", "WebP", "TIFF", "GIF", "BMP", "AVIF", "many", "long", "filled", "alone"],
)
def test_whatever_may_take_long_is_read_in_a_thread(threads, photo):
    assert asyncio.run(upright_size(photo)) == (40, 30)
    assert len(threads) == 1


@pytest.mark.parametrize("photo", [b"", b"\xff\xd8", b"\xff\xd8\xff", encoded("JPEG")[:30], b"no photo"])
def test_what_is_no_photo_is_refused(photo):
    with pytest.raises(InvalidInput):
        asyncio.run(upright_size(photo))


@pytest.mark.parametrize("before", ["", "data:image/jpeg;base64,", "data:image/jpeg;base64,\n"])
@pytest.mark.parametrize("ends", ["", "\n", "\r\n", " ", "\t\n"])
def test_base64_is_read_however_its_lines_are_broken(before, ends):
    photo = encoded("JPEG")
    letters = base64.b64encode(photo).decode()
    text = before + ends.join(letters[at : at + 76] for at in range(0, len(letters), 76)) + ends
    assert from_base64(text) == from_base64(text.encode()) == photo


@pytest.mark.parametrize("text", ["no base64!", "AAA", "=", "A===", "é", "\ud800", "AAAA-_AA"])
def test_what_is_no_base64_is_refused(text):
    with pytest.raises(InvalidInput, match="no base64"):
        from_base64(text)


def test_what_is_read_at_once_is_what_a_decoder_reads():
    """Of heads by chance: segments left out, twice, in another order, cut, and what only looks like one."""
    chance = random.Random(0)
    agreed = 0
    for photo in (turned(), encoded("JPEG", progressive=True)):
        pieces, at = [], 2
        while photo[at + 1] != 0xDA:
            stop = at + 2 + int.from_bytes(photo[at + 2 : at + 4], "big")
            pieces.append(photo[at:stop])
            at = stop
        for _ in range(1000):
            some = [piece for piece in pieces for _ in range(chance.choice((0, 1, 1, 1, 1, 1, 2)))]
            if chance.random() < 0.5:
                chance.shuffle(some)
            made = segment(
                chance.choice((0xC1, 0xC3, 0xC9, 0xDC, 0xE0, 0xE1, 0xFE)), chance.randbytes(chance.randrange(9))
            )
            some.insert(chance.randrange(len(some) + 1), chance.choice((b"", made, b"\xff\xd0", b"\0", made[:-1])))
            changed = photo[:2] + b"".join(some) + photo[at:]
            plain = containers.plain_jpeg(changed)
            if plain is not None:
                try:
                    with picture.opened(changed) as opened:
                        opened.decoded()
                except InvalidInput:
                    continue
                height, width, orientation = plain
                assert opened.size == ((width, height) if orientation in picture.TURNING else (height, width))
                agreed += 1
    assert agreed > 200
