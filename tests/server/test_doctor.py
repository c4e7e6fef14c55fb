"""`depthface doctor`: one line for each need of the machine, and exit 1 when one is to be mended."""

from __future__ import annotations

import errno
import importlib.util
import json
import pwd
import re
import runpy
import shutil
import socket
import subprocess
import sys
from collections import namedtuple
from contextlib import ExitStack
from importlib.metadata import distribution
from pathlib import Path

import pytest
from click.testing import CliRunner
from fixtures.serving import depthface
from packaging import markers, requirements

from depthface.families import card_named
from depthface.machine import installed
from depthface_export.weights import locate
from depthface_server.doctor import checks, exports
from depthface_server.doctor.cli import doctor
from depthface_server.installation import FOLDER

ROOT = Path(__file__).parents[2]
NETWORK = "depth_anything_v2_small_network"


def by_name(name: str, repository: Path = Path("nowhere")) -> checks.Finding:
    return next(finding for finding in checks.findings(repository) if finding.name == name)


@pytest.fixture
def nothing_else(monkeypatch, tmp_path) -> None:
    """The ports that are looked at are free, whatever else this machine serves, and the caches are empty."""
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    for name in ("HF_HOME", "HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in checks.PORTS]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        ports = [probe.getsockname()[1] for probe in probes]
    monkeypatch.setattr(checks, "PORTS", dict(zip(checks.PORTS, ports, strict=True)))


@pytest.mark.usefixtures("nothing_else")
def test_this_machine_serves_and_so_is_well(repository):
    done = CliRunner().invoke(doctor, ["--json", "--repository", str(repository)])
    found = {finding["name"]: finding for finding in json.loads(done.stdout)}
    assert [finding for finding in found.values() if not finding["ok"]] == []
    assert done.exit_code == 0
    for name in ("Python", "packages [server]", "numpy", "glibc", "Triton", "CPU", "GPU", "disk", "/dev/shm"):
        assert found[name]["ok"], found[name]
    assert "depth_anything_v2_small" in found[f"repository {repository}"]["found"]


@pytest.mark.usefixtures("nothing_else")
@pytest.mark.parametrize(
    "error",
    [FileNotFoundError(errno.ENOENT, "No such file or directory", "/dev/shm"), AttributeError("a version of None")],
    ids=lambda error: type(error).__name__,
)
def test_a_check_that_fails_is_a_finding_and_ends_no_other(monkeypatch, error):
    """No /dev/shm, no folder for temporary files, a package that is half there: that is when one asks the doctor."""

    def fails(*_: object) -> None:
        raise error

    names = ("python", "packages", "numpy", "glibc", "triton", "cpu", "gpu", "room", "shm", "open_files", "exports")
    for name in names:
        with monkeypatch.context() as patched:
            patched.setattr(checks, f"_{name}", fails)
            done = CliRunner().invoke(doctor, ["--repository", "nowhere"])
        assert done.exit_code == 1
        assert (
            f"cannot be looked at ({'/dev/shm' if isinstance(error, OSError) else 'AttributeError'}: {error.args[-1]}"
            in done.stdout
        )
        assert done.stdout.count(" port ") == 3
    with monkeypatch.context() as patched:
        patched.setattr(checks.tempfile, "gettempdir", fails)
        assert by_name("temporary folder").remedy


def test_a_limit_of_too_few_open_files_is_to_be_mended():
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (1024, {most}))\n"
        "from depthface_server.doctor.checks import _open_files; print(_open_files())"
    )
    said = [subprocess.check_output([sys.executable, "-c", code.format(most=most)], text=True) for most in (1024, 4096)]
    assert "Allow 4096: " in said[0]
    assert "4096 at most" in said[1] and "Allow" not in said[1]


@pytest.mark.usefixtures("nothing_else")
def test_one_thing_to_mend_is_exit_1(repository, monkeypatch):
    monkeypatch.setattr(checks.platform, "libc_ver", lambda: ("glibc", "2.31"))
    for words in (["--json"], []):
        done = CliRunner().invoke(doctor, [*words, "--repository", str(repository)])
        assert done.exit_code == 1
    assert [line.split(":")[0] for line in done.stdout.splitlines() if line.startswith("mend")] == ["mend  glibc"]


