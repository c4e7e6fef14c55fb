"""`depthface serve --explain`."""

from __future__ import annotations

import pytest
from fixtures.serving import depthface

from depthface.cores import Cores
from depthface_server.explain import explanation
from depthface_server.installation import Installation
from depthface_server.options import Options
from depthface_server.repository import contents

MODEL = "depth_anything_v2_small"


@pytest.fixture
def explained(repository):
    def lines(cores: Cores, **options: int) -> dict[str, str]:
        found = explanation(repository, contents(repository), Options(**options), Installation.find(), cores)
        return dict(line.split(": ", 1) for line in found)

    return lines


def test_threads_are_those_of_the_container_and_not_of_the_machine(explained):
    lines = explained(Cores(64, 3.0))
    assert lines["cores"] == "3 (bound to 64, a container's limit of 3)"
    assert "on the CPU, 3 threads, one a core" in lines[f"{MODEL}_network"]
    assert "64 threads" in explained(Cores(64))[f"{MODEL}_network"]


def test_queues_are_those_of_the_options(explained):
    assert "256 requests wait at most, for 300 s at most" in explained(Cores(2))[MODEL]
    assert "7 requests wait at most, for 300 s" in explained(Cores(2), queue_size=7)[MODEL]
    assert "a queue without a limit" in explained(Cores(2), queue_size=0)[MODEL]


def test_the_command_starts_nothing(repository):
    done = depthface("serve", "--repository", repository, "--explain")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == f"cores: {Cores.found()}"
    assert f"{MODEL}_network: " in done.stdout
    assert "ready" not in done.stdout
