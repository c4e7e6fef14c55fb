"""What makes an artefact stale: the code and packages that had a hand in it, and nothing else."""

from __future__ import annotations

import ast
import dataclasses
import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fixtures.exporting import job_of
from fixtures.serving import COMMAND
from fixtures.waiting import HANGS_AFTER_S

from depthface import machine, manifest
from depthface.families import all_cards, card_named
from depthface.spec import EngineOptions
from depthface_export import fingerprint
from depthface_export.job import Engines

ROOT = Path(__file__).parents[2]
ROOMS = ("src", "export")
Prints = dict[str, dict[str, str]]
DEPTH, FACES = "depth_anything_v2_small", "buffalo_sc"

# First-party modules that stages import and that have no hand in what they make, and why.
WITHOUT_A_HAND = {
    "depthface": "",
    "depthface.apart": "decodes formats that no photograph of a proof has",
    "depthface.containers": "looks into files that no photograph of a proof is",
    "depthface.cores": "how many threads compute; no result is of it",
    "depthface.formats": "which files are taken for photos",
    "depthface.limits": "how large a photo may be",
    "depthface.openvino": "where it computes, the stage of its name has it",
    "depthface.cache": "where timings of TensorRT are kept",
    "depthface.config": "reads and writes configs, which are made anew each time",
    "depthface.contract": "names of files and parameters",
    "depthface.errors": "what is said of a failure",
    "depthface.families": "finds a family's modules by name",
    "depthface.image": "shows photographs to an export and to its reference; of int8 it has a hand",
    "depthface.machine": "what an engine belongs to is in its manifest",
    "depthface.manifest": "what is told of an artefact",
    "depthface.spec": "the shapes of facts; the facts themselves are compared",
    "depthface.tasks": "what a model is asked",
    "depthface.tasks.depth": "names a task",
    "depthface.tasks.embedding": "names a task",
    "depthface.tasks.faces": "bounds of what a request may ask",
    "depthface.tasks.swap": "names a task",
    "depthface.weights": "where weights came from is compared",
    "depthface_export": "",
    "depthface_export.interrupts": "when a signal is heard",
    "depthface_export.job": "carries what is wished, which is compared",
    "depthface_standins": "finds a family's stand-ins; for stand-in weights they have a hand",
    "depthface.families.clip": "",
    "depthface.families.siglip": "",
    "depthface.families.depth_anything_v2": "",
    "depthface.families.insightface": "",
    "depthface.families.insightface.graphs": "",
    "depthface.families.insightface.card": "its facts are compared",
    "depthface.families.insightface.processing": "prepares photos for an export and its reference alike",
}


@pytest.fixture
def copy(tmp_path) -> Path:
    """A copy of the packages, whose files may be edited."""
    for room in ROOMS:
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def environment(copy: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(str(copy / room) for room in ROOMS)}


PRINTS = """
import json, sys
from pathlib import Path
from depthface.families import card_named
from depthface.spec import EngineOptions
from depthface.weights import Folder, Random, Synthetic
from depthface_export import fingerprint
from depthface_export.job import Engines, Job
assert fingerprint.__file__.startswith(sys.argv[1]), fingerprint.__file__
depth, faces, target = card_named("depth_anything_v2_small"), card_named("buffalo_sc"), Path("x")
jobs = {
    "fp32": Job(depth, Folder(target, "o"), target),
    "int8": Job(depth, Folder(target, "o"), target, "int8"),
    "engine": Job(depth, Folder(target, "o"), target, engines=Engines(EngineOptions())),
    "random": Job(depth, Random(), target),
    "faces": Job(faces, Folder(target, "o"), target),
    "synthetic": Job(faces, Synthetic(), target),
}
heavy = {"torch", "onnx", "onnxruntime", "insightface", "transformers"} & set(sys.modules)
assert not heavy, heavy
print(json.dumps({name: fingerprint.fingerprint(job, job.card.networks[0]) for name, job in jobs.items()}), flush=True)
"""
"""Of depth in fp32, in int8 and with an engine, and of faces, computed by the copy."""

