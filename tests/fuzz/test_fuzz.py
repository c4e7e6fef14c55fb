"""A few seconds of `make fuzz`, and every finding of the long runs again; each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from fuzz.targets import TARGETS

RUN = Path(__file__).with_name("run.py")
SECONDS = "3"


def fuzz(target: str, *options: str) -> None:
    done = subprocess.run(
        [sys.executable, RUN, target, "--seconds", SECONDS, "--seed", "1", *options],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "nothing found" in done.stdout


@pytest.mark.parametrize("target", sorted(set(TARGETS) - {"http", "parameters"}))
def test_edited_files_are_read_or_refused(target):
    fuzz(target)


@pytest.mark.parametrize("target", ["http", "parameters"])
def test_edited_requests_are_answered(server, target):
    fuzz(target, "--host", server.host, "--pid", str(server.process.pid))
