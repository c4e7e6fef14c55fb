"""The camera: P(d) against its formula, and every preset's path against its own."""

from __future__ import annotations

from itertools import pairwise
from math import cos, isclose, pi, sin

import pytest

from depthface.errors import InvalidInput
from depthface_render import PRESETS, Motion, circle, dolly, horizontal, orbital, static, usual_path, vertical, zoom
from depthface_render.motion import HIGHEST, strongest_zoom

TIMES = (0.0, 0.1, 0.25, 0.4, 0.5, 0.77)
STRENGTHS = (0.3, 1.0)


@pytest.mark.parametrize("d", [0.0, 0.3, 1.0])
def test_rays_are_the_formula(d):
    m = Motion(0.3, 0.2, 0.4, 0.6, 0.9, (0.5, -0.2), (0.1, 0.05), (-0.1, 0.2))
    rays = m.coefficients()
    for axis, p in enumerate((0.7, -0.4)):
        expected = (
            m.zoom * p * (m.isometric + (1 - m.isometric) * (1 - m.height * d) / (1 - m.height * m.focus))
            + m.offset[axis] * m.height * (d - m.steady) / (1 - m.height * m.steady)
            + (1 - m.height * d) * m.centre[axis]
            + m.height * d * m.origin[axis]
        )
        found = p * (rays.scale + d * rays.scale_slope) + rays.shift[axis] + d * rays.shift_slope[axis]
        assert isclose(found, expected, abs_tol=1e-12)


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("i", STRENGTHS)
def test_presets_go_the_paths_of_their_formulas(t, i):
    base = Motion(phase=(0.1, 0.2))
    sine, cosine = sin(2 * pi * (t + 0.1)), cos(2 * pi * (t + 0.1))
    swung = {"steady": 0.3, "isometric": 0.6}
    expected = {
        horizontal: swung | {"offset": (0.8 * i * sine, 0)},
        vertical: swung | {"offset": (0, 0.8 * i * sin(2 * pi * (t + 0.2)))},
        circle: swung | {"offset": (i / 2 * cosine, i / 2 * sin(2 * pi * (t + 0.2)))},
        zoom: {"isometric": 0.8, "height": min(i, 0.9) / 2 * (1 + sine)},
        dolly: {"height": i / 3, "steady": 0.35, "focus": 0.35, "isometric": i / 2 * (1 + cosine)},
        orbital: {"steady": 0.3, "focus": 0.3, "zoom": 0.98, "isometric": 0.5 + i / 2 + i / 4 * cosine}
        | {"offset": (i / 4 * sine, 0)},
        static: {"height": 0.0},
    }
    assert {preset.__name__ for preset in expected} == set(PRESETS)
    for preset, values in expected.items():
        check(preset(i, base=base)(t), values)
    once = {
        horizontal: swung | {"offset": (-i * cos(pi * t), 0)},
        vertical: swung | {"offset": (0, -i * cos(pi * t))},
        zoom: {"isometric": 0.8, "height": min(2 * i, 0.9) * sin(pi * t / 2)},
        dolly: {"height": i / 3, "steady": 0.35, "focus": 0.35, "isometric": i / 2 * (1 - cos(pi * t))},
    }
    for preset, values in once.items():
        check(preset(i, base=base, loop=False)(t), values)


def check(motion: Motion, values: dict[str, object]) -> None:
    defaults = {"height": 0.2, "steady": 0.05, "focus": 0, "isometric": 0.3, "zoom": 1, "offset": (0, 0)}
    for name, value in (defaults | values).items():
        assert getattr(motion, name) == pytest.approx(value, abs=1e-12), name


def test_what_a_preset_does_not_say_is_the_default():
    motion = zoom(0.5)(0.3)
    assert (motion.steady, motion.focus, motion.zoom, motion.offset) == (0.05, 0.0, 1.0, (0.0, 0.0))


@pytest.mark.parametrize("preset", [horizontal, vertical])
def test_a_triangle_wave_has_one_speed_and_the_same_reach(preset):
    places = [sum(preset(1.0, smooth=False)(n / 100).offset) for n in range(101)]
    steps = [abs(b - a) for a, b in pairwise(places)]
    assert max(steps) == pytest.approx(0.8 * 4 / 100)
    assert min(steps) == pytest.approx(0.8 * 4 / 100)
    assert max(places) == pytest.approx(0.8)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_a_looping_path_ends_where_it_began(preset):
    path = preset(0.7)
    for name in ("height", "isometric", "zoom", "offset"):
        assert getattr(path(1.0), name) == pytest.approx(getattr(path(0.0), name), abs=1e-9)


@pytest.mark.parametrize("name", PRESETS)
def test_no_strength_leaves_the_camera_inside_out(name):
    for loop in (True, False):
        for intensity in (0.0, 1.0, 5.0):
            path = usual_path(name, intensity, loop=loop)
            assert all(path(n / 20) for n in range(21))


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "static"])
def test_a_strong_path_moves_from_its_start_to_its_end(name):
    """Between any two of 40 frames, none of which stands even with another around a turning point."""
    for loop in (True, False):
        for intensity in (2.0, 5.0):
            path = usual_path(name, intensity, loop=loop)
            places = [path((n + 0.25) / 40) for n in range(40)]
            assert all(a != b for a, b in pairwise(places)), (loop, intensity)


def test_strengths_are_those_of_depthflows_web_service():
    factors = {"zoom": 0.3, "dolly": 0.5}
    for name, preset in PRESETS.items():
        assert usual_path(name, 2.0)(0.3) == preset(2.0 * factors.get(name, 1.0))(0.3)


@pytest.mark.parametrize(("loop", "most"), [(True, 0.9), (False, 0.45)])
def test_a_zoom_comes_to_the_greatest_height_and_not_beyond(loop, most):
    assert strongest_zoom(loop) == pytest.approx(most)
    for intensity in (most, 1.5, 5.0):
        heights = [zoom(intensity, loop=loop)(n / 100).height for n in range(101)]
        assert max(heights) == pytest.approx(HIGHEST)
        assert sum(height == max(heights) for height in heights) == 1
    assert zoom(0.9 * most, loop=loop)(0.25 if loop else 1.0).height == pytest.approx(0.9 * HIGHEST)


@pytest.mark.parametrize(
    "values",
    [{"height": 1.0}, {"height": -0.1}, {"height": float("nan")}, {"steady": 2}, {"zoom": 0}, {"zoom": float("inf")},
     {"offset": (float("nan"), 0)}, {"isometric": -9.0, "height": 0.9}],
)  # fmt: skip
def test_a_motion_that_cannot_be_is_refused_in_a_sentence(values):
    with pytest.raises(InvalidInput, match="Give "):
        Motion(**values)
