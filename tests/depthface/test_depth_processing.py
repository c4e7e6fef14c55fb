"""The maths round the network, against transformers and torch themselves."""

from __future__ import annotations

import asyncio
from io import BytesIO

import numpy as np
import pytest
import torch
from fixtures.photos import VARIETY, encoded, photo
from PIL import Image
from transformers import DPTImageProcessorPil

from depthface import colormap, limits
from depthface.contract import Parameters
from depthface.errors import InvalidImage, InvalidInput
from depthface.families.depth_anything_v2 import network, pipeline, processing
from depthface.resample import upsample_bicubic
from depthface.tasks.depth import Depth

# preprocessor_config.json of depth-anything/Depth-Anything-V2-Small-hf: `image_mean`, `image_std`.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="module")
def processor():
    return DPTImageProcessorPil(
        size={"height": 518, "width": 518},
        ensure_multiple_of=14,
        keep_aspect_ratio=True,
        image_mean=list(MEAN),
        image_std=list(STD),
    )


def test_grid_equals_the_processor_up_to_three_to_one(processor):
    random = np.random.default_rng(0)
    for _ in range(60):
        height = int(random.integers(20, 700))
        width = int(np.clip(height * 3 ** random.uniform(-1, 1), 20, 1600))
        expected = processor(images=np.zeros((height, width, 3), np.uint8), return_tensors="np")["pixel_values"].shape
        assert processing.grid_size(height, width) == expected[2:], (height, width)


@pytest.mark.parametrize(
    ("photo_size", "grid"),
    [((27, 2000), (14, 518)), ((4000, 300), (1554, 112)), ((300, 4000), (112, 1554)), ((1, 1), (518, 518))],
)
def test_grid_is_clamped_at_both_ends(photo_size, grid):
    assert processing.grid_size(*photo_size) == grid


