"""What is said of weights, by where they came from."""

from __future__ import annotations

from pathlib import Path

import pytest

from depthface.weights import Folder, Hub, Random, Synthetic, depth_label_of, is_meaningful, label_of, warning_of


@pytest.mark.parametrize(
    ("weights", "origin", "label"),
    [
        (Random(), "random, seed 0", "RANDOM WEIGHTS"),
        (Random(7), "random, seed 7", "RANDOM WEIGHTS"),
        (Synthetic(), "synthetic", "SYNTHETIC WEIGHTS"),
        (Hub("random-people/model@1"), "random-people/model@1", None),
        (Folder(Path("synthetic"), "folder synthetic"), "folder synthetic", None),
    ],
    ids=str,
)
def test_only_the_weights_of_nobody_are_warned_of(weights, origin, label):
    assert weights.origin == origin
    assert label_of(origin) == label
    assert depth_label_of(origin) == (label and f"{label}: NOT A DEPTH MAP")
    assert is_meaningful(origin) is (label is None)
    assert (warning_of(origin) or "").startswith(label or "")
