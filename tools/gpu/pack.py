"""`make gpu-pack`: what a GPU machine without a network lacks, in pieces that can travel, in build/gpu/pieces/.

The machine has Python 3.12 with its shared library, and PyTorch for CUDA 13. What PyTorch brings stays out, as does
depthface itself: it is the checkout that travels beside the pieces, so that nothing is measured that is older. Networks
travel as no file either: with seeded random weights they are exported there, by the real stages, in less time than
their 2 GB would travel in.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tarfile
from pathlib import Path

from pieces import MOST_PIECE_BYTES, split

from depthface_bench import setup

ROOT = Path(__file__).parents[2]
OUT = ROOT / "build" / "gpu"
PYTHON = "3.12"
GLIBC_MINOR = 35
"""What the embedded Triton needs, and no wheel may need more."""

BY_TORCH = re.compile(r"(torch|triton|cuda-.*|nvidia-(?!pytriton|ml-py).*|sympy|mpmath|networkx|setuptools)==")
"""What the machine's PyTorch brings along."""

LEFT_OUT = re.compile(r"(opencv-python|openvino-telemetry)==")
"""The first is opencv-python-headless once more, which needs a desktop's libraries. The second reports to its home."""

BESIDE = ("nvidia-ml-py", "psutil", "requests")
"""What `tools/gpu` and the benchmarks import, beside what the package asks for; they draw and serve nothing there."""

TOOL = "perf_analyzer.tar.gz"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT, help="the folder to write to (build/gpu)")
    parser.add_argument("--piece-mib", type=float, default=MOST_PIECE_BYTES / 2**20, help="the size of a piece")
    chosen = parser.parse_args()
    wheels = downloaded(requirements(), chosen.out / "wheels")
    tool = packed_tool(chosen.out / TOOL)
    found = split([*wheels, tool], chosen.out / "pieces", int(chosen.piece_mib * 2**20))
    for file in sorted(found["files"], key=lambda file: -int(file["bytes"]))[:12]:
        print(f"{file['bytes'] / 2**20:7.1f} MiB  {file['name']}")
    total = sum(piece["bytes"] for piece in found["pieces"])
    print(f"{total / 2**20:7.1f} MiB  {len(found['files'])} files in {len(found['pieces'])} pieces")


def requirements() -> list[str]:
    """Resolve what the benchmarks need on that Python, with ONNX Runtime for CUDA in the other one's place."""
    command = [
        *(str(Path(sys.executable).with_name("uv")), "pip", "compile", "pyproject.toml", "-"),
        *("--extra", "client", "--extra", "export", "--extra", "server"),
        *("--python-version", PYTHON, "--python-platform", f"x86_64-manylinux_2_{GLIBC_MINOR}"),
        *("--constraint", "constraints.txt", "--no-annotate", "--no-header", "--quiet", "--system-certs"),
    ]
    text = subprocess.run(
        command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, input="\n".join(BESIDE)
    ).stdout
    return kept([line for line in text.splitlines() if "==" in line])


def kept(lines: list[str]) -> list[str]:
    """Return what has to travel of resolved requirements, `name==version` each."""
    ours = [line for line in lines if not BY_TORCH.match(line) and not LEFT_OUT.match(line)]
    return [re.sub(r"^onnxruntime==", "onnxruntime-gpu==", line) for line in ours]


def downloaded(wanted: list[str], folder: Path) -> list[Path]:
    """Bring `folder` to hold the wheels of `wanted` and no others; return them by name."""
    folder.mkdir(parents=True, exist_ok=True)
    there = {_named(wheel): wheel for wheel in folder.glob("*.whl")}
    missing = [line for line in wanted if _wheel_name(line) not in there]
    if missing:
        _download(missing, folder)
        there = {_named(wheel): wheel for wheel in folder.glob("*.whl")}
    names = {_wheel_name(line) for line in wanted}
    for name in there.keys() - names:
        there[name].unlink()
    if names - there.keys():
        raise SystemExit(f"There is no wheel of {', '.join(sorted(map(str, names - there.keys())))} in {folder}.")
    return [there[name] for name in sorted(names)]


def _download(wanted: list[str], folder: Path) -> None:
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in range(5, GLIBC_MINOR + 1)]
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"),
            *("--only-binary", ":all:", "--python-version", PYTHON, "--implementation", "cp"),
            *(word for one in (*platforms, "manylinux2014_x86_64") for word in ("--platform", one)),
            *("--dest", str(folder), *wanted),
        ],
        check=True,
    )


def packed_tool(path: Path) -> Path:
    """Put the perf_analyzer of the pinned wheel into one file; a machine's own, on PATH, stays where it is."""
    folder = setup.fetch().libraries
    if folder is None:
        raise SystemExit("perf_analyzer is on PATH here, and cannot travel. Run this without it on PATH.")
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, arcname=folder.name)
    return path


def _named(wheel: Path) -> tuple[str, str]:
    name, version, *_ = wheel.name.split("-")
    return re.sub(r"[-_.]+", "_", name).lower(), version


def _wheel_name(requirement: str) -> tuple[str, str]:
    name, version = requirement.split("==")
    return re.sub(r"[-_.]+", "_", name).lower(), version


if __name__ == "__main__":
    main()