OVER_AND_OVER = """
import os, sys
sys.dont_write_bytecode = True  # of two edits within a second the second would not be seen
exec(sys.argv[2])
for name in [name for name in sys.modules if name.startswith("depthface")]:
    del sys.modules[name]
for _ in sys.stdin:
    if os.fork() == 0:
        exec(sys.argv[2])
        os._exit(0)
    if os.wait()[1]:
        sys.exit("the copy failed")
"""
"""Imports what others have made, which takes a second; then for each line that it reads the copy alone, anew."""


@pytest.fixture
def fingerprints(copy) -> Iterator[Callable[[], Prints]]:
    """Those of the copy as it is now."""
    with subprocess.Popen(
        [sys.executable, "-c", OVER_AND_OVER, str(copy), PRINTS],
        env=environment(copy),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def now() -> Prints:
            print(file=stdin, flush=True)
            found: Prints = json.loads(stdout.readline())
            return found

        first = json.loads(stdout.readline())
        assert now() == first
        yield now
        stdin.close()
        assert process.wait(HANGS_AFTER_S) == 0


def stale(before: Prints, after: Prints) -> set[str]:
    return {name for name in before if before[name] != after[name]}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) >= 1, (path, old)
    path.write_text(text.replace(old, new, 1))


EVERYTHING = {"fp32", "int8", "engine", "random", "faces", "synthetic"}
DEPTHS = {"fp32", "int8", "engine", "random"}
FAMILIES = "src/depthface/families"
CHANGES = [
    ("export/depthface_export/int8.py", "(0.0, 0.1, 0.25, 0.5)", "(0.0, 0.2, 0.25, 0.5)", {"int8"}),
    ("export/depthface_export/onnx.py", "OPSET = 20", "OPSET = 21", EVERYTHING),
    ("export/depthface_export/precision.py", "HEADROOM = 8.0", "HEADROOM = 9.0", {"engine"}),
    ("export/depthface_export/tensorrt.py", "tf32=False", "tf32=True", {"engine"}),
    ("export/depthface_export/validate.py", '"chelsea.png", ', "", EVERYTHING),
    ("src/depthface/image.py", "import struct\n", "import abc\nimport struct\n", {"int8"}),
    ("src/depthface/picture.py", "import numpy as np\n", "import abc\nimport numpy as np\n", {"int8"}),
    ("src/depthface/openvino.py", "import sys\n", "import abc\nimport sys\n", DEPTHS),
    (f"{FAMILIES}/depth_anything_v2/network.py", "1 / (255 * std)", "1 / (256 * std)", DEPTHS),
    (f"{FAMILIES}/depth_anything_v2/parity.py", "(3, 14, 70)", "(3, 14, 84)", DEPTHS),
    (f"{FAMILIES}/depth_anything_v2/card.py", '"max_error": 5e-5', '"max_error": 6e-5', DEPTHS),
    (f"{FAMILIES}/insightface/graphs/scrfd.py", "IOU_THRESHOLD = 0.4", "IOU_THRESHOLD = 0.5", {"faces", "synthetic"}),
    (f"{FAMILIES}/insightface/facts.py", "MAX_BATCH_SIZE = 32", "MAX_BATCH_SIZE = 16", {"faces", "synthetic"}),
    ("export/depthface_standins/seeding.py", "RANDOM_GAIN = 2.0", "RANDOM_GAIN = 3.0", {"random", "synthetic"}),
    ("export/depthface_standins/insightface/sight.py", "(15.0, 45.0)", "(15.0, 46.0)", {"synthetic"}),
]
NO_CHANGES = [
    ("export/depthface_export/int8.py", '"""Which share of', '"""What share of'),
    ("export/depthface_export/onnx.py", '"""A torch module to', '"""A module of torch to'),
    ("export/depthface_export/cli.py", 'metavar="MODEL…"', 'metavar="NAME…"'),
    ("export/depthface_export/staging.py", 'prefix="."', 'prefix=".x"'),
    ("src/depthface/tasks/depth.py", '"""', '"""Said otherwise: '),
    (f"{FAMILIES}/depth_anything_v2/network.py", "# ImageNet", "# Of ImageNet"),
    (f"{FAMILIES}/depth_anything_v2/pipeline.py", '"""The server', '"""A server'),
    (f"{FAMILIES}/insightface/graphs/scrfd.py", '"""Of two boxes', '"""Of any two boxes'),
    (f"{FAMILIES}/insightface/pipeline.py", "SWAP_BATCH = 8", "SWAP_BATCH = 4"),
]