@pytest.mark.parametrize("name", ["landscape JPEG", "portrait JPEG", "tiny 40×30", "4000×3000", "RGBA PNG"])
def test_preprocess_equals_the_processor(name, processor):
    pixels, size = processing.preprocess(VARIETY[name])
    picture = Image.open(BytesIO(VARIETY[name])).convert("RGB")
    expected = processor(images=picture, return_tensors="np")["pixel_values"][0]
    normalised = (pixels / 255 - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(normalised.transpose(2, 0, 1), expected, atol=1e-6)
    assert size == picture.size[::-1]


def test_the_network_normalises_by_the_published_numbers():
    assert tuple(network.MEAN) == MEAN
    assert tuple(network.STD) == STD


@pytest.mark.parametrize(("precision", "exact"), [(None, True), ("fp32", True), ("bf16", False), ("fp16", False)])
def test_the_resize_is_exact_where_the_network_is(precision, exact):
    asked = []

    async def infer(_, inputs, __):
        asked.append(inputs["pixels"][0])
        return {"depth": np.zeros((1, 4, 4), np.float32)}

    parameters = Parameters(networks={"network": "network"}, precision=precision)
    asyncio.run(pipeline.estimate(["depth"], infer, parameters, VARIETY["4000×3000"]))
    reference, _ = processing.preprocess(VARIETY["4000×3000"])
    assert np.array_equal(asked[0], reference) == exact


@pytest.mark.parametrize("name", ["4000×3000", "landscape JPEG"])
def test_a_fast_decode_leaves_out_what_the_grid_does_not_need(monkeypatch, name):
    """Never less than two pixels for one of the grid, on each side."""
    decoded = []
    whole = processing.image.decode
    monkeypatch.setattr(
        processing.image, "decode", lambda *args, **options: decoded.append(whole(*args, **options)) or decoded[-1]
    )
    plain, fast = (processing.preprocess(VARIETY[name], fast_decode=wish) for wish in (False, True))
    assert plain[0].shape == fast[0].shape
    assert plain[1] == fast[1] == decoded[0].shape[:2]
    grid = np.array(plain[0].shape[:2])
    if name == "4000×3000":
        assert (np.array(decoded[1].shape[:2]) >= 2 * grid).all()
        assert np.prod(decoded[1].shape[:2]) < np.prod(decoded[0].shape[:2]) / 3
    else:  # there is nothing to leave out
        assert decoded[1].shape[:2] == decoded[0].shape[:2]


@pytest.mark.parametrize("size", [(1, 1), (13, 200), (27, 2000), (4000, 300)])
def test_photos_without_a_picture_in_them_are_refused(size):
    with pytest.raises(InvalidImage, match=f"{size[1]}×{size[0]}"):
        processing.preprocess(encoded(photo().resize(size[::-1]), "PNG"))


@pytest.mark.parametrize("size", [(518, 700), (1280, 1920), (200, 100), (37, 53)])
def test_both_upsamplings_equal_torch(size):
    depth = np.random.default_rng(0).normal(size=(70, 98)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(depth)[None, None], size=size, mode="bicubic", align_corners=False
    )[0, 0].numpy()
    span = np.ptp(expected)
    assert np.abs(processing.upsample(depth, *size) - expected).max() < 2e-5 * span
    assert np.abs(upsample_bicubic(depth, *size) - expected).max() < 2e-5 * span


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(("low", "span"), [(3, 2), (0, 1e-30), (1e4, 0.5), (-7, 1e6)])
def test_grey_levels_round_down_and_span_the_range(dtype, low, span):
    depth = (low + span * np.random.default_rng(0).random((37, 53))).astype(np.float32)
    large = torch.nn.functional.interpolate(
        torch.from_numpy(depth.astype(np.float64))[None, None], size=(300, 400), mode="bicubic", align_corners=False
    )[0, 0].numpy()
    expected = np.floor((large - large.min()) / np.ptp(large) * np.iinfo(dtype).max)
    got = processing.grey_levels(depth, (300, 400), dtype)
    assert got.dtype == dtype
    assert (got.min(), got.max()) == (0, np.iinfo(dtype).max)
    off = np.abs(got - expected)
    assert off.max() <= (1 if dtype == np.uint8 else 2)
    assert (off > 0).mean() < (0.001 if dtype == np.uint8 else 0.15)


@pytest.mark.parametrize("value", [0.0, 7.5, np.inf, np.nan])
def test_a_depth_that_is_constant_or_not_finite_is_black(value):
    depth = np.full((5, 6), value, np.float32)
    assert not processing.grey_levels(depth, (30, 40), np.uint8).any()
    depth[0, 0] = np.nan
    assert not processing.grey_levels(depth, (30, 40), np.uint16).any()


@pytest.mark.parametrize("value", [0.0, 0.1, 1.0, 7.3])
def test_a_constant_map_gives_a_black_png(value):
    depth = np.full((14, 28), value, np.float32)
    png = processing.postprocess({"png16"}, depth, (100, 333))["png16"]
    assert not np.asarray(Image.open(BytesIO(png))).any()


def test_postprocess_makes_only_what_is_asked_for():
    depth = np.random.default_rng(0).random((14, 28)).astype(np.float32)
    size = (30, 60)
    assert set(processing.postprocess({"png8"}, depth, size)) == {"png8"}
    assert set(processing.postprocess({"depth"}, depth, size)) == {"depth"}
    assert set(processing.postprocess({"png16", "png8", "depth"}, depth, size)) == {"png16", "png8", "depth"}


@pytest.mark.parametrize("size", [(100, 101), (2**31 - 1, 2**31 - 1), (0, 50), (-50, -50), (20, 201)], ids=str)
def test_a_depth_is_made_of_no_size_that_no_photo_could_have(monkeypatch, size):
    """Whoever asks the step after the network itself may say any."""
    monkeypatch.setattr(limits, "current", lambda: limits.Limits(max_pixels=100 * 100))
    made = []
    monkeypatch.setattr(pipeline, "postprocess", lambda wanted, depth, size: made.append(size) or {})

    def finish(photo_size: tuple[int, int]) -> None:
        depth = np.zeros((14, 14), np.float32)
        asyncio.run(pipeline.finish({"png8"}, None, Parameters(), depth, np.array(photo_size, np.int32)))

    finish((100, 100))
    with pytest.raises(InvalidInput, match=f"{size[1]}×{size[0]}"):
        finish(size)
    assert made == [(100, 100)]


@pytest.fixture
def result() -> Depth:
    array = np.add.outer(np.arange(14), np.arange(28)).astype(np.float32)
    return Depth(array=array, size=(60, 120), weights="random, seed 0")


@pytest.mark.parametrize(
    ("wanted", "asks", "encodes"),
    [
        ((), 0, 0),
        (("size",), 0, 0),
        (("depth",), 1, 0),
        (("depth", "size"), 1, 0),
        (("png8",), 1, 1),
        (("png16", "size"), 1, 1),
        (("depth", "size", "png16", "png8"), 1, 2),
    ],
    ids=str,
)
def test_what_is_not_wanted_is_neither_asked_of_the_network_nor_encoded(monkeypatch, wanted, asks, encodes):
    asked, encoded_ = [], []

    async def infer(name, inputs, outputs):
        asked.append((name, tuple(inputs), tuple(outputs)))
        return {"depth": np.add.outer(np.arange(4), np.arange(4)).astype(np.float32)[None]}

    whole = processing.image.encode_png
    monkeypatch.setattr(processing.image, "encode_png", lambda picture: encoded_.append(1) or whole(picture))
    given = asyncio.run(pipeline.estimate(wanted, infer, Parameters(networks={"network": "n"}), VARIETY["tiny 40×30"]))
    assert asked == [("n", ("pixels",), ("depth",))] * asks
    assert len(encoded_) == encodes
    assert set(given) == {*wanted, "size"}
    assert given["size"].tolist() == [30, 40]


def test_result_at_the_photos_size(result):
    assert result.resized().shape == (60, 120)
    normalized = result.normalized()
    assert (normalized.min(), normalized.max()) == (0, 1)
    assert normalized[-1, -1] > normalized[0, 0]
    assert np.asarray(Image.open(BytesIO(result.png16()))).dtype == np.uint16
    assert not result.is_meaningful


@pytest.mark.parametrize("offset", [0, 100, 10_000, -10_000])
def test_a_result_with_an_offset_gives_the_servers_levels(offset):
    array = np.random.default_rng(0).random((14, 28)).astype(np.float32) + np.float32(offset)
    ours = np.asarray(Image.open(BytesIO(Depth(array, (60, 120), "x").png16()))).astype(int)
    assert np.abs(ours - processing.grey_levels(array, (60, 120), np.uint16)).max() <= 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_result_that_is_no_number_makes_no_picture(result, value):
    array = result.array.copy()
    array[3, 4] = value
    broken = Depth(array, result.size, result.weights)
    for make in (broken.normalized, broken.png16, broken.preview):
        with pytest.raises(InvalidInput, match="finite"):
            make()


def test_preview_is_red_where_near_and_blue_where_far(result):
    picture = np.asarray(result.preview()).astype(int)
    assert picture.shape == (60, 120, 3)
    assert picture[-1, -1, 0] > picture[-1, -1, 2]
    assert picture[0, 0, 2] > picture[0, 0, 0]


def test_an_unknown_colour_map_is_named_with_those_there_are(result):
    with pytest.raises(InvalidInput, match="spectral"):
        result.preview("rainbow")
    assert colormap.apply(np.array([0.0, 1.0], np.float32), "grey").tolist() == [[0] * 3, [255] * 3]


def test_a_constant_result_is_black():
    flat = Depth(array=np.ones((14, 14), np.float32), size=(20, 20), weights="x")
    assert not flat.normalized().any()
