"""End to end through Triton against the `transformers` depth pipeline, on the same weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from fixtures.exporting import export_apart, random_sources
from fixtures.machine import HAS_BF16
from fixtures.photos import VARIETY, difference, encoded, photo
from fixtures.serving import Server, serving
from PIL import Image, ImageOps

from depthface.families import card_named
from depthface.families.depth_anything_v2 import parity, processing
from depthface.processor import multiplies_bf16
from depthface_client import Client

# facts: two float32 implementations may put a value on either side of a floor, no more.
MAX_LEVELS = 1
MAX_SHARE = 1e-3


@pytest.fixture
def client(true_server: Server) -> Iterator[Client]:
    with Client(true_server.host) as client:
        yield client


# Of the photos that are stored turned one is enough here: each is compared with the upright photo below.
@pytest.mark.parametrize("name", [name for name in VARIETY if not name.startswith("EXIF") or name == "EXIF 6"])
def test_png8_equals_the_pipeline(name, client, reference):
    png = client.depth_png(VARIETY[name], bits=8)
    largest, share = difference(png, reference(VARIETY[name]))
    assert largest <= MAX_LEVELS
    assert share < MAX_SHARE


def test_real_photographs_equal_the_pipeline(client, reference, real_photos: list[Path]):
    for path in real_photos:
        largest, share = difference(client.depth_png(path, bits=8), reference(path.read_bytes()))
        assert (largest <= MAX_LEVELS, share < MAX_SHARE) == (True, True), path.name


@pytest.fixture(scope="module")
def exact() -> Callable[[np.ndarray], np.ndarray]:
    """The reference on the true network's weights, computed once: `(h, w, 3) uint8` to `(1, h, w) float32`."""
    card = card_named("depth_anything_v2_small")
    reference = random_sources(card)[card.networks[0].name].reference
    found: dict[bytes, np.ndarray] = {}

    def exact(pixels: np.ndarray) -> np.ndarray:
        name = repr(pixels.shape).encode() + pixels.tobytes()
        if name not in found:
            found[name] = reference(pixels[None])
        return found[name]

    return exact


@pytest.mark.slow
@pytest.mark.parametrize(
    "precision",
    ["fp16", "int8", pytest.param("bf16", marks=pytest.mark.skipif(not HAS_BF16, reason="this processor has no bf16"))],
)
def test_other_precisions_are_within_the_card_end_to_end(precision, shared, exact, tmp_path):
    """The served map against the fp32 reference on the same photo, in fractions of its range; and, on the very pixels
    that the network saw, so far from it that fp32 cannot have been served in its place. For bf16 it is, where that is
    no quicker."""
    card = card_named("depth_anything_v2_small")
    export_apart(shared, tmp_path, card.name, precision)
    with serving(tmp_path) as server, Client(server.host) as client:
        for name in ("landscape JPEG", "tiny 40×30", "RGBA PNG"):
            served = client.depth(VARIETY[name]).array[None]
            wanted, seen = (processing.preprocess(VARIETY[name], each)[0] for each in ("fp32", precision))
            for metric, value in parity.measure(exact(wanted), served).items():
                assert value <= card.tolerances[precision][metric], (name, metric)
            # Ten times what fp32 may be off by.
            is_further = parity.measure(exact(seen), served)["mean_error"] > 2e-5
            assert is_further == (precision != "bf16" or multiplies_bf16()), name


def test_the_map_has_enough_levels_to_compare(client):
    assert len(np.unique(Image.open(BytesIO(client.depth_png(VARIETY["square PNG"], bits=8))))) > 200


def test_16_bit_grey_is_scaled_where_pillow_would_clip_it(client, reference):
    """Pillow turns every 16-bit grey above 255 to white; the picture meant is the one with the high bytes."""
    grey = photo().convert("L")
    sixteen = encoded(Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), "PNG")
    largest, share = difference(client.depth_png(sixteen, bits=8), reference(encoded(grey, "PNG")))
    assert largest <= MAX_LEVELS
    assert share < MAX_SHARE


def test_png16_holds_the_same_picture_as_png8(client):
    sixteen = np.asarray(Image.open(BytesIO(client.depth_png(VARIETY["landscape JPEG"], bits=16))))
    eight = np.asarray(Image.open(BytesIO(client.depth_png(VARIETY["landscape JPEG"], bits=8))))
    assert sixteen.dtype == np.uint16
    assert (sixteen.min(), sixteen.max()) == (0, 65535)
    assert len(np.unique(sixteen)) > 10_000
    assert np.abs(sixteen // 257 - eight.astype(int)).max() <= 1


def test_result_makes_the_same_pngs_as_the_server(client):
    depth = client.depth(VARIETY["portrait JPEG"])
    ours = np.asarray(Image.open(BytesIO(depth.png16()))).astype(int)
    server = np.asarray(Image.open(BytesIO(client.depth_png(VARIETY["portrait JPEG"], bits=16)))).astype(int)
    # float32 over four taps in another order: a few of 65536 levels.
    assert np.abs(ours - server).max() <= 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_applied_once(server, orientation):
    """A photo stored turned and marked so gives the depth of the upright photo; the tiny network will do for that."""
    turned = VARIETY[f"EXIF {orientation}"]
    upright = encoded(ImageOps.exif_transpose(Image.open(BytesIO(turned))), "PNG")
    with Client(server.host) as client:
        expected = Image.open(BytesIO(client.depth_png(upright, bits=8)))
        assert len(np.unique(expected)) > 100
        largest, share = difference(client.depth_png(turned, bits=8), expected)
    assert largest <= MAX_LEVELS
    assert share < MAX_SHARE


def test_a_fast_decode_is_asked_for_and_its_error_is_as_stated(client):
    """Half a level of 255 on average, as the SDK says; and not what a request that does not ask for it gets."""
    large = encoded(photo().convert("RGB").resize((3000, 2250)), "JPEG", quality=90)
    plain, fast = (client.depth(large, fast_decode=wish) for wish in (False, True))
    assert fast.size == plain.size == (2250, 3000)
    error = np.abs(fast.array - plain.array) / np.ptp(plain.array) * 255
    assert 0 < error.mean() < 0.6
    again = client.depth(large)
    np.testing.assert_array_equal(again.array, plain.array)
