"""Files on the disk: where the contract says, whole or not at all."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from depthface.errors import ConfigError
from depthface_gateway.jobs.results import ResultStore, write_vector, write_whole

JOB = str(uuid.UUID(int=7))


@pytest.fixture
def files(tmp_path: Path) -> ResultStore:
    return ResultStore(tmp_path / "inference" / "jobs")


def test_a_vector_is_a_numpy_file_by_exactly_its_name(tmp_path: Path) -> None:
    vector = np.linspace(-1, 1, 512, dtype=np.float64)
    write_vector(tmp_path / "embedding.bin", vector)
    assert [path.name for path in tmp_path.iterdir()] == ["embedding.bin"]
    read = np.load(tmp_path / "embedding.bin")
    assert read.dtype == np.float32 and np.array_equal(read, vector.astype(np.float32))


def test_a_folder_appears_whole_and_replaces_what_an_earlier_try_left(files: ResultStore) -> None:
    for content in (b"first", b"second"):
        partial = files.begin(uuid.uuid4().hex)
        (partial / "faces").mkdir()
        (partial / "faces" / "0.jpg").write_bytes(content)
        assert not (files.root / JOB).exists() or (files.root / JOB / "faces/0.jpg").read_bytes() == b"first"
        files.ready(partial, JOB)()
        assert (files.root / JOB / "faces/0.jpg").read_bytes() == content
    assert list((files.root / ".partial").iterdir()) == []
    files.ready(files.begin("empty"), JOB)()
    assert not (files.root / JOB).exists(), "a try without faces leaves no faces of an earlier one"


@pytest.mark.parametrize(
    "name",
    ["../../public_key.pem", "faces/../../x.bin", "/etc/passwd", "faces/0.exe", "embedding.bin/", "faces", "", ".",
     "faces/0.jpg\n", "faces/٣.jpg", "faces/link.jpg", "faces/9.jpg", "faces/0.jpg\0"],
)  # fmt: skip
def test_only_files_of_a_job_are_given(files: ResultStore, name: str, tmp_path: Path) -> None:
    partial = files.begin("claim")
    (partial / "faces").mkdir()
    (partial / "faces" / "0.jpg").write_bytes(b"a face")
    (partial / "faces" / "9.jpg").symlink_to("/etc/passwd")
    (tmp_path / "public_key.pem").write_bytes(b"secret")
    files.root.joinpath(JOB).mkdir()
    files.root.joinpath(JOB).rmdir()
    partial.rename(files.root / JOB)
    good = files.open(JOB, "faces/0.jpg")
    assert good is not None
    with good:
        assert good.read() == b"a face"
    assert files.open(JOB, name) is None
    assert files.open("..", "embedding.bin") is None


@pytest.mark.parametrize("job_id", ["..", "a/b", "", ".uploads", JOB.upper() + "/", f"{JOB}\n"])
def test_no_other_id_is_a_path(files: ResultStore, job_id: str) -> None:
    for call in (files.delete, files.upload, files.drop_upload):
        with pytest.raises(ValueError, match="no job id"):
            call(job_id)


def test_the_sweep_takes_what_the_dead_left_and_nothing_else(files: ResultStore) -> None:
    for claim in ("dead", "living"):
        (files.begin(claim) / "x").write_bytes(b"x")
    waiting, gone, young = (str(uuid.UUID(int=number)) for number in (1, 2, 3))
    for job_id in (waiting, gone, young):
        files.keep_upload(job_id, b"photo")
    torn = files.root / ".uploads" / f"{gone}.abc"
    torn.write_bytes(b"half")
    for path in (files.upload(waiting), files.upload(gone), torn):
        os.utime(path, (1, 1))
    files.sweep(lambda: {"living"}, lambda job_id: job_id == waiting)
    assert [path.name for path in (files.root / ".partial").iterdir()] == ["living"]
    assert {path.name for path in (files.root / ".uploads").iterdir()} == {waiting, young}


def test_folders_of_an_age_are_listed_and_nothing_else(files: ResultStore) -> None:
    old, young = (str(uuid.UUID(int=number)) for number in (1, 2))
    for name in (old, young, "no-job"):
        (files.root / name).mkdir()
    os.utime(files.root / old, (1, 1))
    (files.root / str(uuid.UUID(int=3))).write_bytes(b"no folder")
    assert sorted(files.folders()) == [old, young] and files.folders(older_than_s=3600) == [old]


def test_a_folder_that_cannot_be_written_to_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for root in (tmp_path / "file" / "jobs", Path("/proc/jobs")):
        with pytest.raises(ConfigError, match="cannot be written to"):
            ResultStore(root)


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only root can make a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_leaves_no_half_file(full_disk: Path) -> None:
    files = ResultStore(full_disk)
    with pytest.raises(OSError, match="No space"):
        files.keep_upload(JOB, bytes(2**20))
    assert list((full_disk / ".uploads").iterdir()) == []
    write_whole(full_disk / "small", b"fits")
    with pytest.raises(OSError, match="No space"):
        write_whole(full_disk / "small", bytes(2**20))
    assert (full_disk / "small").read_bytes() == b"fits"
