"""Triton is really killed and started again while jobs are done: no job fails, and none loses a try for it.

DEPTHFACE_JOBS says how many jobs there are, DEPTHFACE_KILLS how often it is killed.
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from pathlib import Path

import pytest
import requests
from fixtures.gateways import CROWD, NOBODY, PORTRAIT, gateway
from fixtures.processes import ended, kill
from fixtures.serving import Server, serving
from fixtures.waiting import HANGS_AFTER_S, until

from depthface_bench.servers import reserved_port

JOBS = int(os.environ.get("DEPTHFACE_JOBS", "40"))
KILLS = int(os.environ.get("DEPTHFACE_KILLS", "2"))
TIMEOUT_S = HANGS_AFTER_S + JOBS

PHOTOS = {"crowd": CROWD, "portrait": PORTRAIT, "nobody": NOBODY}

pytestmark = pytest.mark.slow


def lose_power(server: Server) -> None:
    """As a machine does: nobody is told."""
    everyone = server.family
    kill(everyone)
    server.process.wait(HANGS_AFTER_S)
    assert ended(everyone)


def tries(url: str) -> Counter[str]:
    """How the tries of jobs ended, by what the worker counts."""
    text = requests.get(f"{url}/metrics", timeout=HANGS_AFTER_S).text
    found: Counter[str] = Counter()
    for outcome, number in re.findall(r'^depthface_job_tries_total\{outcome="(\w+)".*\} (\S+)$', text, re.MULTILINE):
        found[outcome] += round(float(number))
    return found


def test_no_job_fails_while_triton_is_killed_again_and_again(
    pack_repository: Path, database_url: str, tmp_path: Path
) -> None:
    variables = {"AUTH_DISABLED": "1", "DEPTHFACE_GATEWAY_FACE_MODEL": "face_analysis_buffalo_l"}
    options = ("--data", str(tmp_path), "--database", database_url, "--with-worker")
    with (
        reserved_port() as port,
        gateway("jobs", url=f"127.0.0.1:{port}", options=options, WORKER_POLL_INTERVAL="0.2", **variables) as running,
    ):
        url = running.urls["jobs"]

        def counts() -> dict[str, int]:
            found: dict[str, int] = requests.get(f"{url}/admin/stats", timeout=HANGS_AFTER_S).json()["jobs"]
            return found

        def submit(index: int) -> tuple[str, str]:
            name = list(PHOTOS)[index % len(PHOTOS)]
            answer = requests.post(
                f"{url}/job/{('face_detection', 'face_embedding')[index % 2]}",
                files={"file": ("a.jpg", PHOTOS[name] + index.to_bytes(4, "big"))},  # no two are one photo
                data={"priority": str(index % 11)},
                timeout=HANGS_AFTER_S,
            )
            assert answer.status_code == 201, answer.text
            return answer.json()["job_id"], name

        jobs = dict(submit(index) for index in range(JOBS))  # they are taken while nobody can do them
        started = time.monotonic()
        for round_number in range(KILLS + 1):
            enough = JOBS if round_number == KILLS else JOBS * (round_number + 1) // (KILLS + 2)
            with serving(pack_repository, http_port=port) as server:
                while counts()["completed"] < enough:
                    found = counts()
                    assert found["error"] == 0, found
                    assert time.monotonic() - started < TIMEOUT_S, found
                    time.sleep(0.05)
                if round_number < KILLS:
                    lose_power(server)
        print(f"{JOBS} jobs, {KILLS} kills of Triton, {time.monotonic() - started:.0f} s; {counts()}")
        assert counts() == {"pending": 0, "processing": 0, "completed": JOBS, "error": 0, "sync_failed": 0}
        until(lambda: tries(url).get("completed") == JOBS, "the count of the last try")
        assert "retry" not in tries(url), tries(url)
        faces = Counter()
        for job_id, name in jobs.items():
            job = requests.get(f"{url}/job/{job_id}", timeout=HANGS_AFTER_S).json()
            assert (job["status"], job["error_message"]) == ("completed", None), job
            faces[name, len(job["result"]["faces"])] += 1
        assert {number for name, number in faces if name == "nobody"} == {0}
        assert {number for name, number in faces if name == "portrait"} == {1}
        assert len({number for name, number in faces if name == "crowd"}) == 1
        assert running.stop() == 0