def test_a_port_in_use_and_a_changed_model_are_named_with_their_remedy(repository, tmp_path, monkeypatch):
    spoilt = Path(shutil.copytree(repository, tmp_path / "spoilt"))
    with (spoilt / NETWORK / "1" / "model.onnx").open("r+b") as file:
        file.write(b"?")
    done = depthface("doctor", "--repository", spoilt)
    assert done.returncode == 1
    assert re.search(rf"mend  repository .*{NETWORK}: model\.onnx is not the file", done.stdout)
    assert "Run depthface export depth_anything_v2_small --weights random" in done.stdout
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(checks, "PORTS", {"grpc": port})
        assert "--grpc-port" in by_name(f"port {port}").remedy


def test_it_looks_at_a_machine_on_which_nothing_heavy_can_be_imported():
    """What it checks for may be missing or broken: then it says so, and goes on to its end."""
    code = (
        "import sys\n"
        "for name in ('torch', 'numpy', 'PIL', 'onnx', 'onnxruntime', 'transformers', 'cv2', 'tritonclient'):\n"
        "    sys.modules[name] = None\n"
        "from pathlib import Path; from depthface_server.doctor.checks import findings\n"
        "print(*(finding.name for finding in findings(Path('nowhere'))), sep='\\n')"
    )
    names = subprocess.check_output([sys.executable, "-c", code], text=True).splitlines()
    assert {"Python", "glibc", "exports"} <= set(names)
    assert sum(name.startswith("port ") for name in names) == 3


ALONE = ("numpy", "pillow", "click")
CLIENT = (*ALONE, "tritonclient", "urllib3")
STEPS = (*CLIENT, "cykooz-resizer", "isal", "opencv-python-headless", "pillow-heif", "simplejpeg", "tokenizers")
SERVER = (*STEPS, "nvidia-pytriton", "onnxruntime", "openvino")
EXPORT = (
    "huggingface-hub", "insightface", "onnx", "onnxscript", "polygraphy", "requests", "rich", "scikit-image", "torch",
    "transformers",
)  # fmt: skip
VERSIONS = {name: installed(name) for name in (*SERVER, *EXPORT)} | {"onnxruntime-gpu": installed("onnxruntime")}


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """Make the environment of a Python in which these packages are installed, beside depthface; and take its findings.

    They are there by what pip writes of them, which is all that the check reads.
    """

    def make(*names: str, **versions: str) -> dict[str, checks.Finding]:
        own = distribution("depthface").metadata.as_string()
        of_others = {name: f"Name: {name}\nVersion: {versions.get(name, VERSIONS[name])}\n" for name in names}
        for name, text in {"depthface": own, **of_others}.items():
            folder = tmp_path / f"{name.replace('-', '_')}-1.dist-info"
            folder.mkdir()
            (folder / "METADATA").write_text(text)
        with monkeypatch.context() as patched:
            patched.setattr(sys, "path", [str(tmp_path)])
            patched.setitem(sys.modules, "packaging.requirements", requirements)
            return {finding.name.removeprefix("packages "): finding for finding in checks._packages()}

    return make


def test_numpy_2_is_to_be_mended(environment, monkeypatch):
    found = environment(*SERVER, *EXPORT, numpy="2.1.0")
    for extra in ("[steps]", "[server]"):
        assert found[extra].found == "numpy<2 (2.1.0 is here)"
        assert found[extra].remedy == "pip install 'numpy<2'"
    assert not found["[client]"].remedy and not found["[export]"].remedy
    monkeypatch.setattr(checks.machine, "installed", lambda name: "2.1.0")
    assert "numpy<2" in by_name("numpy").remedy


