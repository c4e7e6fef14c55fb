"""A real Triton without Docker: the `tritonserver` of the nvidia-pytriton wheel, laid out and run."""

from __future__ import annotations

import ctypes
import filecmp
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from depthface.errors import ServeError

__all__ = ["Address", "Triton"]

_BACKENDS = Path(__file__).parent / "backends"
_SHM = Path("/dev/shm")
_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"

_START_TIMEOUT_S = 300.0
_STOP_TIMEOUT_S = 8.0
"""After SIGTERM and this long the rest is killed; Triton itself waits `--exit-timeout-secs` for open requests."""


@dataclass(frozen=True)
class Address:
    """Where the server listens."""

    host: str
    http_port: int
    grpc_port: int
    metrics_port: int

    @property
    def url(self) -> str:
        """The HTTP endpoint."""
        return f"http://{self.host}:{self.http_port}"

    @classmethod
    def free(cls, host: str, http_port: int, grpc_port: int, metrics_port: int) -> Address:
        """Check that every port can be bound; port 0 becomes one that is free. Raises `ServeError` naming the port."""
        sockets = []
        try:
            for name, port in (("http", http_port), ("grpc", grpc_port), ("metrics", metrics_port)):
                probe = socket.socket()
                sockets.append(probe)
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((host, port))
                except OSError as error:
                    raise ServeError(
                        f"Port {port} on {host} cannot be used ({error.strerror}). Stop what listens there, or choose "
                        f"another with --{name}-port."
                    ) from error
            return cls(host, *(probe.getsockname()[1] for probe in sockets))
        finally:
            for probe in sockets:
                probe.close()


