"""What is done before the networks, against `transformers`: to the bit, to the token."""

from __future__ import annotations

import json
from io import BytesIO

import numpy as np
import pytest
from fixtures.clip import TEXTS, real_tokenizer
from fixtures.photos import VARIETY, encoded, photo, with_orientation
from PIL import Image, ImageOps
from tokenizers import Tokenizer
from transformers import CLIPImageProcessorPil

from depthface.errors import InvalidImage
from depthface.families.clip import processing
from depthface.families.clip.card import FEWEST_TOKENS, TEXT_TOKENS
from depthface_standins.clip import architectures, synthetic

LENGTHS = (*range(FEWEST_TOKENS, TEXT_TOKENS, FEWEST_TOKENS), TEXT_TOKENS)

SIZES = ((1, 1), (1, 7), (3, 2), (223, 225), (224, 224), (225, 224), (301, 299), (333, 1001), (2000, 97), (50, 2500))


def expected(picture: Image.Image) -> np.ndarray:
    processor = CLIPImageProcessorPil(do_rescale=False, do_normalize=False)
    picture = picture.convert("RGB")  # as `transformers.image_utils.load_image` does, before the processor sees it
    return np.moveaxis(np.asarray(processor(picture)["pixel_values"][0]), 0, -1)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: "×".join(map(str, size)))
def test_the_square_is_the_processors_to_the_bit(size):
    picture = photo().resize(size)
    np.testing.assert_array_equal(processing.preprocess(encoded(picture, "PNG")), expected(picture))


@pytest.mark.parametrize("name", [name for name in VARIETY if name != "16-bit PNG"])
def test_a_file_of_any_kind_is_seen_as_the_processor_sees_it(name):
    data = VARIETY[name]
    picture = ImageOps.exif_transpose(Image.open(BytesIO(data)))
    np.testing.assert_array_equal(processing.preprocess(data), expected(picture))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photo_is_seen_upright(orientation):
    data = with_orientation(orientation)
    picture = ImageOps.exif_transpose(Image.open(BytesIO(data)))
    np.testing.assert_array_equal(processing.preprocess(data), expected(picture))


def test_below_fp32_the_square_is_nearly_the_same():
    data = encoded(photo("rocket.jpg"), "PNG")
    off = np.abs(processing.preprocess(data, "bf16").astype(int) - processing.preprocess(data))
    assert 0 < off.max() <= 2


def test_a_photo_that_is_nearly_a_line_is_refused_and_told_why():
    with pytest.raises(InvalidImage, match="50 times"):
        processing.preprocess(encoded(photo().resize((10, 501)), "PNG"))


@pytest.fixture(scope="module")
def served():
    return processing.tokenizer_from_bytes(real_tokenizer().backend_tokenizer.to_str().encode())


def assert_same(served, text):
    wanted = real_tokenizer()(text, padding="max_length", truncation=True, max_length=TEXT_TOKENS)["input_ids"]
    got = processing.read(served, text)
    assert got.tokens.dtype == np.int32
    assert len(got.tokens) in LENGTHS
    assert processing.filled(got.tokens, TEXT_TOKENS).tolist() == wanted, repr(text)
    whole = real_tokenizer()(text)["input_ids"]
    assert got.cut == max(0, len(whole) - TEXT_TOKENS), repr(text)
    assert len(got.tokens) - len(whole) < FEWEST_TOKENS, repr(text)


def test_the_vocabulary_is_clips_own(served):
    """The numbers that OpenAI's model card shows the tokens of."""
    expected = [49406, 320, 1125, 539, 320, 2368, 49407, 49407]
    assert processing.read(served, "a photo of a cat").tokens.tolist() == expected


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: ascii(text[:20]))
def test_the_tokens_are_the_references(served, text):
    assert_same(served, text)


def test_the_tokens_of_anything_are_the_references(served):
    generator = np.random.default_rng(0)
    ranges = [(0, 0x80), (0, 0x250), (0x370, 0x700), (0x3000, 0x9FFF), (0x1F300, 0x1FAFF)]
    for _ in range(300):
        low, high = ranges[generator.integers(len(ranges))]
        codes = generator.integers(low, high, generator.integers(1, 120))
        assert_same(served, "".join(map(chr, codes)))


def test_the_random_weights_tokenizer_has_clips_numbers_for_signs(served):
    made = processing.tokenizer_from_bytes(architectures.byte_tokenizer())
    for text in ("x", "! ? 7", "é", "x 😀"[:1]):
        got = processing.read(made, text).tokens
        assert (got[0], got[-1]) == (49406, 49407)
    assert processing.read(made, "x ! 7").tokens.tolist() == processing.read(served, "x ! 7").tokens.tolist()
    assert len({tuple(processing.read(made, text).tokens) for text in TEXTS[:16]}) >= 14


@pytest.mark.parametrize("made", [architectures.byte_tokenizer, synthetic.tokenizer])
def test_what_is_too_long_is_cut_before_the_end(made):
    document = json.loads(made())
    end = document["model"]["vocab"]["<|endoftext|>"]
    tokenizer = processing.tokenizer_from_bytes(made())
    long = processing.read(tokenizer, "red circle " * 500)
    assert (long.tokens == end).nonzero()[0].tolist() == [TEXT_TOKENS - 1]
    assert long.cut == len(Tokenizer.from_str(made().decode()).encode("red circle " * 500)) - TEXT_TOKENS
    short = processing.read(tokenizer, "red")
    assert (short.tokens[-1], len(short.tokens), short.cut) == (end, FEWEST_TOKENS, 0)


def test_another_tokenizer_in_the_same_place_is_read_anew(tmp_path):
    """As after an export in the place of an older one, under a server."""
    path = tmp_path / "tokenizer.json"
    path.write_bytes(synthetic.tokenizer())
    first = processing.tokenizer(path)
    assert processing.tokenizer(path) is first
    aside = tmp_path / "aside"
    aside.write_bytes(architectures.byte_tokenizer())
    aside.replace(path)
    assert processing.read(processing.tokenizer(path), "x").tokens[0] == 49406
