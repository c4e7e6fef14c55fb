"""Which Triton is run, and how it is started."""

from __future__ import annotations

import logging
import os
import resource
import shutil
import socket
import threading
from contextlib import ExitStack
from pathlib import Path

import psutil
from fixtures.container import lay_out
from fixtures.lab import opened

from depthface_server import embedded
from depthface_server.address import Address
from depthface_server.embedded import Triton
from depthface_server.installation import FOLDER, Installation


def test_a_triton_is_run_by_a_relative_path(tmp_path, monkeypatch):
    """It starts in a working folder of its own."""
    folder = lay_out(tmp_path)
    monkeypatch.chdir(tmp_path)
    found = Installation.find(Path("opt/tritonserver"))
    monkeypatch.setenv(FOLDER, "opt/tritonserver")
    assert found == Installation.find() == Installation.find(folder)
    (tmp_path / "models").mkdir()
    with Triton(tmp_path / "models", [], Address.free("127.0.0.1", 0, 0, 0), installation=found) as triton:
        triton.wait_until_ready(threading.Event())


def test_backends_that_are_damaged_are_laid_out_anew(tmp_path, monkeypatch):
    """By a power cut, or by what cleans caches and leaves the folders: Triton would hang on them without a word."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = Installation.find().backends
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert len(files) == 5
    inode = folder.stat().st_ino
    assert Installation.find().backends == folder
    assert folder.stat().st_ino == inode, "what is whole stays"
    (folder / "python" / "triton_python_backend_stub").write_bytes(b"")
    (folder / "onnxruntime" / "model.py").unlink()
    for _ in range(2):
        assert Installation.find().backends == folder
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == files
        shutil.rmtree(folder / "openvino")
    assert os.access(folder / "python" / "triton_python_backend_stub", os.X_OK)
    assert [path.name for path in (tmp_path / "depthface").iterdir()] == [folder.name]


def test_stacks_stay_as_they_are_where_the_system_sets_all_of_them_aside(tmp_path, monkeypatch, caplog):
    """With 1 GiB each, no thread could be started there."""
    overcommit = tmp_path / "overcommit_memory"
    monkeypatch.setattr(embedded, "_OVERCOMMIT", overcommit)
    usual, hard = resource.getrlimit(resource.RLIMIT_STACK)
    large = 2**30 if hard == resource.RLIM_INFINITY else min(2**30, hard)
    for setting, expected in (("0\n", large), ("2\n", usual)):
        overcommit.write_text(setting)
        folder = tmp_path / f"models {setting.strip()}"
        folder.mkdir()
        with caplog.at_level(logging.WARNING), opened(folder) as lab:
            assert psutil.Process(lab.triton._process.pid).rlimit(resource.RLIMIT_STACK) == (expected, hard)
        assert ("vm.overcommit_memory is 2" in caplog.text) == (setting == "2\n")


def test_more_idle_connections_than_usually_files_may_be_open_stop_nobody(tmp_path):
    """Triton would answer none, and write a line of its log for each of its attempts: some 200,000 a second."""
    usual, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (usual, hard))
        held = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())  # many, late in a run
        few = held + 128
        resource.setrlimit(resource.RLIMIT_NOFILE, (few, hard))
        lab = stack.enter_context(opened(tmp_path))
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        before = lab.triton.log.stat().st_size
        place = ("127.0.0.1", lab.triton.address.http_port)
        for _ in range(few + 50):
            stack.enter_context(socket.create_connection(place))
        assert lab.triton.api.is_live(lab.triton._id)
        assert lab.triton.log.stat().st_size < before + 100_000


def test_a_key_that_stays_in_sight_is_said(tmp_path, monkeypatch, caplog):
    """Where the kernel lets no parent write its child's memory (kernel.yama.ptrace_scope)."""
    for index, hidden in enumerate((True, False)):
        monkeypatch.setattr(embedded, "hide_secret", lambda *_, hidden=hidden: hidden)
        (tmp_path / str(index)).mkdir()
        with caplog.at_level(logging.WARNING), opened(tmp_path / str(index)):
            assert ("the operator's key stays on Triton's command line" in caplog.text) == (not hidden)
