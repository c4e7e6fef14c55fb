"""A repository that is not as it was exported: found by `verify`, mended by the very command that it prints."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest
from export.conftest import snapshot
from fixtures.serving import depthface

from depthface.verify import verdicts

PACK = ("buffalo_sc", "--weights", "synthetic")  # that of `pack_of_two`
NETWORK = "face_buffalo_sc_detector"


@pytest.fixture
def repository(pack_of_two, tmp_path) -> Path:
    return Path(shutil.copytree(pack_of_two, tmp_path / "a repository"))


def spoil_a_byte(folder: Path) -> None:
    path = folder / "model.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "a byte": spoil_a_byte,
    "cut": lambda folder: (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:-1]),
    "empty": lambda folder: (folder / "model.onnx").write_bytes(b""),
    "gone": lambda folder: (folder / "model.onnx").unlink(),
    "a folder": lambda folder: ((folder / "model.onnx").unlink(), (folder / "model.onnx").mkdir()),
    "an engine from elsewhere": lambda folder: (folder / "model.plan").write_bytes(b"x"),
    "manifest cut": lambda folder: (folder / "manifest.json").write_text("{"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_and_named(repository, damage):
    DAMAGES[damage](repository / NETWORK / "1")
    assert [verdict.network for verdict in verdicts(repository) if verdict.problems] == [NETWORK]


@pytest.mark.parametrize("damage", ["a byte", "manifest cut"])
def test_what_verify_prints_mends_it(repository, damage):
    before = snapshot(repository)
    DAMAGES[damage](repository / NETWORK / "1")
    found = depthface("verify", "--repository", repository)
    assert found.returncode == 1
    assert NETWORK in found.stderr
    (command,) = (line.strip() for line in found.stderr.splitlines() if line.strip().startswith("depthface export"))
    done = depthface(*shlex.split(command)[1:])
    assert done.returncode == 0, done.stderr
    assert "exported to" in done.stdout
    mended = depthface("verify", "--repository", repository)
    assert mended.returncode == 0, mended.stderr
    assert snapshot(repository).keys() == before.keys()


def test_a_text_that_is_lost_or_changed_is_written_again(repository):
    before = snapshot(repository)
    (repository / NETWORK / "config.pbtxt").unlink()
    (repository / "face_analysis_buffalo_sc" / "1" / "model.py").write_text("raise SystemExit\n")
    assert "unchanged" in depthface("export", *PACK, "--repository", repository).stdout
    assert snapshot(repository) == before


def test_hidden_files_are_not_part_of_a_repository(repository):
    """macOS leaves ._<name> beside every file on a disk of another system, and .DS_Store in every folder."""
    for path in [path for path in repository.rglob("*") if path.is_file()]:
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\26\7")
    for folder in (repository, *(path for path in repository.rglob("*") if path.is_dir())):
        (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    shutil.copytree(repository / NETWORK, repository / f".{NETWORK}")
    shutil.copytree(repository / NETWORK / "1", repository / NETWORK / ".1")
    assert [verdict.network for verdict in verdicts(repository)] == [NETWORK, "face_buffalo_sc_recognizer"]
    assert not any(verdict.problems for verdict in verdicts(repository))
    assert "unchanged" in depthface("export", *PACK, "--repository", repository).stdout


def test_a_lost_manifest_of_weights_in_a_folder_says_what_to_fill_in(repository):
    from depthface import config
    from depthface.contract import Parameters

    path = repository / NETWORK / "configs" / "exported.pbtxt"
    found = config.read(path)
    config.set_parameters(found, Parameters(weights="folder mine", precision="bf16"))
    path.write_text(config.text_from_config(found))
    (repository / NETWORK / "1" / "manifest.json").write_text("")
    (wrong,) = (verdict for verdict in verdicts(repository) if verdict.problems)
    assert wrong.command.startswith("depthface export buffalo_sc --weights FOLDER --precision bf16 --repository ")
