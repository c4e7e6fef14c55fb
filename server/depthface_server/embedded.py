"""A Triton run by this process: started, watched while it starts, and ended whole."""

from __future__ import annotations

import ctypes
import json
import os
import re
import resource
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from depthface import admin, cache
from depthface.contract import ADMIN_HEADER, EXPORTED_CONFIG_NAME
from depthface.errors import ServeError
from depthface_server.installation import Installation
from depthface_server.options import Options, concealed, queued
from depthface_server.recoveries import RECOVERIES
from depthface_server.repository import has_version_compatible_engine

__all__ = ["Address", "Triton"]

_SHM = Path("/dev/shm")

_STACK_BYTES = 2**30
"""Of address space for each thread; memory is used only as far as a stack grows."""

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
        models: what to load.
        address: where to listen.
        options: how to operate it.
        installation: the Triton to run; by default the one that is found.
    """

    def __init__(
        self,
        repository: Path,
        models: Sequence[str],
        address: Address,
        options: Options | None = None,
        installation: Installation | None = None,
    ) -> None:
        self.address = address
        self.options = options or Options()
        self.log = cache.folder() / "logs" / f"triton-{address.http_port}.log"
        self.recoveries = cache.folder() / "recoveries" / f"{address.http_port}.json"
        self._installation = installation or Installation.find()
        self._repository = repository
        self._models = tuple(models)
        self._shm_prefix = f"depthface_{os.getpid()}_{_pid_namespace()}_"
        self._process: subprocess.Popen[bytes] | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Triton:
        _sweep()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.recoveries.unlink(missing_ok=True)
        copy = cache.folder() / "queues" / str(self.address.http_port)
        repository = self._stack.enter_context(queued(self._repository, self.options, copy))
        admin.publish(self.address.http_port, self.options.admin_key)
        self._stack.callback(admin.hide, self.address.http_port)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command(repository),
                env={
                    **self._installation.environment,
                    **self.options.environment(),
                    RECOVERIES: str(self.recoveries),
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C comes to this process alone, which then ends that one in order
                preexec_fn=_prepare,
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
        if self._process is not None:
            concealed(self._process.pid, self.options.admin_key)
        failed = [model for model in self._index() if model.get("state") != "READY"]
        if failed:
            model = max(failed, key=lambda model: "reason" in model)
            raise ServeError(f"{model['name']} cannot be loaded: {_reason(model)} (log: {self.log})")

    def reap(self) -> None:
        """Bury the dead children that are not the server: the first process of a container inherits every orphan."""
        with suppress(ChildProcessError):
            while (dead := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
                if self._process is not None and dead.si_pid == self._process.pid:
                    return
                os.waitpid(dead.si_pid, 0)

    def processes(self, model: str) -> set[int]:
        """The Python processes of a model."""
        return {
            pid
            for pid, words in _stubs()
            if f"/{model}/" in words[0] and any(word.startswith(self._shm_prefix) for word in words)
        }

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
        self._stack.close()

    def _command(self, repository: Path) -> list[str]:
        address = self.address
        return [
            str(self._installation.program),
            f"--model-repository={repository.resolve()}",
            f"--backend-directory={self._installation.backends}",
            "--model-control-mode=explicit",
            *(f"--load-model={model}" for model in self._models),
            f"--model-config-name={EXPORTED_CONFIG_NAME}",
            f"--http-address={address.host}",
            f"--http-port={address.http_port}",
            f"--grpc-address={address.host}",
            f"--grpc-port={address.grpc_port}",
            f"--metrics-address={address.host}",
            f"--metrics-port={address.metrics_port}",
            f"--backend-config=python,shm-region-prefix-name={self._shm_prefix}",
            *(
                ["--backend-config=tensorrt,version-compatible=true"]  # tensorrt_backend, README.md
                if has_version_compatible_engine(self._repository)
                else []
            ),
            # A model that fails is reported by name through the index, not by an exit.
            "--exit-on-error=false",
            "--exit-timeout-secs=5",
            *self.options.arguments(self._installation.limits_bodies),
        ]

    def _is_live(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address.url}/v2/health/live", timeout=2) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    def _index(self) -> list[dict[str, str]]:
        key = {ADMIN_HEADER: self.options.admin_key}
        request = urllib.request.Request(f"{self.address.url}/v2/repository/index", data=b"{}", headers=key)
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


def _sweep() -> None:
    """Remove what killed servers left: regions in /dev/shm, and Python processes, which wait for ever if Triton ended
    before it took their answer (python_backend, pb_stub.cc, `ProcessRequests`).
    """
    for region in _SHM.glob("depthface_*"):
        if _is_left(region.name):
            region.unlink(missing_ok=True)
    for pid, words in _stubs():
        if any(map(_is_left, words)):
            with suppress(OSError):  # it has ended meanwhile, or is another user's
                os.kill(pid, signal.SIGKILL)


def _stubs() -> Iterator[tuple[int, list[str]]]:
    """Every process of Triton's Python backend, of whichever server: its ID, and the words after its program's name."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            program, *words = (process / "cmdline").read_text(errors="replace").split("\0")
            if program.endswith("/triton_python_backend_stub"):
                yield int(process.name), words


def _is_left(name: str) -> bool:
    """Whether a region's name is of a server that has ended; of another container's only that one knows who lives."""
    found = re.match(rf"depthface_(\d+)_{_pid_namespace()}_", name)
    return found is not None and not Path("/proc", found[1]).exists()


def _pid_namespace() -> str:
    """Where process IDs mean what they mean here (pid_namespaces(7)); containers may share /dev/shm and not these."""
    return str(Path("/proc/self/ns/pid").stat().st_ino)


def _prepare() -> None:
    """In the child, before Triton: die with the parent (prctl(2), PR_SET_PDEATHSIG = 1), and stand long bodies.

    Triton keeps a list of a body's pieces on its thread's stack (http_server.cc, `alloca`): under the usual 8 MiB, ten
    megabytes sent in chunks of four bytes end the server.
    """
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    _, hard = resource.getrlimit(resource.RLIMIT_STACK)
    size = _STACK_BYTES if hard == resource.RLIM_INFINITY else min(_STACK_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_STACK, (size, hard))
