"""Wheels to an environment beside the machine's own, which stays as it is: only the standard library.

The environment has what was packed, this checkout, and links to the machine's PyTorch and what that brought along. Of
the machine's other packages it sees none: numpy is another here (Triton's Python stub needs numpy 1), and a package
that was built for the machine's would break.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

__all__ = ["LIBPYTHON", "ROOT", "brought_by", "has_libpython", "install"]

ROOT = Path(__file__).parents[2]
_VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"

LIBPYTHON = f"lib{_VERSION}.so.1.0"
"""What the embedded Triton is linked with, and no wheel brings."""


def install(files: Sequence[Path], target: Path) -> Path:
    """Make the environment anew in `target`, of this Python; return its Python.

    Raises:
        SystemExit: pip could not; it has said why.
    """
    shutil.rmtree(target, ignore_errors=True)
    venv.create(target, symlinks=True, with_pip=False)
    python = target / "bin" / "python"
    wheels = [str(path) for path in files if path.suffix == ".whl"]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "install"),
            *("--quiet", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir", *wheels),
        ],
        check=False,
    )
    if done.returncode:
        raise SystemExit("The packed wheels could not be installed; pip has said why.")
    packages = target / "lib" / _VERSION / "site-packages"
    link(brought_by("torch"), packages)
    folders = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["dev-mode-dirs"]
    (packages / "checkout.pth").write_text("".join(f"{ROOT / folder}\n" for folder in folders))
    for archive in (path for path in files if path.name.endswith(".tar.gz")):
        with tarfile.open(archive) as opened:
            opened.extractall(target, filter="data")
    return python


def has_libpython() -> bool:
    """Return whether `LIBPYTHON` is where the server looks for it (`depthface_server.installation`)."""
    if Path(sysconfig.get_config_var("LIBDIR") or "", LIBPYTHON).is_file():
        return True
    try:
        ctypes.CDLL(LIBPYTHON)
    except OSError:
        return False
    return True


def brought_by(name: str) -> Iterator[metadata.Distribution]:
    """Yield a distribution of this Python and all that it asks for, as far as that is installed; none without it."""
    waiting, seen = [name], set()
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in seen:
            continue
        seen.add(name)
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        yield found
        for requirement in found.requires or ():
            if not re.search(r";.*\bextra\b", requirement):
                waiting.append(re.match(r"[A-Za-z0-9._-]+", requirement)[0])  # type: ignore[index]


def link(distributions: Iterator[metadata.Distribution], packages: Path) -> None:
    """Link what these distributions have installed, file or folder, into `packages`; what is there already stays."""
    for distribution in distributions:
        for entry in sorted({file.parts[0] for file in distribution.files or ()}):
            source, place = Path(str(distribution.locate_file(entry))), packages / entry
            if entry in ("..", "__pycache__") or entry.endswith(".pth") or not source.exists() or place.exists():
                continue
            place.symlink_to(source.resolve())
