"""The Dockerfile as it is written; what it does is in test_container.py."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures.deploy import ROOT, is_ours, stages

REQUIREMENTS = ROOT / "deploy" / "tensorrt_requirements.py"


def copied() -> list[str]:
    """What is copied from the checkout."""
    values = {value for stage in stages().values() for value in stage.values("COPY") if not value.startswith("--from")}
    return sorted(source for value in values for source in value.split()[:-1])


def test_hadolint_finds_nothing():
    done = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), ROOT / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("", 0)


def test_what_is_copied_exists_and_is_let_through():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    for source in copied():
        assert (ROOT / source).exists()
        assert f"!{source}" in ignored
    for _, stage, path in (value.split()[0].partition("=") for value in stages()["serve"].values("COPY")):
        assert stage == "=" and path in stages()


@pytest.mark.parametrize("name", ["serve", "export", "gateway"])
def test_a_target_builds_nothing_and_is_not_root(name):
    target = stages()[name]
    assert target.values("USER") == ["1000:1000"]
    assert not [run for run in target.values("RUN") if re.search(r"\b(pip|apt|apt-get|gcc)\b", run)]
    assert is_ours(target.command)


def test_the_last_stage_serves():
    last = list(stages().values())[-1]
    assert last.name == "serve"
    assert last.entry_point == ["depthface"]
    assert is_ours(last.health_check)


def test_numpy_stays_below_2():
    """Triton's stub in NVIDIA's images corrupts the arrays of numpy 2."""
    assert re.search(r"^numpy==1\.", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    installs = [run for stage in stages().values() for run in stage.values("RUN") if " install " in run]
    assert installs
    for run in installs:
        for install in run.split(" install ")[1:]:
            assert "--constraint constraints.txt" in install or "--no-deps" in install


def tensorrt(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The script in an image with this environment, and without a package manager unless `tmp_path` has one."""
    return subprocess.run(
        [sys.executable, REQUIREMENTS], env={"PATH": str(tmp_path)} | environment, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("environment", "version"),
    [
        ({"TENSORRT_VERSION": "11.4.0.106"}, "11.4.0.106"),
        ({"TRT_VERSION": "10.16.1.11+cuda13.2"}, "10.16.1.11"),
        ({"TENSORRT_VERSION": "", "TRT_VERSION": "10.16.1.11"}, "10.16.1.11"),
    ],
)
def test_tensorrt_is_the_one_that_the_image_says(tmp_path, environment, version):
    done = tensorrt(tmp_path, CUDA_VERSION="13.2.1", **environment)
    assert done.stdout.split() == [f"tensorrt-cu13=={version}", f"tensorrt-cu13-bindings=={version}"]


def test_tensorrt_is_else_the_one_that_is_packaged(tmp_path):
    dpkg = tmp_path / "dpkg-query"
    dpkg.write_text("#!/bin/sh\n[ \"$4\" = 'libnvinfer[0-9]*' ] && echo 11.4.0.106-1+cuda13.2\n")
    dpkg.chmod(0o755)
    assert "tensorrt-cu13==11.4.0.106\n" in tensorrt(tmp_path, CUDA_VERSION="13.2.1").stdout


def test_an_image_that_says_nothing_is_asked_about(tmp_path):
    done = tensorrt(tmp_path, CUDA_VERSION="13.2.1")
    assert done.returncode == 1
    assert "--build-arg TENSORRT_VERSION" in done.stderr
    assert "Traceback" not in done.stderr


def test_perf_analyzer_gets_the_photo(tmp_path):
    """The stand-in for perf_analyzer, which NVIDIA's SDK image has, keeps what it is given."""
    kept = tmp_path / "kept"
    program = tmp_path / "perf_analyzer"
    program.write_text(f'#!/bin/sh\necho "$@" > {kept}\ncp "$6" {kept}.json\necho "$no_proxy" > {kept}.proxy\n')
    program.chmod(0o755)
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8 a photo")
    subprocess.run(
        [sys.executable, ROOT / "deploy" / "perf_analyzer.py", "--photo", tmp_path / "photo.jpg", "-p", "3000"],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        check=True,
    )
    words = kept.read_text().split()
    assert words[:5] == ["-m", "depth_anything_v2_small", "-u", "127.0.0.1:8000", "--input-data"]
    assert words[6:] == ["-p", "3000"]
    assert Path(f"{kept}.proxy").read_text() == "*\n"
    document = runpy.run_path(str(ROOT / "deploy" / "perf_analyzer.py"))["document"]
    assert document(b"\xff\xd8 a photo")["data"][0]["image"]["content"]["b64"] in Path(f"{kept}.json").read_text()
