"""What a gateway reads of a photo itself: its size; on the event loop only where that is quick whatever it is sent."""

from __future__ import annotations

import asyncio
import random
from io import BytesIO

import pytest
from PIL import Image

from depthface import containers
from depthface.errors import InvalidInput
from depthface_gateway.photos import upright_size

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
    ],
    ids=["baseline", "progressive", "turned", "with a preview"],
)
def test_a_usual_jpeg_wakes_no_thread(threads, photo, size):
    assert asyncio.run(upright_size(photo)) == size
    assert threads == []


@pytest.mark.parametrize(
    "photo",
    [
        *map(encoded, ("PNG", "WebP", "TIFF", "GIF", "BMP", "AVIF")),
        with_head(*[segment(0xFE, b"")] * containers._LIGHT_SEGMENTS),
        with_head(*[segment(0xE2, b"a" * 60_000)] * 2),
        with_head(b"\xff" * 5),
        with_head(b"\xff\xd0"),
        encoded("JPEG") + bytes(containers._LIGHT_BYTES),
    ],
    ids=["PNG", "WebP", "TIFF", "GIF", "BMP", "AVIF", "many", "long", "filled", "alone", "large"],
)
def test_whatever_may_take_long_is_read_in_a_thread(threads, photo):
    assert asyncio.run(upright_size(photo)) == (40, 30)
    assert len(threads) == 1


@pytest.mark.parametrize("photo", [b"", b"\xff\xd8", b"\xff\xd8\xff", encoded("JPEG")[:30], b"no photo"])
def test_what_is_no_photo_is_refused(photo):
    with pytest.raises(InvalidInput):
        asyncio.run(upright_size(photo))


def test_what_is_read_at_once_has_few_pieces_however_it_was_made(monkeypatch):
    """The bound counts pieces as the reader of heads does, and no other walk through the same bytes has more."""
    counted = 0

    def count(self: object, parts: int = 1) -> None:
        nonlocal counted
        counted += parts

    monkeypatch.setattr(containers._Parts, "count", count)
    chance = random.Random(0)
    light = 0
    for _ in range(3000):
        pieces = [
            chance.choice(
                (
                    segment(chance.choice((0xC0, 0xC4, 0xDA, 0xDB, 0xE1, 0xFE)), chance.randbytes(chance.randrange(9))),
                    # One piece or 200, as it is read: by its length, or by the marks within it.
                    many := segment(chance.choice((0xE0, 0x01, 0xD0, 0xD8)), b"\xff\xd0" * chance.randrange(200)),
                    b"\0" + many[1:],
                    bytes([0xFF, chance.randrange(256)]),
                    bytes([0xFF, chance.randrange(256), 0, chance.randrange(6)]),
                    b"\xff" * chance.randrange(4),
                    b"\x00",
                )
            )
            for _ in range(chance.randrange(6))
        ]
        photo = b"\xff\xd8" + b"".join(pieces) + segment(0xDA, b"") + b"\xff\xd0" * 500
        if containers.is_light(photo):
            light += 1
            counted = 0
            containers.lean(photo, "JPEG")
            assert counted <= containers._LIGHT_SEGMENTS, photo.hex()
    assert light > 100
