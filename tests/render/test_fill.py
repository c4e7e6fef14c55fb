"""What stands behind a foreground, however few pixels of it are unknown."""

from __future__ import annotations

import numpy as np
import pytest

from depthface.cores import Cores
from depthface_render.fill import textured


@pytest.mark.parametrize("side_px", [1, 2, 5])
def test_few_unknown_pixels_on_many_cores_are_filled_as_on_one(monkeypatch, side_px):
    random = np.random.default_rng(0)
    colour = np.kron(random.integers(0, 256, (8, 8, 3)), np.ones((5, 5, 1))).astype(np.uint8)
    wanted = np.zeros(colour.shape[:2], bool)
    wanted[18 : 18 + side_px, 18 : 18 + side_px] = True
    filled = []
    for count in (1, 64):
        monkeypatch.setattr(Cores, "found", classmethod(lambda cls, count=count: Cores(count)))
        filled.append(textured(colour, ~wanted, wanted))
    assert np.array_equal(filled[0], filled[1])
    assert np.array_equal(filled[0][~wanted], colour[~wanted])
