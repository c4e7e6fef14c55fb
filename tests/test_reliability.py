"""docs/reliability.md in step with the tests: what it names is there, and what is there is named."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "reliability.md").read_text()
NAMED = set(re.findall(r"`(test_\w+)`", PAGE))
FILES = re.findall(r"`(tests/[\w/]+\.py)`", PAGE)
SECTIONS = ("Who may do what", "Limits", "Where it serves", "Photos", "Overload", "Faults", "Fuzz", "Soak",
            "Idle models", "Seeing what happens", "Supply chain")  # fmt: skip


def names_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_every_test_that_is_named_exists():
    existing = {name for path in (ROOT / "tests").rglob("test_*.py") for name in names_in(path)}
    assert NAMED
    assert existing >= NAMED


@pytest.mark.parametrize("name", [name for name in FILES if name != "tests/test_reliability.py"])
def test_every_test_of_the_files_is_named(name):
    assert names_in(ROOT / name) - NAMED == set()


def test_every_part_of_the_promise_has_its_section():
    assert tuple(re.findall(r"^## (.+)$", PAGE, re.MULTILINE)) == SECTIONS


def test_every_make_target_and_command_that_is_named_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)", PAGE)) <= targets
