"""What can go wrong round an export: no room, another export, a signal. The repository stays whole."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from export.conftest import snapshot
from fixtures.exporting import job_of
from fixtures.serving import COMMAND, depthface
from fixtures.waiting import HANGS_AFTER_S
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from depthface import manifest
from depthface.errors import ExportError
from depthface.families import card_named
from depthface_export import configs, pipeline, staging

PACK = ("buffalo_sc", "--weights", "synthetic")  # that of `pack_of_two`
NETWORKS = ("face_buffalo_sc_detector", "face_buffalo_sc_recognizer")


def networks(folder: Path) -> dict[str, bytes]:
    """Every file of the networks, which is what an export may lose."""
    return {name: data for name, data in snapshot(folder).items() if name.startswith(NETWORKS)}


def assert_whole(folder: Path) -> None:
    """Nothing is half written, and nothing is left over."""
    assert not (folder / ".export").exists()
    assert not [path for path in folder.rglob("*") if path.name.startswith(".") and path.name != ".gitkeep"]
    for name in NETWORKS:
        if (folder / name / "1").exists():
            assert not manifest.read(folder / name / "1").differences(folder / name / "1")
    for path in folder.rglob("*.pbtxt"):
        assert text_format.Parse(path.read_text(), pb.ModelConfig()).name == path.parts[len(folder.parts)]


def start(folder: Path, *arguments: str, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, "export", *PACK, "--repository", str(folder), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        **options,
    )


@pytest.fixture
def stale(pack_of_two, tmp_path) -> Path:
    """A repository with the pack in it, made by other code, so that it is to be exported anew."""
    folder = Path(shutil.copytree(pack_of_two, tmp_path / "repository"))
    for path in folder.glob("*/1/manifest.json"):
        path.write_text(path.read_text().replace('"onnx": "', '"onnx": "old'))
    return folder


@pytest.mark.parametrize("limit_bytes", [2_000])
def test_a_file_that_may_not_grow_leaves_the_repository_as_it_was(stale, limit_bytes):
    before = networks(stale)
    process = start(stale, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes)))
    _, said = process.communicate(timeout=HANGS_AFTER_S)
    assert process.returncode == 1
    assert "could not be written (File too large)" in said
    assert "Traceback" not in said
    assert networks(stale) == before
    assert_whole(stale)


def test_after_a_full_disk_the_next_run_is_complete(stale):
    process = start(stale, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000)))
    process.communicate(timeout=HANGS_AFTER_S)
    done = depthface("export", *PACK, "--repository", stale)
    assert done.returncode == 0, done.stderr
    assert "exported" in done.stdout
    assert_whole(stale)


# Inside a mount namespace of its own: a repository on a disk with so many KB of room, an export into it, and a copy of
# what is there afterwards.
ON_A_SMALL_DISK = """
set -e
mount -t tmpfs none "$DISK"
cp -r "$REPOSITORY" "$DISK/repository"
mount -o remount,size=$(( $(du -sk "$DISK" | cut -f1) + ROOM_KB ))k "$DISK"
code=0
"$@" --repository "$DISK/repository" || code=$?
cp -r "$DISK/repository" "$KEPT"
exit $code
"""


@pytest.mark.skipif(
    subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode != 0,
    reason="a mount namespace of one's own is not permitted here",
)
@pytest.mark.parametrize("room_kb", [0, 60, 120])
def test_a_disk_that_is_full_leaves_the_repository_as_it_was(stale, tmp_path, room_kb):
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    places = {"DISK": str(disk), "REPOSITORY": str(stale), "KEPT": str(kept), "ROOM_KB": str(room_kb)}
    done = subprocess.run(
        ["unshare", "-rm", "bash", "-c", ON_A_SMALL_DISK, "-", *COMMAND, "export", *PACK],
        env=os.environ | places,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert networks(kept) == networks(stale)
    assert_whole(kept)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("stage", ["weights:", "validate:"])
def test_a_stopped_export_leaves_the_repository_as_it_was(stale, number, stage):
    before = networks(stale)
    # Whatever runs the tests in the background may ignore SIGINT, and its children with it.
    process = start(stale, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    assert process.stdout is not None
    assert any(stage in line for line in process.stdout)
    process.send_signal(number)
    _, said = process.communicate(timeout=HANGS_AFTER_S)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert networks(stale) == before
    assert_whole(stale)


def test_two_commands_at_once_into_one_repository(tmp_path):
    """One of them exports, the other says so or comes after it; what is there is whole."""
    processes = [start(tmp_path) for _ in range(2)]
    said = [process.communicate(timeout=HANGS_AFTER_S)[1] for process in processes]
    codes = sorted(process.returncode for process in processes)
    assert codes in ([0, 0], [0, 1])
    for process, text in zip(processes, said, strict=True):
        if process.returncode:
            assert "Another export is at work" in text
            assert "Traceback" not in text
    assert_whole(tmp_path)
    assert "unchanged" in depthface("export", *PACK, "--repository", tmp_path).stdout


WORKER = """
import sys
from pathlib import Path
from depthface.errors import ExportError
from depthface_export.staging import stage
root, count, times = Path(sys.argv[1]), int(sys.argv[2]), 0
print(flush=True)
sys.stdin.readline()  # all begin together
while times < count:
    try:
        with stage(root / "repository") as build:
            (root / "inside").mkdir()  # fails if another is inside too
            assert list(build.parent.glob("build-*")) == [build]
            (root / "inside").rmdir()
            times += 1
    except ExportError as error:
        assert "Another export" in str(error), error
