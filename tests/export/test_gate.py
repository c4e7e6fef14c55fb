"""The gate of every export: errors of a known size are planted, and each must be refused or let through.

The sizes are written out here, on both sides of what each card promises. So a tolerance that is loosened, a metric that
is no longer looked at, and a value that is no number are noticed, whatever the networks themselves do.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from depthface.errors import ParityError
from depthface.families import all_cards, card_named, module_of
from depthface.spec import ModelCard, Source
from depthface.weights import Random
from depthface_export import validate
from depthface_export.job import Job, NetworkJob
from depthface_export.validate import Arrays, Run

DEPTH_CARDS = ("depth_anything_v2_small", "depth_anything_v2_base", "depth_anything_v2_large")
CLIP_CARDS = ("clip_vit_b_32", "clip_vit_b_32_laion2b", "clip_siglip2_b_16")
PACKS = ("buffalo_l", "buffalo_m", "buffalo_s", "buffalo_sc", "antelopev2")


def judge(card: ModelCard, kind: str, precision: str, reference: object, run: Run) -> None:
    """Put a network to the gate; raises what the gate raises."""
    (network,) = [network for network in card.networks if network.name.endswith(kind)]
    nowhere = Path("nowhere")
    job = Job(card, Random(), nowhere, precision)
    assert validate.prove(NetworkJob(job, network, Source(None, reference), nowhere), run)


# Depth: a ramp from 0 to 1, so that an error is a fraction of the range.


def ramp(pixels: np.ndarray) -> np.ndarray:
    batch, height, width, _ = pixels.shape
    one = np.linspace(0, 1, height * width, dtype=np.float32).reshape(height, width)
    return np.stack([one] * batch)


def one_pixel(depth: np.ndarray, size: float) -> None:
    depth[-1, depth.shape[1] // 2, depth.shape[2] // 2] += size


def a_quarter(depth: np.ndarray, size: float) -> None:
    """The nearest quarter of each map, by four times as much: the mean is that, the median nothing."""
    depth[depth >= 0.75] += 4 * size


def farthest_pixels(depth: np.ndarray, share: float) -> None:
    """There a small difference is a large ratio."""
    for one in depth:
        flat = one.reshape(-1)
        flat[: round(share * flat.size)] += 0.028


def spoiled(spoil: Callable[[np.ndarray, float], None], size: float) -> Run:
    def run(inputs: Arrays) -> Arrays:
        depth = ramp(inputs["pixels"])
        spoil(depth, size)
        return {"depth": depth}

    return run


DEPTH_ERRORS = [
    ("fp32", "max_error", one_pixel, 4e-5, 6e-5),
    ("fp32", "mean_error", a_quarter, 1.5e-6, 3e-6),
    ("fp16", "max_error", one_pixel, 4e-3, 6e-3),
    ("fp16", "mean_error", a_quarter, 8e-4, 1.2e-3),
    ("bf16", "max_error", one_pixel, 2.5e-2, 3.5e-2),
    ("bf16", "mean_error", a_quarter, 3.5e-3, 4.5e-3),
    ("bf16", "delta1_loss", farthest_pixels, 5e-4, 2e-3),
    ("int8", "max_error", one_pixel, 8e-2, 1.2e-1),
    ("int8", "mean_error", a_quarter, 8e-3, 1.2e-2),
    ("int8", "delta1_loss", farthest_pixels, 5e-4, 2e-3),
]


@pytest.mark.parametrize(
    ("precision", "metric", "spoil", "good", "bad"), DEPTH_ERRORS, ids=[f"{row[0]} {row[1]}" for row in DEPTH_ERRORS]
)
def test_depth_is_refused_past_its_tolerance_and_not_before(precision, metric, spoil, good, bad):
    card = card_named(DEPTH_CARDS[0])
    judge(card, "_network", precision, ramp, spoiled(spoil, good))
    with pytest.raises(ParityError, match=metric):
        judge(card, "_network", precision, ramp, spoiled(spoil, bad))


# Faces: a stand-in of InsightFace's model that always says the same.

BOXES = np.array([[10, 20, 110, 150, 0.9], [200, 30, 260, 99, 0.8], [5, 300, 50, 350, 0.7]], np.float32)
KEYPOINTS = np.arange(30, dtype=np.float32).reshape(3, 5, 2)


def detector() -> SimpleNamespace:
    return SimpleNamespace(
        taskname="detection", static_input_size=None, detect=lambda *_, **__: (BOXES.copy(), KEYPOINTS.copy())
    )


def detected(**errors: float) -> Run:
    """What the graph gives; the last face of the last photo is off by so much."""

    def run(inputs: Arrays) -> Arrays:
        count = len(inputs["pixels"])
        boxes, scores, keypoints = (np.stack([value] * count) for value in (BOXES[:, :4], BOXES[:, 4], KEYPOINTS))
        counts = np.full((count, 1), len(BOXES), np.int32)
        for name, array in (("boxes", boxes), ("scores", scores), ("keypoints", keypoints), ("count", counts)):
            array[-1, ..., -1:].reshape(-1)[-1:] += np.asarray(errors.get(name, 0)).astype(array.dtype)
        if (inputs["scale"] < 0).all():
            counts[:] = errors.get("without_photo", 0)
        return {"boxes": boxes, "scores": scores, "keypoints": keypoints, "count": counts}

    return run


FIXED = np.random.default_rng(0).normal(size=512).astype(np.float32)


def regressor(task: str, columns: int, side: int) -> SimpleNamespace:
    """ArcFace, landmarks or attributes, by the length of the output."""
    output = FIXED[:columns] / np.linalg.norm(FIXED[:columns])
    session = SimpleNamespace(run=lambda *_: [output[None].copy()])
    return SimpleNamespace(
        taskname=task, input_size=(side, side), input_mean=127.5, input_std=128.0, input_name="x", output_names=["y"],
        session=session,
    )  # fmt: skip


def regressed(reference: SimpleNamespace, change: Callable[[np.ndarray], np.ndarray]) -> Run:
    def run(inputs: Arrays) -> Arrays:
        (output,) = reference.session.run(None, {})
        rows = np.concatenate([output] * len(inputs["faces"]))
        rows[-1] = change(rows[-1])
        return {"out": rows.astype(np.float32)}

    return run


def turned(loss: float) -> Callable[[np.ndarray], np.ndarray]:
    """A unit vector to one whose cosine with it is 1 − loss."""

    def change(row: np.ndarray) -> np.ndarray:
        other = np.roll(row, 1) - (np.roll(row, 1) @ row) * row
        return (1 - loss) * row + np.sqrt(1 - (1 - loss) ** 2) * other / np.linalg.norm(other)

    return change


def last_one(size: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda row: np.append(row[:-1], row[-1] + size)


DETECTOR_ERRORS = [
    ("fp32", "box_error_px", "boxes", 0.008, 0.013),
    ("fp32", "keypoint_error_px", "keypoints", 0.008, 0.013),
    ("fp32", "score_error", "scores", 8e-6, 1.3e-5),
    ("fp32", "faces_differ", "count", 0, -1),
    ("fp32", "faces_differ", "without_photo", 0, 1),
    ("bf16", "box_error_px", "boxes", 2.5, 3.5),
    ("bf16", "keypoint_error_px", "keypoints", 1.5, 2.5),
    ("bf16", "score_error", "scores", 8e-3, 1.3e-2),
    ("bf16", "faces_differ", "count", 0, -1),
]


@pytest.mark.parametrize(
    ("precision", "metric", "output", "good", "bad"), DETECTOR_ERRORS, ids=[" ".join(r[:3]) for r in DETECTOR_ERRORS]
)
def test_a_detector_is_refused_past_its_tolerance_and_not_before(precision, metric, output, good, bad):
    card = card_named(PACKS[0])
    judge(card, "_detector", precision, detector(), detected(**{output: good}))
    with pytest.raises(ParityError, match=metric):
        judge(card, "_detector", precision, detector(), detected(**{output: bad}))


CROP_ERRORS = [
    ("fp32", "cosine_loss", ("recognition", 512, 112), "_recognizer", turned, 8e-6, 1.3e-5),
    ("bf16", "cosine_loss", ("recognition", 512, 112), "_recognizer", turned, 4e-3, 6e-3),
    ("fp32", "landmark_error_px", ("landmark_2d_106", 212, 192), "_landmarks_106", last_one, 0.008 / 96, 0.013 / 96),
    ("fp32", "landmark_error_px", ("landmark_3d_68", 309, 192), "_landmarks_68", last_one, 0.008 / 96, 0.013 / 96),
    ("fp32", "attribute_error", ("genderage", 3, 96), "_attributes", last_one, 8e-4, 1.3e-3),
]


@pytest.mark.parametrize(
    ("precision", "metric", "like", "kind", "change", "good", "bad"),
    CROP_ERRORS,
    ids=[f"{row[0]} {row[3].strip('_')}" for row in CROP_ERRORS],
)
def test_a_network_of_crops_is_refused_past_its_tolerance_and_not_before(
    precision, metric, like, kind, change, good, bad
):
    card, reference = card_named(PACKS[0]), regressor(*like)
    judge(card, kind, precision, reference, regressed(reference, change(good)))
    with pytest.raises(ParityError, match=metric):
        judge(card, kind, precision, reference, regressed(reference, change(bad)))


def test_a_detector_that_finds_no_face_in_any_photo_is_not_proven():
    blind = SimpleNamespace(
        taskname="detection", static_input_size=None, detect=lambda *_, **__: (BOXES[:0], KEYPOINTS[:0])
    )

    def nothing(inputs: Arrays) -> Arrays:
        return detected()(inputs) | {"count": np.zeros((len(inputs["pixels"]), 1), np.int32)}

    for precision in ("fp32", "bf16"):
        with pytest.raises(ParityError, match="faces_differ"):
            judge(card_named(PACKS[0]), "_detector", precision, blind, nothing)


@pytest.mark.parametrize(("change", "length"), [(turned(0.0), 1.02), (turned(0.5), 2.0)], ids=["alike", "turned"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_embedding_of_another_length_is_refused(precision, change, length):
    """Its product with a unit vector is no cosine: here it is above 1, and 1 of one that is turned by 60°."""
    card, reference = card_named(PACKS[0]), regressor("recognition", 512, 112)
    with pytest.raises(ParityError, match="cosine_loss"):
        judge(card, "_recognizer", precision, reference, regressed(reference, lambda row: length * change(row)))


def swapped(levels: int) -> tuple[SimpleNamespace, Run]:
    """INSwapper that paints everything grey, and a graph that is off by so many levels in one pixel."""
    picture = np.full((1, 3, 128, 128), 100.5 / 255, np.float32)
    session = SimpleNamespace(run=lambda *_: [picture])
    reference = SimpleNamespace(
        emap=np.eye(512, dtype=np.float32), input_names=["a", "b"], output_names=["c"], session=session
    )

    def run(inputs: Arrays) -> Arrays:
        faces = np.full_like(inputs["faces"], 100)
        faces[-1, -1, -1, -1] += levels
        return {"faces_out": faces}

    return reference, run


def test_a_swapper_is_refused_past_two_levels_and_not_before():
    judge(card_named("inswapper_128"), "_swapper", "fp32", *swapped(2))
    with pytest.raises(ParityError, match="swap_error_levels"):
        judge(card_named("inswapper_128"), "_swapper", "fp32", *swapped(3))


def test_a_swapper_whose_reference_gives_what_is_no_number_is_refused():
    """InsightFace itself makes a black pixel of it."""
    reference, _ = swapped(0)
    picture = np.zeros((1, 3, 128, 128), np.float32)
    picture[0, 1, 64, 64] = np.nan
    reference.session = SimpleNamespace(run=lambda *_: [picture])
    card = card_named("inswapper_128")
    with pytest.raises(ParityError, match="swap_error_levels"), np.errstate(invalid="ignore"):
        judge(card, "_swapper", "fp32", reference, lambda inputs: {"faces_out": np.zeros_like(inputs["faces"])})


# Embeddings: of a photo's vector the share `own` is an axis of its own, and the rest the same for all.


def axes(fed: np.ndarray, own: float) -> np.ndarray:
    """They come in batches of eight, or all at once."""
    found = np.sqrt(own) * np.eye(8, 512)[np.arange(len(fed)) % 8]
    found[:, -2] = np.sqrt(1 - own)
    return found.astype(np.float32)


def turned_away(loss: float, own: float) -> Run:
    """The last vector's own share is turned away from all others, by an angle whose cosine is 1 − `loss`."""

    def run(inputs: Arrays) -> Arrays:
        (fed,) = inputs.values()
        found = axes(fed, own)
        found[-1, :8] *= 1 - loss
        found[-1, -1] = np.sqrt(own * (1 - (1 - loss) ** 2))
        return {"embedding": found}

    return run