def test_a_half_installed_extra_is_to_be_mended_and_what_is_whole_is_not(environment):
    here = {*SERVER, *EXPORT} - {"simplejpeg", "torch"}
    found = environment(*here)
    for extra, lacking in {
        "[steps]": ["simplejpeg"],
        "[server]": ["simplejpeg"],
        "[export]": ["simplejpeg", "torch"],
    }.items():
        assert found[extra].found == ", ".join(f"{name} is missing" for name in lacking)
        assert found[extra].remedy.startswith("pip install 'simplejpeg>=")
        assert "depthface" not in found[extra].remedy
    assert found["[client]"].found == "2 of 2"


@pytest.mark.parametrize(
    ("here", "whole"),
    [
        (ALONE, ()),
        (CLIENT, ("[client]",)),
        # What others bring: the project around a client, and what tokenizers needs.
        ((*CLIENT, "requests", "torch", "onnxruntime"), ("[client]",)),
        ((*STEPS, "huggingface-hub"), ("[client]", "[steps]")),
        ((*SERVER, "huggingface-hub"), ("[client]", "[steps]", "[server]")),
        ({*SERVER, *EXPORT} - {"nvidia-pytriton"}, ("[client]", "[steps]", "[export]")),
        ((*SERVER, *EXPORT), ("[client]", "[steps]", "[server]", "[export]")),
        ((*SERVER, *EXPORT, "onnxruntime-gpu"), ("[client]", "[steps]", "[server]", "[export]")),
    ],
    ids=["itself", "a client", "a project", "NVIDIA's container", "a server", "an export", "all", "both runtimes"],
)
def test_an_extra_that_nobody_asked_for_is_no_fault(environment, here, whole):
    found = environment(*here)
    assert {extra for extra, finding in found.items() if not finding.found.startswith("not installed")} == {*whole}
    assert not any(finding.remedy for finding in found.values())


def test_the_gpus_onnxruntime_stands_for_the_other(environment):
    found = environment(*({*SERVER, *EXPORT, "onnxruntime-gpu"} - {"onnxruntime"}))
    assert not any(finding.remedy for finding in found.values()), found
    assert not any(finding.found.startswith("not installed") for finding in found.values())


def test_what_has_no_wheel_for_a_machine_is_not_missed_there(environment, monkeypatch):
    arm = markers.default_environment() | {"platform_machine": "aarch64"}
    monkeypatch.setattr(markers, "default_environment", lambda: arm)
    found = environment(*({*SERVER, *EXPORT} - {"cykooz-resizer", "nvidia-pytriton"}))
    assert not any(finding.remedy for finding in found.values()), found
    assert not any(finding.found.startswith("not installed") for finding in found.values())


def test_another_python_glibc_or_cpu_is_to_be_mended(monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(checks.sys, "version_info", (3, 13, 0))
        assert "3.12" in checks._python().remedy
    monkeypatch.setattr(checks.platform, "libc_ver", lambda: ("glibc", "2.31"))
    assert "2.35" in checks._glibc().remedy
    monkeypatch.setattr(checks.platform, "machine", lambda: "aarch64")
    assert checks._cpu().remedy


def test_a_missing_wheel_or_library_is_to_be_mended(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "depthface[server]" in by_name("Triton").remedy


def test_the_triton_that_is_looked_at_is_the_one_that_serve_runs(monkeypatch, tmp_path):
    monkeypatch.setenv(FOLDER, str(tmp_path))
    assert "There is no Triton in" in checks._triton().found


def test_too_little_room_is_to_be_mended(monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: usage(64 * 2**20, 0, 64 * 2**20))
    assert "shm-size" in by_name("/dev/shm").remedy
    assert by_name("disk").remedy


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exit 9", "fails"),
        ("echo broken >&2; exit 1", "broken"),
        ("echo 'NVIDIA X, 9.0, 550.1'", "NVIDIA X, 9.0, driver 550.1"),
    ],
)
def test_a_gpu_is_named_and_a_broken_driver_is_to_be_mended(monkeypatch, tmp_path, script, said):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = by_name("GPU")
    assert said in found.found
    assert bool(found.remedy) == ("exit" in script)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    if not found.remedy:
        assert by_name("GPU").found == "none that CUDA_VISIBLE_DEVICES= allows: models run on the CPU"


