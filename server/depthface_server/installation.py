"""Which Triton is driven: NVIDIA's own, as its container has it, or else the one of the nvidia-pytriton wheel.

Both are a program, a folder of backends and an environment; what starts, watches and ends them is the same code.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import re
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from depthface import cache
from depthface.errors import ServeError

__all__ = ["Installation"]

_NVIDIA = Path("/opt/tritonserver")
"""Where NVIDIA's images have theirs."""

_BACKENDS = Path(__file__).parent / "backends"
_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True)
class Installation:
    """A Triton that can be run.

    Attributes:
        program: its `tritonserver`.
        backends: its backend directory.
        environment: all that it is to find in its environment.
    """

    program: Path
    backends: Path
    environment: Mapping[str, str]

    @classmethod
    def find(cls, folder: Path | None = None) -> Installation:
        """The one in `folder`, or in /opt/tritonserver if there is one, or the wheel's.

        Raises `ServeError` if there is none, or it is for another Python.
        """
        if folder is None and (_NVIDIA / "bin" / "tritonserver").is_file():
            folder = _NVIDIA
        return _from_wheel(_wheel()) if folder is None else _native(folder)

    @property
    def limits_bodies(self) -> bool:
        """True if it can refuse an HTTP body for its length. Those that can refuse 64 MiB unless told otherwise."""
        return b"http-max-input-size" in self.program.read_bytes()


def _native(folder: Path) -> Installation:
    """NVIDIA's layout, with backends of its own, and a stub for the one Python that its image has."""
    program = folder / "bin" / "tritonserver"
    stub = folder / "backends" / "python" / "triton_python_backend_stub"
    for path in (program, stub):
        if not path.is_file():
            raise ServeError(
                f"There is no Triton in {folder}: it has no {path.relative_to(folder)}. Name the folder that NVIDIA's "
                "image has at /opt/tritonserver, or none, for the wheel's."
            )
    # The stub embeds the Python that it was linked with and would import this one's packages into it.
    linked = re.search(rb"libpython(3\.\d+)\.so", stub.read_bytes())
    if linked and linked[1].decode() != _PYTHON:
        raise ServeError(
            f"The Triton in {folder} runs Python {linked[1].decode()} and this is Python {_PYTHON}. Install depthface "
            "for that one."
        )
    return Installation(program, folder / "backends", _environment([folder / "lib"]))


def _from_wheel(wheel: Path) -> Installation:
    return Installation(
        wheel / "bin" / "tritonserver", _lay_out(wheel), _environment([wheel.parent.parent / "nvidia_pytriton.libs"])
    )


def _wheel() -> Path:
    """The `tritonserver` folder of the installed wheel."""
    spec = importlib.util.find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        raise ServeError("The nvidia-pytriton wheel is not installed. Install it: pip install 'depthface[server]'")
    wheel = Path(spec.submodule_search_locations[0]) / "tritonserver"
    stub = wheel / "python_backend_stubs" / _PYTHON / "triton_python_backend_stub"
    if not stub.is_file():
        raise ServeError(f"The nvidia-pytriton wheel has no stub for Python {_PYTHON}. Use Python 3.11 or 3.12.")
    return wheel


def _lay_out(wheel: Path) -> Path:
    """The backend directory, copied from the wheel and this package (Triton refuses links out of it).

    Its name is of its content: servers of another version, or of another environment, have one of their own.
    """
    files = {
        "python/libtriton_python.so": wheel / "backends/python/libtriton_python.so",
        "python/triton_python_backend_utils.py": wheel / "backends/python/triton_python_backend_utils.py",
        "python/triton_python_backend_stub": wheel / "python_backend_stubs" / _PYTHON / "triton_python_backend_stub",
    } | {f"{model.parent.name}/model.py": model for model in sorted(_BACKENDS.glob("*/model.py"))}
    content = hashlib.sha256(b"".join(source.read_bytes() for source in files.values())).hexdigest()
    backends = cache.folder() / f"backends-{_PYTHON}-{content[:12]}"
    if not backends.is_dir():
        backends.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=backends.parent, prefix=".backends-") as folder:
            aside = Path(folder, "backends")
            for name, source in files.items():
                (aside / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, aside / name)
            with suppress(OSError):  # another server was first
                aside.rename(backends)
    return backends


def _environment(libraries: Sequence[Path]) -> dict[str, str]:
    """This process's environment, made fit for a Triton that needs the folders `libraries`."""
    folders = [str(folder) for folder in (*libraries, *_libpython())]
    return os.environ | {
        # The stub runs the first python3 on PATH and so finds the packages of this one.
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
        "LD_LIBRARY_PATH": ":".join([*folders, *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]),
        # Keep large buffers in the heap instead of mapping and zeroing them anew: 15–25 % of each Python step.
        "MALLOC_MMAP_THRESHOLD_": str(2**30),
        "MALLOC_TRIM_THRESHOLD_": str(2**32),
        # Of one heap that holds for every thread; each further one gives its pages back at once: 2 % of a 12-megapixel
        # photo in bf16.
        "MALLOC_ARENA_MAX": "1",
    }


def _libpython() -> list[Path]:
    """The folder of the shared library that the stub is linked with, where the linker would not look by itself."""
    name = f"libpython{_PYTHON}.so.1.0"
    folder = sysconfig.get_config_var("LIBDIR")
    if folder and (Path(folder) / name).is_file():
        return [Path(folder)]
    try:
        ctypes.CDLL(name)
    except OSError as error:
        raise ServeError(
            f"Triton's Python backend needs {name}, which this Python was built without. Install the system's package "
            f"(Debian and Ubuntu: apt install libpython{_PYTHON})."
        ) from error
    return []