# Where a twentieth is their own, the vectors themselves stay well within `cosine_loss`.
EMBEDDING_ERRORS = [
    ("fp32", "cosine_loss", 1.0, 8e-7, 1.5e-6),
    ("fp32", "centred_loss", 0.05, 7e-6, 1.3e-5),
    ("fp16", "cosine_loss", 1.0, 8e-5, 1.5e-4),
    ("fp16", "centred_loss", 0.05, 7e-4, 1.3e-3),
    ("bf16", "cosine_loss", 1.0, 8e-4, 1.5e-3),
    ("bf16", "centred_loss", 0.05, 7e-3, 1.3e-2),
    ("int8", "cosine_loss", 1.0, 8e-3, 1.5e-2),
    ("int8", "centred_loss", 0.05, 3.5e-2, 6.5e-2),
]


@pytest.mark.parametrize(
    ("precision", "metric", "own", "good", "bad"), EMBEDDING_ERRORS, ids=[f"{r[0]} {r[1]}" for r in EMBEDDING_ERRORS]
)
def test_embeddings_are_refused_past_their_tolerance_and_not_before(precision, metric, own, good, bad):
    card = card_named(CLIP_CARDS[0])
    judge(card, "_image_network", precision, lambda fed: axes(fed, own), turned_away(good, own))
    with pytest.raises(ParityError, match=metric):
        judge(card, "_image_network", precision, lambda fed: axes(fed, own), turned_away(bad, own))


