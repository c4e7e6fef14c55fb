"""The files of .github/, which only GitHub can run, and of pre-commit: held by actionlint and by their schemas."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from depthface import manifest
from depthface.families import all_cards
from depthface.spec import EngineOptions

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"
BIN = Path(sys.executable).parent
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
FORMS = sorted(path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")


def actionlint(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BIN / "actionlint", "-no-color", path], capture_output=True, text=True, check=False)


def schema(name: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    command = [BIN / "check-jsonschema", "--builtin-schema", name, *paths]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actionlint_finds_nothing(path):
    done = actionlint(path)
    assert (done.returncode, done.stdout) == (0, "")


def test_actionlint_finds_what_is_there(tmp_path):
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(WORKFLOWS[0].read_text().replace("github.ref", "github.reef"))
    done = actionlint(wrong)
    assert done.returncode == 1
    assert "reef" in done.stdout


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("vendor.github-workflows", WORKFLOWS),
        ("custom.github-workflows-require-timeout", WORKFLOWS),
        ("vendor.github-issue-forms", FORMS),
        ("vendor.github-issue-config", [GITHUB / "ISSUE_TEMPLATE" / "config.yml"]),
        ("vendor.dependabot", [GITHUB / "dependabot.yml"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_file_is_of_its_schema(name, paths):
    assert paths
    done = schema(name, *paths)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_what_a_workflow_runs_is_there(path):
    text = path.read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)", text)) <= targets
    for tool in re.findall(r"\btools/\w+\.py", text):
        assert (ROOT / tool).is_file()
    for job in yaml.safe_load(text)["jobs"].values():
        assert job["steps"]


def test_no_workflow_may_write_to_the_repository():
    for path in WORKFLOWS:
        workflow = yaml.safe_load(path.read_text())
        assert workflow["permissions"] == {"contents": "read"}
        for job in workflow["jobs"].values():
            assert job.get("permissions", {}).get("contents", "read") == "read"


def test_pre_commit_runs_what_make_lint_runs():
    configuration = ROOT / ".pre-commit-config.yaml"
    done = subprocess.run([BIN / "pre-commit", "validate-config", configuration], capture_output=True, check=False)
    assert done.returncode == 0, done.stdout
    hooks = [hook for repo in yaml.safe_load(configuration.read_text())["repos"] for hook in repo["hooks"]]
    lint = re.search(r"^lint:.*?\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert lint is not None
    tools = re.findall(r"\$\(BIN\)/(\w+(?: (?:check|format))?)", lint[1])
    assert {f".venv/bin/{tool}" for tool in tools if tool != "python"} <= {
        " ".join(word for word in hook["entry"].split() if not word.startswith("--")) for hook in hooks
    }


def test_the_weekly_run_exports_models_that_exist():
    text = (GITHUB / "workflows" / "published-weights.yml").read_text()
    names = {name for line in re.findall(r'MODELS="?([\w ]+?)"? WEIGHTS', text) for name in line.split()}
    assert len(names) > 3
    assert names <= set(all_cards())


def test_the_page_of_parity_is_made_of_manifests(repository, tmp_path):
    tool = ROOT / "tools" / "parity.py"
    done = subprocess.run([sys.executable, tool, repository], capture_output=True, text=True, check=True)
    (row,) = [line for line in done.stdout.splitlines() if "| ONNX Runtime | max_error |" in line]
    name, weights, precision, _, _, worst, tolerance, cases = (cell.strip() for cell in row.strip("|").split("|"))
    assert (name, weights, precision, int(cases)) == ("`depth_anything_v2_small_network`", "random, seed 0", "fp32", 7)
    assert 0 < float(worst) <= float(tolerance)
    assert "| tolerance | cases |" in done.stdout
    nothing = subprocess.run([sys.executable, tool, tmp_path], capture_output=True, text=True, check=False)
    assert nothing.returncode == 1
    assert "no exported model" in nothing.stderr


@pytest.mark.parametrize(
    ("precision", "cases", "expected"),
    [
        ("fp16", {"a": 0.1, "b": 0.2, "a, CUDA": 0.3}, {"ONNX Runtime": (0.2, 2), "ONNX Runtime, CUDA": (0.3, 1)}),
        ("bf16", {"a": 0.1, "a, static graph": 0.3}, {"OpenVINO": (0.1, 1), "OpenVINO, static graph": (0.3, 1)}),
    ],
)
def test_the_page_of_parity_tells_what_computed_a_case(repository, tmp_path, precision, cases, expected):
    """Each runtime has its own worst value: of one of them nothing is told of another."""
    (folder,) = (path.parent for path in repository.glob("*/*/manifest.json"))
    made = tmp_path / folder.parent.name / folder.name
    made.mkdir(parents=True)
    checks = [{"case": case, "metric": "max_error", "value": value, "tolerance": 1.0} for case, value in cases.items()]
    engine = dict.fromkeys(("sha256", "tensorrt", "gpu", "compute_capability", "driver"), "")
    engine |= {"options": dataclasses.asdict(EngineOptions()), "checks": [checks[0] | {"value": 0.5}]}
    found = manifest.read(folder)
    dataclasses.replace(found, precision=precision, checks=checks, openvino_checks=None, engine=engine).write(made)
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "parity.py", tmp_path], capture_output=True, text=True, check=True
    )
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()[6:]]
    assert {row[3]: (float(row[5]), int(row[7])) for row in rows} == expected | {"TensorRT": (0.5, 1)}
