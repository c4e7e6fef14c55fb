"""`depthface serve --explain`."""

from __future__ import annotations

import shutil

import pytest
from fixtures.serving import depthface

from depthface import machine, processor
from depthface.config import text_from_config
from depthface.contract import EXPORTED_CONFIG
from depthface.cores import Cores
from depthface.families import card_named
from depthface_export.configs import exported_configs
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


def test_where_there_is_a_gpu_it_is_said_that_it_computes(explained, monkeypatch):
    monkeypatch.setattr(machine, "gpus", lambda: (machine.Gpu("NVIDIA H200", "9.0", "570.124.06"),))
    line = explained(Cores(2))[f"{MODEL}_network"]
    assert line.startswith("ONNX Runtime, on the GPU, because there is one; ")
    assert line.endswith("; up to 16 sessions, for the shapes that come again")


def test_queues_are_those_of_the_options(explained):
    assert "256 requests wait at most, for 300 s at most" in explained(Cores(2))[MODEL]
    assert "7 requests wait at most, for 300 s" in explained(Cores(2), queue_size=7)[MODEL]
    assert "a queue without a limit" in explained(Cores(2), queue_size=0)[MODEL]


@pytest.mark.parametrize("is_quick", [True, False])
def test_bf16_and_static_graphs_are_for_processors_that_are_quick_at_it(repository, tmp_path, monkeypatch, is_quick):
    monkeypatch.setattr(processor, "multiplies_bf16", lambda: is_quick)
    name = f"{MODEL}_network"
    shutil.copytree(repository, tmp_path / "repository")
    path = tmp_path / "repository" / name / EXPORTED_CONFIG

    def line() -> str:
        found = explanation(path.parents[2], contents(path.parents[2]), Options(), Installation.find(), Cores(2))
        return dict(line.split(": ", 1) for line in found)[name]

    assert "static graphs" not in line()
    path.write_text(text_from_config(exported_configs(card_named(MODEL), "bf16", "random, seed 0")[name]))
    graphs = "; up to 3 static graphs, for the shapes that are asked for most"
    assert line().endswith(graphs) == is_quick
    said = ", in bf16;" if is_quick else ", in fp32, because this processor is no quicker in bf16;"
    assert said in line()


def test_the_command_starts_nothing(repository):
    done = depthface("serve", "--repository", repository, "--explain")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == f"cores: {Cores.found()}"
    assert f"{MODEL}_network: " in done.stdout
    assert "ready" not in done.stdout