# By a ratio of 1.25 a pixel is off by 0.025 of the range at least: `max_error` refuses it before.
OUT_OF_REACH = {("fp32", "delta1_loss"), ("fp16", "delta1_loss")}


@pytest.mark.parametrize(
    ("name", "rows"),
    [(DEPTH_CARDS[0], DEPTH_ERRORS), (PACKS[0], DETECTOR_ERRORS + CROP_ERRORS), (CLIP_CARDS[0], EMBEDDING_ERRORS)],
)
def test_each_promise_of_a_card_has_its_row(name, rows):
    promised = {(precision, metric) for precision, most in card_named(name).tolerances.items() for metric in most}
    assert {(precision, metric) for precision, metric, *_ in rows} == promised - OUT_OF_REACH


@pytest.mark.parametrize("alike", [DEPTH_CARDS, PACKS, CLIP_CARDS], ids=["depth", "packs", "clip"])
def test_all_cards_of_a_kind_promise_the_same(alike):
    """What is shown above of one of them holds for each; and no card is left out."""
    first, *others = (all_cards()[name].tolerances for name in alike)
    assert others
    assert all(one == first for one in others)
    assert set(all_cards()) == {*DEPTH_CARDS, *PACKS, *CLIP_CARDS, "inswapper_128"}


# What is no number


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("of", ["export", "reference"])
def test_one_value_that_is_no_number_is_refused_wherever_it_is(value, of):
    def bad_depth(pixels: np.ndarray) -> np.ndarray:
        depth = ramp(pixels)
        depth[-1, -1, 0] = value
        return depth

    depth = card_named(DEPTH_CARDS[0])
    good_run, bad_run = spoiled(one_pixel, 0), lambda inputs: {"depth": bad_depth(inputs["pixels"])}
    with pytest.raises(ParityError):
        judge(depth, "_network", "int8", *((ramp, bad_run) if of == "export" else (bad_depth, good_run)))

    pack = card_named(PACKS[0])
    for name in ("boxes", "scores", "keypoints"):
        boxes, keypoints = BOXES.copy(), KEYPOINTS.copy()
        column = {"boxes": (1, 0), "scores": (1, 4)}
        if of == "reference" and name == "keypoints":
            keypoints[1, 1, 1] = value
        elif of == "reference":
            boxes[column[name]] = value
        bad = SimpleNamespace(
            taskname="detection", static_input_size=None, detect=lambda *_, found=(boxes, keypoints), **__: found
        )
        with pytest.raises(ParityError):
            judge(pack, "_detector", "bf16", bad, detected(**({name: value} if of == "export" else {})))

    for precision, _, like, kind, *_ in CROP_ERRORS:
        good = regressor(*like)
        bad = regressor(*like)
        spoilt = last_one(value)(good.session.run(None, {})[0][0]).astype(np.float32)
        bad.session = SimpleNamespace(run=lambda *_, row=spoilt: [row[None]])
        reference, run = (good, regressed(good, last_one(value))) if of == "export" else (bad, regressed(good, np.copy))
        with pytest.raises(ParityError), np.errstate(invalid="ignore"):
            judge(pack, kind, precision, reference, run)


def test_a_check_is_passed_up_to_its_tolerance_and_never_by_what_is_no_number():
    passed = [validate.Check("case", "metric", value, 0.5).passed for value in (0.0, 0.5, 0.5000001, np.inf, np.nan)]
    assert passed == [True, True, False, False, False]


def test_a_proof_of_nothing_is_none(monkeypatch):
    card = card_named(DEPTH_CARDS[0])
    monkeypatch.setattr(module_of(card, "parity"), "measurements", lambda *_: iter(()))
    with pytest.raises(ParityError, match="compared on nothing"):
        judge(card, "_network", "fp32", ramp, spoiled(one_pixel, 0))
