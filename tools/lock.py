"""`make lock`: resolves what pyproject.toml asks for, once, and writes the versions and the hashes of their files.

    constraints.txt         every version, for those who install by `pip install --constraint`
    requirements.lock       the same with the sha256 of every file that may be installed: what `make setup` takes
    requirements-cuda.lock  what torch brings along where it is the CUDA build, which is what PyPI has

Versions already in constraints.txt stay. To move to newer ones, delete their lines (or the file) first.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

LEFT_OUT = ("opencv-python", "timm", "torchvision")
"""insightface asks for the first, and its cv2 needs a desktop's libraries; opencv-python-headless is the same cv2
without. open-clip-torch asks for the others, and of it only a file of words is read."""

CUDA = re.compile(r"(cuda-|nvidia-(?!pytriton)|triton==|setuptools==)")
"""What only a CUDA torch asks for."""

TORCH_CPU = {
    "cp311": "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b",
    "cp312": "4ca4a9394b0c771238a4f73590fdbbc4debad85ed0fa63d026ae1b085da7d6e2",
}
"""sha256 of PyTorch's own CPU wheels of this version (linux x86_64), which PyPI does not list."""
TORCH = "2.13.0"


def main() -> None:
    command = [
        *(str(Path(sys.executable).with_name("uv")), "pip", "compile", "pyproject.toml", "--extra", "dev"),
        *("--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_35"),
        *(
            "--constraint",
            "constraints.txt",
            "--generate-hashes",
            "--no-annotate",
            "--no-header",
            "--quiet",
            "--system-certs",
        ),
    ]
    resolved = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    entries = re.findall(r"^[^\s#].*?(?=^\S|\Z)", resolved, re.MULTILINE | re.DOTALL)
    common = [_with_cpu_wheels(entry) for entry in entries if not CUDA.match(entry)]
    cuda = [entry for entry in entries if CUDA.match(entry)]
    locked = [entry for entry in common if entry.partition("==")[0] not in LEFT_OUT]
    note = "# Made by `make lock`; do not edit.\n"
    (ROOT / "requirements.lock").write_text(note + "".join(locked))
    (ROOT / "requirements-cuda.lock").write_text(note + "".join(cuda))
    versions = [entry.split(" ", 1)[0] + "\n" for entry in common]
    (ROOT / "constraints.txt").write_text("".join(versions))


def _with_cpu_wheels(entry: str) -> str:
    if not entry.startswith("torch=="):
        return entry
    if not entry.startswith(f"torch=={TORCH} "):
        raise SystemExit(f"torch is no longer {TORCH}: give tools/lock.py the hashes of its CPU wheels.")
    return entry.rstrip() + "".join(f" \\\n    --hash=sha256:{digest}" for digest in TORCH_CPU.values()) + "\n"


if __name__ == "__main__":
    main()