class Triton:
    """One `tritonserver` process and its children, as a context manager.

    Args:
        repository: the model repository.
        models: what to load; the steps of an ensemble come with it.
        address: where to listen.
    """

    def __init__(self, repository: Path, models: Sequence[str], address: Address) -> None:
        self.address = address
        self.log = _cache() / "logs" / f"triton-{address.http_port}.log"
        self._repository = repository
        self._models = tuple(models)
        self._shm_prefix = f"depthface_{os.getpid()}_"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Triton:
        wheel = _wheel()
        backends = _lay_out(wheel)
        _sweep_shm()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command(wheel, backends),
                env=_environment(wheel),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C comes to this process alone, which then ends that one in order
                preexec_fn=_die_with_parent,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def is_running(self) -> bool:
        """True while the server process lives."""
        return self._process is not None and self._process.poll() is None

    def wait_until_ready(self, stop: threading.Event) -> None:
        """Return when every model serves, or `stop` is set; raise `ServeError` with the reason if one cannot."""
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self._is_live():
            if stop.wait(0.1):
                return
            if not self.is_running:
                raise ServeError(f"Triton ended while starting: {self._last_error()} (log: {self.log})")
            if time.monotonic() > deadline:
                raise ServeError(f"Triton did not start within {_START_TIMEOUT_S:.0f} s (log: {self.log})")
        failed = [model for model in self._index() if model.get("state") != "READY"]
        if failed:
            # An ensemble fails because of a step, and the step has the reason.
            model = max(failed, key=lambda model: "reason" in model)
            raise ServeError(f"{model['name']} cannot be loaded: {_reason(model)} (log: {self.log})")

    def stop(self) -> None:
        """End the server and all its children within 10 s, and leave nothing of it in /dev/shm."""
        if self._process is None:
            return
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_TIMEOUT_S)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for region in _SHM.glob(f"{self._shm_prefix}*"):
            region.unlink(missing_ok=True)

    def _command(self, wheel: Path, backends: Path) -> list[str]:
        address = self.address
        return [
            str(wheel / "bin" / "tritonserver"),
            f"--model-repository={self._repository.resolve()}",
            f"--backend-directory={backends}",
            "--model-control-mode=explicit",
            *(f"--load-model={model}" for model in self._models),
            "--model-config-name=exported",
            f"--http-address={address.host}",
            f"--http-port={address.http_port}",
            f"--grpc-address={address.host}",
            f"--grpc-port={address.grpc_port}",
            f"--metrics-address={address.host}",
            f"--metrics-port={address.metrics_port}",
            f"--backend-config=python,shm-region-prefix-name={self._shm_prefix}",
            # A model that fails is reported by name through the index, not by an exit.
            "--exit-on-error=false",
            "--exit-timeout-secs=5",
        ]

    def _is_live(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address.url}/v2/health/live", timeout=2) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    def _index(self) -> list[dict[str, str]]:
        request = urllib.request.Request(f"{self.address.url}/v2/repository/index", data=b"{}")
        with urllib.request.urlopen(request, timeout=10) as response:
            models: list[dict[str, str]] = json.load(response)
        # Folders that nobody asked to load are listed too, without a state.
        return [model for model in models if model.get("state") or model["name"] in self._models]

    def _last_error(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        errors = [line for line in lines if line.startswith(("E", "error:")) or "error while loading" in line]
        return errors[-1].partition("] ")[2] or errors[-1] if errors else "no error in its log"


def _reason(model: dict[str, str]) -> str:
    """The sentence in what the index says of a model; a Python exception's `At:` and its paths are cut off."""
    text = model.get("reason", "unknown").partition("\nAt:")[0].strip().rstrip(";")
    return text.rpartition("TritonModelException: ")[2] or text


def _wheel() -> Path:
    """The `tritonserver` folder of the installed wheel."""
    spec = importlib.util.find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        raise ServeError("The nvidia-pytriton wheel is not installed. Install it: pip install 'depthface[server]'")
    wheel = Path(spec.submodule_search_locations[0]) / "tritonserver"
    stub = wheel / "python_backend_stubs" / _PYTHON / "triton_python_backend_stub"
    if not stub.is_file():
        raise ServeError(f"The nvidia-pytriton wheel has no stub for Python {_PYTHON}. Use Python 3.10 to 3.13.")
    return wheel


def _environment(wheel: Path) -> dict[str, str]:
    libraries = [str(wheel.parent.parent / "nvidia_pytriton.libs")]
    libpython = f"libpython{_PYTHON}.so.1.0"
    folder = sysconfig.get_config_var("LIBDIR")
    if folder and (Path(folder) / libpython).is_file():
        libraries.append(folder)
    else:
        try:
            ctypes.CDLL(libpython)
        except OSError as error:
            raise ServeError(
                f"Triton's Python backend needs {libpython}, which this Python was built without. Install the "
                f"system's package (Debian and Ubuntu: apt install libpython{_PYTHON})."
            ) from error
    return os.environ | {
        # The stub runs the first python3 on PATH and so finds the packages of this one.
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
        "LD_LIBRARY_PATH": ":".join([*libraries, *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]),
        # Keep large buffers in the heap instead of mapping and zeroing them anew: 15–25 % of each Python step.
        "MALLOC_MMAP_THRESHOLD_": str(2**30),
        "MALLOC_TRIM_THRESHOLD_": str(2**32),
    }


def _lay_out(wheel: Path) -> Path:
    """Make the backend directory, copied from the wheel and this package (Triton refuses links out of it)."""
    backends = _cache() / f"backends-{_PYTHON}"
    files = {
        "python/libtriton_python.so": wheel / "backends/python/libtriton_python.so",
        "python/triton_python_backend_utils.py": wheel / "backends/python/triton_python_backend_utils.py",
        "python/triton_python_backend_stub": wheel / "python_backend_stubs" / _PYTHON / "triton_python_backend_stub",
        "onnxruntime/model.py": _BACKENDS / "onnxruntime" / "model.py",
    }
    for name, source in files.items():
        copy = backends / name
        if copy.is_file() and filecmp.cmp(source, copy, shallow=False):
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        aside = copy.with_name(f".{copy.name}.{os.getpid()}")
        shutil.copy2(source, aside)
        aside.replace(copy)  # a server that runs keeps the old one
    return backends


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "depthface"


def _sweep_shm() -> None:
    """Remove what servers that were killed left in /dev/shm."""
    for region in _SHM.glob("depthface_*_*"):
        owner = region.name.split("_")[1]
        if owner.isdigit() and not Path("/proc", owner).exists():
            region.unlink(missing_ok=True)


def _die_with_parent() -> None:
    """Have the kernel end the server if this process is killed (prctl(2), PR_SET_PDEATHSIG = 1)."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
