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
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from depthface import cache
from depthface.errors import ServeError
from depthface_server.workspace import Workspace

__all__ = ["FOLDER", "Installation"]

FOLDER = "DEPTHFACE_TRITON"
"""The variable that names the folder of the Triton to run."""

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
        libraries: the folders of the shared libraries that it needs.
        is_native: it has NVIDIA's own backends, which compute in Triton's process.
    """

    program: Path
    backends: Path
    libraries: tuple[Path, ...] = ()
    is_native: bool = False

    def environment_in(self, workspace: Workspace) -> dict[str, str]:
        """Return this process's environment, made fit for a run of this Triton in a workspace.

        Every path in it has a plain name.
        """
        libraries = [workspace.plain(f"lib-{number}", folder) for number, folder in enumerate(self.libraries)]
        # What names other code than that of this environment is left out.
        kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
        # By itself CUDA takes the fastest GPU for the first; nvidia-smi, and so `machine.gpus`, goes by the bus.
        kept.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
        return kept | {
            # The stub runs the first python3 on PATH and so finds the packages of this one.
            "PATH": f"{workspace.make_python()}:{os.environ.get('PATH', '')}",
            "LD_LIBRARY_PATH": ":".join([*map(str, libraries), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]),
        }

    @classmethod
    def find(cls, folder: Path | None = None) -> Installation:
        """Return the one in `folder`, or in that which `FOLDER` names, or in /opt/tritonserver, or the wheel's.

        Raises `ServeError` if there is none, or it is for another Python.
        """
        if folder is None and os.environ.get(FOLDER):
            folder = Path(os.environ[FOLDER])
        if folder is None and (_NVIDIA / "bin" / "tritonserver").is_file():
            folder = _NVIDIA
        # Triton is started in a working folder of its own, from which a relative path would lead elsewhere.
        return _from_wheel(_wheel()) if folder is None else _native(folder.absolute())

    def runs_in_python(self, backend: str) -> bool:
        """Return whether each instance of a model of this backend is a Python process.

        Triton takes a backend's library where there is one, and its `model.py` otherwise (backend_model.cc).
        """
        folder = self.backends / backend
        return backend == "python" or (
            bool(backend) and (folder / "model.py").is_file() and not (folder / f"libtriton_{backend}.so").is_file()
        )

    @property
    def limits_bodies(self) -> bool:
        """True if it can refuse an HTTP body for its length. Those that can refuse 64 MiB unless told otherwise."""
        return b"http-max-input-size" in self.program.read_bytes()

    @property
    def limits_ensembles(self) -> bool:
        """True if it knows a bound on what is between the steps of an ensemble: from 25.11 on, useful from 26.04 on."""
        return b"max_inflight_requests" in self.program.read_bytes()


def _native(folder: Path) -> Installation:
    """NVIDIA's layout, with backends of its own, and a stub for the one Python that its image has."""
    program = folder / "bin" / "tritonserver"
    stub = folder / "backends" / "python" / "triton_python_backend_stub"
    for path in (program, stub):
        if not path.is_file():
            raise ServeError(
                f"There is no Triton in {folder}: it has no {path.relative_to(folder)}.",
                "Name the folder that NVIDIA's image has at /opt/tritonserver, or none, for the wheel's.",
            )
    # The stub embeds the Python that it was linked with and would import this one's packages into it.
    linked = re.search(rb"libpython(3\.\d+)\.so", stub.read_bytes())
    if linked and linked[1].decode() != _PYTHON:
        raise ServeError(
            f"The Triton in {folder} runs Python {linked[1].decode()} and this is Python {_PYTHON}.",
            "Install depthface in an environment with that version of Python.",
        )
    return Installation(program, folder / "backends", (folder / "lib", *_libpython()), is_native=True)


def _from_wheel(wheel: Path) -> Installation:
    libraries = (wheel.parent.parent / "nvidia_pytriton.libs", *_libpython())
    return Installation(wheel / "bin" / "tritonserver", _lay_out(wheel), libraries)


def _wheel() -> Path:
    """Return the `tritonserver` folder of the installed wheel."""
    spec = importlib.util.find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        raise ServeError("The nvidia-pytriton wheel is not installed.", "Install it: pip install 'depthface[server]'")
    wheel = Path(spec.submodule_search_locations[0]) / "tritonserver"
    stub = wheel / "python_backend_stubs" / _PYTHON / "triton_python_backend_stub"
    if not stub.is_file():
        raise ServeError(f"The nvidia-pytriton wheel has no stub for Python {_PYTHON}.", "Use Python 3.11 or 3.12.")
    return wheel


def _sha256(*files: Path) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def _lay_out(wheel: Path) -> Path:
    """Return the backend directory, copied from the wheel and this package (Triton refuses links out of it).

    Its name is of its content: servers of another version, or of another environment, have one of their own. One that
    holds something else by now, after a power cut or what cleans caches, is laid out anew: Triton hangs on it.
    """
    files = {
        "python/libtriton_python.so": wheel / "backends/python/libtriton_python.so",
        "python/triton_python_backend_utils.py": wheel / "backends/python/triton_python_backend_utils.py",
        "python/triton_python_backend_stub": wheel / "python_backend_stubs" / _PYTHON / "triton_python_backend_stub",
    } | {f"{model.parent.name}/model.py": model for model in sorted(_BACKENDS.glob("*/model.py"))}
    content = _sha256(*files.values())
    parent = cache.make_folder("")
    backends = parent / f"backends-{_PYTHON}-{content[:12]}"
    with suppress(OSError):
        if _sha256(*(backends / name for name in files)) == content:
            return backends
    with cache.writing(parent), tempfile.TemporaryDirectory(dir=parent, prefix=".backends-") as folder:
        aside = Path(folder, "backends")
        for name, source in files.items():
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, aside / name)
            with (aside / name).open("rb") as file:
                os.fsync(file.fileno())
        with suppress(FileNotFoundError):
            backends.rename(Path(folder, "damaged"))
        with suppress(OSError):  # another server was first
            aside.rename(backends)
    return backends


def _libpython() -> list[Path]:
    """Return the folder of the shared library that the stub is linked with, which the linker would not find."""
    name = f"libpython{_PYTHON}.so.1.0"
    folder = sysconfig.get_config_var("LIBDIR")
    if folder and (Path(folder) / name).is_file():
        return [Path(folder)]
    try:
        ctypes.CDLL(name)
    except OSError as error:
        raise ServeError(
            f"Triton's Python backend needs {name}, which this Python was built without.",
            f"Install the system's package (Debian and Ubuntu: apt install libpython{_PYTHON}).",
        ) from error
    return []
