"""What is installed is what is locked: every version has its hashes, and every licence is one that was accepted."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCKS = ("requirements.lock", "requirements-cuda.lock")


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def entries(name: str) -> dict[str, tuple[str, list[str]]]:
    """Each package of a lock: its version and its hashes."""
    text = (ROOT / name).read_text()
    found = re.findall(r"^([\w.-]+)==(\S+)((?: \\\n    --hash=sha256:[0-9a-f]{64})*)$", text, re.MULTILINE)
    assert len(found) == len(re.findall(r"^[^\s#]", text, re.MULTILINE))
    return {canonicalize_name(name): (version, hashes.split("--hash=")[1:]) for name, version, hashes in found}


def constraints() -> dict[str, str]:
    lines = [line.split("==") for line in (ROOT / "constraints.txt").read_text().split()]
    return {canonicalize_name(name): version for name, version in lines}


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_is_locked_with_its_hashes(name):
    found = entries(name)
    assert len(found) > 10
    assert [package for package, (_, hashes) in found.items() if not hashes] == []


@pytest.mark.parametrize("name", [*LOCKS, "constraints.txt", "Makefile", "pyproject.toml"])
def test_no_lock_is_tied_to_one_source(name):
    """Hashes say which file; any index or folder that has it will do."""
    text = (ROOT / name).read_text()
    assert not re.search(r"--(index-url|extra-index-url|find-links|trusted-host)|@ *(git\+|file:|https?:)", text)
    if name != "pyproject.toml":  # which says where the project lives
        assert "://" not in text


def test_the_lock_and_the_constraints_are_of_one_resolution():
    locked = {name: version for name, (version, _) in entries("requirements.lock").items()}
    left_out = {name for name in constraints() if name not in locked}
    assert left_out == set(tool("lock").LEFT_OUT)
    assert locked == {name: version for name, version in constraints().items() if name not in left_out}


def test_the_lock_holds_all_that_the_project_asks_for():
    """A dependency added to pyproject.toml and not to the lock: run `make lock`."""
    locked = entries("requirements.lock")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    del extras["gpu"]  # instead of what is locked, not beside it
    wanted = [Requirement(line) for lines in (project["dependencies"], *extras.values()) for line in lines]
    assert requires("depthface")
    for requirement in wanted:
        if requirement.name == project["name"] or (requirement.marker and not requirement.marker.evaluate()):
            continue
        version, _ = locked[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), requirement


def test_a_file_with_another_hash_is_not_installed(tmp_path):
    """pip itself, offline: a package of one line, and a lock that expects another."""
    package = tmp_path / "src"
    package.mkdir()
    (package / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "hatchling.build"\n[project]\nname = "one"\nversion = "1"\n'
        '[tool.hatch.build]\ninclude = ["one.py"]\n'
    )
    (package / "one.py").write_text("")
    pip = (sys.executable, "-m", "pip", "--isolated")
    built = [*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(tmp_path), str(package)]
    subprocess.run(built, check=True, capture_output=True)
    (tmp_path / "lock").write_text(f"one==1 --hash=sha256:{'0' * 64}\n")
    install = ("install", "--no-index", "--find-links", str(tmp_path), "--target", str(tmp_path / "target"))
    done = subprocess.run(
        [*pip, *install, "--require-hashes", "--no-deps", "-r", str(tmp_path / "lock")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr
    assert not (tmp_path / "target").exists()


def test_python_is_stated_only_where_it_is_tested():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    stated = {line.rpartition(" ")[2] for line in project["classifiers"] if re.search(r":: 3\.\d+$", line)}
    assert stated == {"3.11", "3.12", "3.13"}  # the client, in `test_a_client_beside_the_newest_numpy`
    assert project["requires-python"] == ">=3.11"
    assert "3.11 or 3.12" in (ROOT / "README.md").read_text()  # the server, in this suite


# `make audit`


@pytest.fixture(scope="module")
def bill(tmp_path_factory):
    audit = tool("audit")
    audit.SBOM = tmp_path_factory.mktemp("audit") / "sbom.json"
    audit.bill_of_materials(validates=False)
    return json.loads(audit.SBOM.read_text())


def test_the_bill_of_materials_is_of_what_is_installed(bill):
    assert bill["bomFormat"] == "CycloneDX"
    found = {canonicalize_name(part["name"]): part["version"] for part in bill["components"]}
    assert found["numpy"] == constraints()["numpy"]
    assert set(found) >= {"torch", "onnx", "nvidia-pytriton", "insightface", "pillow"}


def test_every_licence_is_accepted_and_another_is_not(bill):
    audit = tool("audit")
    assert audit.refused_licences(bill) == []
    strangers = [
        {"name": "a", "licenses": [{"license": {"id": "AGPL-3.0-only"}}]},
        {"name": "b", "licenses": [{"expression": "MIT AND (Apache-2.0 OR GPL-3.0-only)"}]},
        {"name": "c"},
        {"name": "d", "licenses": [{"license": {"name": "License :: Other/Proprietary License"}}]},
        {"name": "e", "licenses": [{"expression": "MIT OR (Apache-2.0 WITH LLVM-exception)"}]},
    ]
    assert [line[0] for line in audit.refused_licences({"components": strangers})] == ["a", "b", "c", "d"]


def test_what_pip_audit_says_or_cannot_say_is_a_failure():
    """Its network is not here; what is replaced is its report."""
    audit = tool("audit")
    good = {"name": "a", "version": "1", "vulns": []}
    bad = good | {"vulns": [{"id": "PYSEC-1", "fix_versions": ["2"]}]}
    assert audit.vulnerabilities(json.dumps({"dependencies": [good]})) == []
    assert "PYSEC-1, mended in 2" in audit.vulnerabilities(json.dumps({"dependencies": [bad]}))[0]
    assert "1 of 2" in audit.vulnerabilities(json.dumps({"dependencies": [good, {"name": "b", "skip_reason": "?"}]}))[0]
    assert "network" in audit.vulnerabilities("")[0]
