"""How long what has failed is left alone."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from depthface_gateway.jobs import rests
from depthface_gateway.jobs.rests import EVERYTHING, Rests


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The time, which the test sets."""
    clock = SimpleNamespace(now_s=1000.0)
    monkeypatch.setattr(rests, "time", SimpleNamespace(monotonic=lambda: clock.now_s))
    return clock


def test_a_rest_is_longer_each_time_up_to_ten_seconds_however_long_it_goes_on(clock: SimpleNamespace) -> None:
    rest = Rests()
    lengths_s = []
    for _ in range(5000):  # that is half a day
        rest.begin("a")
        lengths_s.append(rest.left_s("a"))
        clock.now_s += lengths_s[-1]
        assert rest.left_s("a") == 0
    assert [0.25 * 2**index <= lengths_s[index] <= 0.5 * 2**index for index in range(5)] == [True] * 5
    assert all(5 <= length_s <= 10 for length_s in lengths_s[5:])


def test_those_at_hand_when_it_began_make_it_no_longer(clock: SimpleNamespace) -> None:
    rest = Rests()
    rest.begin("a")
    left_s = rest.left_s("a")
    for _ in range(4):
        rest.begin("a")
    assert rest.left_s("a") == left_s <= 0.5


def test_a_success_ends_it_and_others_are_left_as_they_are(clock: SimpleNamespace) -> None:
    rest = Rests()
    for what in ("a", "b", EVERYTHING):
        rest.begin(what)
    rest.end("a", EVERYTHING)
    assert rest.left_s("a") == rest.left_s(EVERYTHING) == rest.left_s("c") == 0 < rest.left_s("b")
    rest.begin("a")
    assert rest.left_s("a") <= 0.5
