"""A few seconds of `make fuzz-gateway` for each contract, in a process of its own as there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from fixtures.gateways import PACK
from fixtures.serving import Server, serving

RUN = Path(__file__).with_name("fuzzing.py")
MINUTES = "0.08"


def fuzz(server: Server, *names: str) -> None:
    done = subprocess.run(
        [sys.executable, RUN, *names, "--minutes", MINUTES, "--seed", "1", "--triton", server.host],
        capture_output=True, text=True, timeout=600, check=False, env=os.environ | {"FACES_PACK": PACK},
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert re.findall(r"^(\w+): [1-9]\d* requests, nothing found", done.stdout, re.MULTILINE) == list(names)


def test_faces_are_asked_at_random(face_server):
    fuzz(face_server, "immich", "faces")


def test_depth_and_jobs_are_asked_at_random(server):
    fuzz(server, "jobs", "depthflow", "page")


def test_depth_by_a_contract_that_loads_and_unloads_is_asked_at_random(repository):
    with serving(repository) as server:
        fuzz(server, "immichvr")
