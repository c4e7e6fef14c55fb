"""perf_analyzer found, driven against the real server, and its real output read."""

from __future__ import annotations

import base64
import json
import os
import shutil
import stat
import time
from dataclasses import replace
from pathlib import Path

import pytest
from fixtures.waiting import settled
from tritonclient.http import InferenceServerClient

from depthface.errors import DepthfaceError
from depthface_bench import photos, repositories, servers, setup
from depthface_bench.perf_analyzer import Load, Unstable, drive, input_data, report_of

HERE = Path(__file__).parent
TWO = Load("concurrency", 2, requests=4, tolerance_percent=50)


@pytest.fixture(scope="module")
def tool() -> setup.Tool:
    return setup.find()  # fails where `make setup-bench` did not run: nothing stands in for it


@pytest.fixture(scope="module")
def measured(repository, tmp_path_factory):
    """A server with the pipeline that has one PNG for its output."""
    copy = Path(shutil.copytree(repository, tmp_path_factory.mktemp("measured") / "model_repository"))
    repositories.add_measured_depth(copy, "fp32")
    with servers.serving(copy) as served:
        yield served


def test_a_stable_report_is_read():
    found = report_of(TWO, (HERE / "stable.txt").read_text(), (HERE / "stable.csv").read_text())
    assert found.throughput == 0.39952
    assert found.windows == (0.362652, 0.444219, 0.399934)
    assert (found.p50_ms, found.p90_ms, found.p95_ms, found.p99_ms) == (4737.865, 5262.3, 5262.3, 5566.707)
    assert found.requests == 12
    split = {step.model: (step.queue_ms, step.compute_ms) for step in found.steps}
    assert split["depth_anything_v2_small_network"] == (2457.438, pytest.approx(1596.445))
    assert len(split) == 3


def test_an_unstable_report_is_refused_whatever_stands_beside_it():
    with pytest.raises(Unstable, match=r"no stable measurement.*0\.333206, 0\.299606, 0\.333062"):
        report_of(TWO, (HERE / "unstable.txt").read_text(), (HERE / "stable.csv").read_text())


def test_too_few_windows_are_no_figure():
    text = (HERE / "stable.txt").read_text()
    short = "\n".join(line for line in text.splitlines() if "Pass [3]" not in line)
    with pytest.raises(Unstable):
        report_of(TWO, short, (HERE / "stable.csv").read_text())


def test_bytes_carry_their_length():
    (photo,) = json.loads(input_data([{"image": b"photo"}]))["data"]
    assert photo == {"image": {"b64": base64.b64encode(b"\x05\0\0\0photo").decode(), "shape": [1]}}


def test_the_real_one_drives_the_real_server(tool, measured, tmp_path):
    data = tmp_path / "in.json"
    data.write_text(input_data([{"image": photos.sized(640, 480)}, {"image": photos.sized(320, 240)}]))
    # Whether they agree is the machine's affair, and of the next test: here the windows may be as they like.
    load, network = replace(TWO, tolerance_percent=1000), f"{repositories.DEPTH}_network"
    found = drive(tool, measured.host, repositories.MEASURED_DEPTH, data, load, [network])
    assert found.throughput > 0
    assert 0 < found.p50_ms <= found.p90_ms <= found.p95_ms <= found.p99_ms
    assert len(found.windows) == 3
    (computed,) = [step.compute_ms for step in found.steps if step.model == network]
    assert 0 < computed < found.p99_ms


def test_the_real_one_is_not_taken_at_its_word_when_it_wavers(tool, measured, tmp_path):
    data = tmp_path / "in.json"
    data.write_text(input_data([{"image": photos.sized(320, 240)}]))
    with pytest.raises(Unstable, match=r"concurrency 1: no stable measurement"):
        wavering = Load("concurrency", 1, requests=1, tolerance_percent=1e-6, windows=3)
        drive(tool, measured.host, repositories.MEASURED_DEPTH, data, wavering)


def test_a_model_that_is_not_there(tool, measured, tmp_path):
    data = tmp_path / "in.json"
    data.write_text(input_data([{"image": b""}]))
    with pytest.raises(DepthfaceError, match=r"nothing.*is not found"):
        drive(tool, measured.host, "nothing", data, TWO)


def test_statistics_are_of_the_requests_alone(measured):
    """The watchdog looks at processes every two seconds, and sends no request that would be counted."""

    def asked() -> int:
        with InferenceServerClient(measured.host) as client:
            (found,) = client.get_inference_statistics(f"{repositories.DEPTH}_network")["model_stats"]
        return int(found["inference_stats"]["success"]["count"])

    before = settled(asked)
    time.sleep(4.5)
    assert asked() == before


def test_without_one_it_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(setup.sys, "prefix", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DepthfaceError, match="make setup-bench"):
        setup.find()


def test_one_that_does_not_run_is_none(tmp_path, monkeypatch):
    broken = tmp_path / "perf_analyzer"
    broken.write_text("#!/bin/sh\necho 'no such library' >&2\nexit 127\n")
    broken.chmod(broken.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(DepthfaceError, match="does not run: no such library"):
        setup.find()


def test_another_wheel_than_the_pinned_one_is_refused(tmp_path, monkeypatch):
    """The download is cut off here: what pip fetched is not what was pinned."""

    def other(command, **_):
        folder = Path(command[command.index("--dest") + 1])
        folder.mkdir()
        (folder / "tritonclient-2.51.0-py3-none-any.whl").write_bytes(b"another")
        return setup.subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(setup.subprocess, "run", other)
    with pytest.raises(DepthfaceError, match="not the pinned"):
        setup._wheel(setup.CLIENT, tmp_path)