def test_a_change_of_code_makes_stale_what_it_had_a_hand_in(copy, fingerprints):
    """And each change shows again when it is taken back."""
    before = fingerprints()
    for name, old, new, expected in CHANGES:
        path = copy / name
        text = path.read_text()
        edit(path, old, new)
        assert stale(before, fingerprints()) == expected, name
        path.write_text(text)
    assert stale(before, fingerprints()) == set()


def test_a_docstring_a_comment_and_code_without_a_hand_make_nothing_stale(copy, fingerprints):
    before = fingerprints()
    for name, old, new in NO_CHANGES:
        edit(copy / name, old, new)
    assert stale(before, fingerprints()) == set()


def test_the_command_sees_an_edited_file(copy, tmp_path):
    """The whole way: the export of a copy of the code, before and after edits of it."""
    target = tmp_path / "repository"

    def export() -> str:
        done = subprocess.run(
            [*COMMAND, "export", FACES, "--weights", "synthetic", "--repository", str(target)],
            env=environment(copy),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "exported to" in export()
    edit(copy / FAMILIES / "insightface" / "graphs" / "scrfd.py", '"""Of two boxes', '"""Of any two boxes')
    assert "unchanged" in export()
    edit(copy / FAMILIES / "insightface" / "graphs" / "scrfd.py", "IOU_THRESHOLD = 0.4", "IOU_THRESHOLD = 0.45")
    said = export()
    assert "exported to" in said
    assert "made otherwise now: network" in said


@pytest.mark.parametrize("package", ["onnx", "insightface", "onnxruntime"])
def test_another_version_of_a_package_makes_a_pack_stale_and_depth_only_by_its_own(monkeypatch, tmp_path, package):
    jobs = {name: job_of(card_named(name), tmp_path) for name in (DEPTH, FACES)}

    def prints() -> dict[str, dict[str, str]]:
        return {name: fingerprint.fingerprint(job, job.card.networks[0]) for name, job in jobs.items()}

    before, version = prints(), machine.version
    monkeypatch.setattr(machine, "version", lambda name: "99" if name == package else version(name))
    assert stale(before, prints()) == ({FACES} if package == "insightface" else {DEPTH, FACES})
    monkeypatch.setattr(machine, "version", lambda name: "99" if name in ("torch", "depthface") else version(name))
    assert stale(before, prints()) == {DEPTH}


def test_onnxruntime_may_be_the_one_for_gpus(monkeypatch):
    def version(name: str) -> str:
        if name == "onnxruntime":
            raise machine.PackageNotFoundError(name)
        return "1.27"

    monkeypatch.setattr(machine, "version", version)
    assert fingerprint._version("onnxruntime") == "1.27"


@functools.cache
def imports_of(module: str) -> frozenset[str]:
    """The first-party modules that a module imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(fingerprint.code_of(module))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {node.module} | {name for name in inner if is_module(name)}
    return frozenset(name for name in names if name.partition(".")[0].startswith("depthface"))


def is_module(name: str) -> bool:
    try:
        return fingerprint._file_of(name).is_file()
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize(
    ("card", "precision"),
    [(card, precision) for card in all_cards().values() for precision in card.tolerances],
    ids=lambda value: getattr(value, "name", value),
)
def test_what_a_stage_imports_is_named_or_has_no_hand(card, precision, tmp_path):
    engines = Engines(EngineOptions()) if precision == "fp32" else None
    for weights in card.stand_ins:
        job = dataclasses.replace(job_of(card, tmp_path, weights, engines=engines), precision=precision)
        for network in card.networks:
            named = {module for made_by in fingerprint.makers(job, network).values() for module in made_by.modules}
            for module in named:
                assert imports_of(module) - named <= WITHOUT_A_HAND.keys(), module


def test_an_older_manifest_is_stale_and_still_read(tmp_path):
    """One of before there were fingerprints."""
    (tmp_path / "manifest.json").write_text(
        json.dumps(
            {
                "serves": {"a": ["b"]}, "weights": {"origin": "random, seed 0", "sha256": {}}, "license": None,
                "precision": "fp32", "onnx": {"sha256": "0"}, "tensors": {}, "exporters": {"code": "x"}, "checks": [],
            }
        )
    )  # fmt: skip
    found = manifest.read(tmp_path)
    assert found is not None
    assert found.fingerprint == {}
