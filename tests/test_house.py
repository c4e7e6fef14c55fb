"""What no linter holds: how long a file may be, and that a number of a command is one."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MOST_LINES = 400
ROOMS = sorted({path.parents[1] for path in ROOT.glob("*/depthface*/__init__.py")})
SOURCES = [path for room in ROOMS for path in sorted(room.rglob("*.py"))]


def test_all_rooms_are_looked_at():
    assert {"src", "client", "export", "server", "benchmarks"} <= {room.name for room in ROOMS}
    assert len(SOURCES) > 100


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_is_no_longer_than_a_reader_holds(path):
    assert len(path.read_text().splitlines()) <= MOST_LINES, "Give a part of it a file of its own."


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_an_option_in_a_range_takes_no_nan(path):
    """`click.FloatRange` does: NaN is neither below nor above anything."""
    is_home = path == ROOT / "src" / "depthface" / "cli.py"
    assert path.read_text().count("FloatRange") == is_home, "Take `depthface.cli.Number`."
