"""The drawn scene of the README's picture."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]


def test_the_scene_has_a_depth_from_far_to_near():
    spec = importlib.util.spec_from_file_location("parallax_scene", ROOT / "examples" / "parallax_scene.py")
    assert spec is not None
    assert spec.loader is not None
    scene = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(scene)
    photo, depth = scene.draw(72, 108)
    assert (photo.shape, photo.dtype, depth.shape, depth.dtype) == ((72, 108, 3), np.uint8, (72, 108), np.float32)
    assert (depth.min(), depth.max()) == (0, 1)
    assert len(np.unique(depth.round(1))) >= 8
    assert depth[:5, 60:].max() == 0  # sky
    assert np.median(depth[-2:]) > 0.9  # grass


def test_the_picture_in_the_docs_is_small_and_moves():
    path = ROOT / "docs" / "parallax.webp"
    assert path.stat().st_size < 1.5e6
    with Image.open(path) as picture:
        assert (picture.n_frames, picture.size) == (48, (1272, 280))