def test_weights_in_the_caches_are_checked(monkeypatch, tmp_path):
    card = card_named("depth_anything_v2_small")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    assert card.name in by_name("weights").found
    path = exports._cached(card, card.weights.files[0])
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    assert f"Delete {path}" in by_name(f"weights {card.name}").remedy


def test_weights_without_a_recorded_checksum_are_not_called_published(monkeypatch, tmp_path):
    card = card_named("depth_anything_v2_base")
    assert {file.sha256 for file in card.weights.files} == {None}
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    for file in card.weights.files:
        path = exports._cached(card, file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("anything")
    found = by_name(f"weights {card.name}")
    assert found.found == "in the cache; no checksum is recorded of config.json, model.safetensors"
    assert not found.remedy
    assert locate(card, str(path.parent)).origin.startswith("folder "), "an export of that folder says the same"


def test_weights_are_looked_for_where_nobody_has_a_home(monkeypatch, tmp_path):
    """As for a user of a container whom its image does not know."""

    def nobody(_: int) -> None:
        raise KeyError("no such user")

    for name in ("HOME", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.chdir(tmp_path)
    ((name, found),) = exports.of_weights()
    assert name == "weights"
    assert "depth_anything_v2_small" in found and "buffalo_l" in found


HUB_VARIABLES = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME")


@pytest.mark.parametrize("value", ["/somewhere", "~/kept", "$HOME/kept"])
@pytest.mark.parametrize("names", [(), *((name,) for name in HUB_VARIABLES), HUB_VARIABLES], ids=" ".join)
def test_the_cache_is_where_the_hub_keeps_it(monkeypatch, tmp_path, names, value):
    """The library's own idea of the path, which the check does not import."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in HUB_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name in names:
        monkeypatch.setenv(name, f"{value}/{name}")
    found = runpy.run_path(hub_constants())["HF_HUB_CACHE"]
    card = card_named("depth_anything_v2_small")
    assert exports._cached(card, card.weights.files[0]).is_relative_to(found)
    assert str(exports._hub()) == found


def hub_constants() -> str:
    """The library's file of constants, which alone is quicker to run than the library to import."""
    (folder,) = importlib.util.find_spec("huggingface_hub").submodule_search_locations
    return f"{folder}/constants.py"


def test_the_hub_finds_what_the_check_finds(monkeypatch, tmp_path):
    import huggingface_hub as hub

    card = card_named("depth_anything_v2_small")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    path = exports._cached(card, card.weights.files[0])
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    found = hub.try_to_load_from_cache(
        card.weights.repo_id, path.name, revision=card.weights.revision, cache_dir=tmp_path
    )
    assert found == str(path)


def test_a_repository_that_holds_no_manifest_that_can_be_read_is_to_be_mended(tmp_path):
    folder = tmp_path / "m" / "1"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{")
    assert "cannot be read" in by_name(f"repository {tmp_path}", tmp_path).found


def test_a_config_that_cannot_be_read_is_to_be_mended_and_the_rest_is_looked_at(repository, tmp_path):
    spoilt = Path(shutil.copytree(repository, tmp_path / "spoilt"))
    path = spoilt / NETWORK / "config.pbtxt"
    path.write_text("max_batch_size: many")
    found = list(checks.findings(spoilt))
    (finding,) = (finding for finding in found if finding.name == f"repository {spoilt}" and finding.remedy)
    assert str(path) in finding.found
    assert found[-1].name.startswith("port ")


def test_a_file_that_this_user_may_not_read_is_to_be_mended(repository, monkeypatch):
    def forbidden(_: Path) -> list:
        raise PermissionError(errno.EACCES, "Permission denied", "model.onnx")

    monkeypatch.setattr(exports, "verdicts", forbidden)
    found = by_name(f"repository {repository}", repository)
    assert found.found == "model.onnx cannot be read (Permission denied)"
    assert found.remedy