"""


def test_the_lock_lets_one_in_at_a_time(tmp_path):
    """Four processes in and out as fast as they can: the lock's file is made and removed all the time."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([sys.executable, "-c", WORKER, tmp_path, "500"], **pipes) for _ in range(4)]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        print(file=process.stdin, flush=True)
    errors = [process.communicate(timeout=HANGS_AFTER_S)[1] for process in processes]
    assert [error[-300:] for error in errors] == [""] * 4
    assert [process.returncode for process in processes] == [0] * 4


@pytest.fixture
def two(tmp_path) -> list[tuple[Path, Path]]:
    """Two networks that were built: of one there is an older one, the other is new."""
    moves = [(tmp_path / "build" / name, tmp_path / "repository" / name) for name in ("old", "new")]
    for built, _ in moves:
        built.mkdir(parents=True)
        (built / "model.onnx").write_text("built")
    older = moves[0][1]
    older.mkdir(parents=True)
    (older / "model.onnx").write_text("served")
    return moves


@pytest.mark.parametrize("exchanges", [True, False], ids=["by one call", "by renames"])
def test_what_was_installed_is_taken_back_where_the_next_cannot_be(two, tmp_path, monkeypatch, exchanges):
    if not exchanges:
        monkeypatch.setattr(staging.ctypes, "CDLL", lambda *_, **__: object())
    before = snapshot(tmp_path)
    gone = (tmp_path / "build" / "gone", tmp_path / "repository" / "gone")
    with pytest.raises(FileNotFoundError):
        staging.install_all([*two, gone])
    assert snapshot(tmp_path) == before
    staging.install_all(two)
    assert {path: text.decode() for path, text in snapshot(tmp_path).items()} == {
        "build/old/model.onnx": "served",
        "repository/new/model.onnx": "built",
        "repository/old/model.onnx": "built",
    }


def test_all_is_on_the_disk_before_the_first_is_moved(two, monkeypatch):
    """What is killed between two moves leaves networks of two exports; so nothing that takes time is between them."""
    fsync, move, done = os.fsync, staging._move, []
    monkeypatch.setattr(os, "fsync", lambda file: done.append("fsync") or fsync(file))
    monkeypatch.setattr(staging, "_move", lambda *pair: done.append("move") or move(*pair))
    staging.install_all(two)
    assert done == ["fsync", "fsync", "move", "move"]


def test_by_renames_too_what_cannot_be_installed_leaves_what_was_there(two, tmp_path, monkeypatch):
    built, target = two[0]
    rename = Path.rename

    def failing(path: Path, to: Path) -> Path:
        if path == built:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(path, to)

    before = snapshot(tmp_path)
    monkeypatch.setattr(staging.ctypes, "CDLL", lambda *_, **__: object())
    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        staging.install(built, target)
    assert snapshot(tmp_path) == before


def test_an_export_takes_its_networks_back_together(tmp_path, monkeypatch):
    card = card_named("buffalo_sc")
    build, target = tmp_path / "build", tmp_path / "repository"
    for name in NETWORKS:
        for folder in (build, target):
            (folder / name / "1").mkdir(parents=True)
            (folder / name / "1" / "model.onnx").write_text(folder.name)
    move = staging._move

    def failing(built: Path, to: Path) -> None:
        if built.name == NETWORKS[1]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        move(built, to)

    before = snapshot(target)
    monkeypatch.setattr(staging, "_move", failing)
    exported = configs.exported_configs(card, "fp32", "synthetic")
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        pipeline._install(job_of(card, target, "synthetic"), build, exported, card.networks)
    assert snapshot(target) == before


def test_a_repository_that_becomes_unwritable_is_one_sentence(tmp_path):
    with pytest.raises(ExportError, match="make room"), staging.stage(tmp_path) as build:
        (build / "absent" / "file").write_text("")
    assert not list(tmp_path.iterdir())
