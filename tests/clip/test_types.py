"""What a type checker makes of methods that take one item or a list: the real mypy, as a user runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

PROGRAM = """
from pathlib import Path
from typing import assert_type

from depthface.tasks.embedding import Embedding
from depthface_client import Client
from depthface_client.aio import AsyncClient


def ask(client: Client, paths: list[Path]) -> None:
    assert_type(client.embed("x.jpg"), Embedding)
    assert_type(client.embed(["x.jpg", b""]), list[Embedding])
    assert_type(client.embed(paths, model="m"), list[Embedding])
    assert_type(client.embed_text("a cat"), Embedding)
    assert_type(client.embed_text(["a cat"]), list[Embedding])
    client.embed_text(3)  # type: ignore[call-overload]
    client.embed("x.jpg", models="m")  # type: ignore[call-overload]


async def ask_and_wait(client: AsyncClient, paths: list[Path]) -> None:
    assert_type(await client.embed(paths), list[Embedding])
    assert_type(await client.embed_text("a cat"), Embedding)
"""


def test_one_gives_one_and_a_list_gives_a_list(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, "-m", "mypy", "--config-file", ROOT / "pyproject.toml", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
