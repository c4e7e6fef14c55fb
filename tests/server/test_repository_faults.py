"""Repositories that are not as they were exported: the server refuses them, and serves them mended."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from fixtures.serving import depthface
from fixtures.users import as_nobody, for_everybody

from depthface import config, manifest
from depthface.contract import CONTRACT, MANIFEST_FILE
from depthface.errors import MismatchError, ServeError
from depthface.verify import refuse_mismatches, verdicts
from depthface_server.doctor.exports import of_repository
from depthface_server.repository import contents

MODEL = "depth_anything_v2_small"
NETWORK = f"{MODEL}_network"


@pytest.fixture
def spoilt(repository, tmp_path) -> Path:
    """A repository to spoil."""
    return Path(shutil.copytree(repository, tmp_path / "spoilt"))


def refused(repository: Path) -> str:
    """What `depthface serve` says before it has started anything."""
    done = depthface("serve", "--repository", repository, "--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert "Traceback" not in done.stderr
    assert f"depthface export {MODEL} --weights random" in done.stderr  # the command that mends it
    return done.stderr


def test_a_model_that_was_swapped_is_refused_by_its_checksum(spoilt):
    """Of the same size, and a good network: only the checksum can tell."""
    path = spoilt / NETWORK / "1" / "model.onnx"
    whole = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(len(whole) // 2)  # in the middle of the weights
        file.write(b"\0\0\0\0")
    assert f"{NETWORK}: model.onnx is not the file that was exported" in refused(spoilt)
    path.write_bytes(whole)
    assert list(contents(spoilt).exported) == [MODEL]


def test_a_manifest_of_another_file_is_refused(spoilt):
    path = spoilt / NETWORK / "1" / MANIFEST_FILE
    text = path.read_text()
    path.write_text(text.replace(manifest.read(path.parent).onnx["sha256"], "0" * 64))
    assert f"{NETWORK}: model.onnx is not the file" in refused(spoilt)
    path.write_text(text)
    assert list(contents(spoilt).exported) == [MODEL]


@pytest.mark.parametrize("part", [NETWORK, f"{NETWORK}/1", f"{NETWORK}/1/{MANIFEST_FILE}", MODEL])
def test_what_this_user_may_not_read_is_not_called_not_exported(repository, part):
    """Exported by one user under a umask of 077, and served by another one."""
    with for_everybody() as folder:
        own = Path(shutil.copytree(repository, folder / "own models"))
        (own / part).chmod(0)
        with as_nobody(), pytest.raises(ServeError) as caught:
            contents(own)
        assert str(caught.value) == (
            f"{own / part} cannot be read by this user. Let everybody read the repository: chmod -R a+rX '{own}'"
        )
        with as_nobody():
            assert any(f"{own / part} cannot be read" in " ".join(words) for words in of_repository(own))
        (own / part).chmod(0o755)
        with as_nobody():
            assert contents(own).closed == ()
        (own / "another").mkdir(mode=0)
        (own / "lost+found").mkdir(mode=0)
        with as_nobody():
            assert contents(own).closed == (own / "another",), "what no model can be called is passed over"
        (own / "another").chmod(0o755)


@pytest.mark.parametrize(("contract", "said"), [(0, "an older"), (CONTRACT + 1, "a newer")])
def test_what_another_depthface_laid_out_is_refused_and_the_command_is_named(spoilt, contract, said):
    for path in (spoilt / MODEL).rglob("*.pbtxt"):
        found = config.read(path)
        config.set_parameters(found, replace(config.parameters_of(found), contract=contract))
        path.write_text(config.text_from_config(found))
    sentence = f"{MODEL} was laid out by {said} depthface, whose files this one does not serve"
    assert sentence in refused(spoilt)
    for command, stream in (("verify", "stderr"), ("doctor", "stdout")):
        done = depthface(command, "--repository", spoilt)
        assert done.returncode == 1
        assert sentence in getattr(done, stream)
        assert f"depthface export {MODEL} --weights random" in getattr(done, stream)


def test_a_repository_copied_up_to_any_file_is_refused_or_whole(repository, tmp_path):
    """As `cp -r` or rsync leave it when they are interrupted, after each file and in the middle of the largest."""
    files = sorted(path for path in repository.rglob("*") if path.is_file())
    half = tmp_path / "half"
    refusals = set()
    for path in files:
        copy = half / path.relative_to(repository)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.name == "model.onnx":
            copy.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            refusals |= state_of(half)
            copy.unlink()
        os.link(path, copy)
        refusals |= state_of(half)
    assert contents(half).exported.keys() == {MODEL}
    # The other way round: the manifest is there, and one file is not.
    for path in files:
        copy = half / path.relative_to(repository)
        copy.unlink()
        refusals |= state_of(half)
        os.link(path, copy)
    assert any("no exported model" in text for text in refusals)
    assert any("model.onnx is not there" in text for text in refusals)
    assert any("config.pbtxt is missing" in text for text in refusals)


def state_of(repository: Path) -> set[str]:
    """Why a repository is refused, in one line; nothing if what is served of it is whole."""
    try:
        found = contents(repository)
        refuse_mismatches(verdicts(repository))
    except (ServeError, MismatchError) as error:
        return {str(error)}
    for served in found.exported.values():
        for network in next(iter(served.serves.values())):
            assert not served.differences(repository / network / "1")
    return set()
