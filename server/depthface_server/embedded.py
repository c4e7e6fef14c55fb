"""A Triton run by this process: started, watched while it starts, started again, and ended whole."""

from __future__ import annotations

import ctypes
import logging
import os
import resource
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Collection, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from types import TracebackType

from depthface import admin, cache
from depthface.contract import EXPORTED_CONFIG_NAME
from depthface.errors import ServeError
from depthface_server import processes
from depthface_server.address import Address
from depthface_server.api import Api, ApiError
from depthface_server.installation import Installation
from depthface_server.limited import LimitedCopy, changes_queues, has_ensembles
from depthface_server.log import bounded, keep
from depthface_server.options import Options, hide_secret
from depthface_server.recoveries import RECOVERIES, RESTARTS
from depthface_server.repository import has_version_compatible_engine
from depthface_server.workspace import Workspace, parents

__all__ = ["OPEN_FILES", "Triton"]

_log = logging.getLogger(__name__)

_STACK_BYTES = 2**30
"""Of address space for each thread; memory is used only as far as a stack grows."""

_OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")
"""2 where the system sets aside all of a stack, used or not (proc(5))."""

OPEN_FILES = 65536
"""As many as docker-compose.yml allows. Each connection is one, and Triton takes in thousands."""

_START_TIMEOUT_S = 300.0
_STOP_TIMEOUT_S = 8.0
"""After SIGTERM and this long the rest is killed; Triton itself waits `--exit-timeout-secs` for open requests."""


class Triton:
    """One `tritonserver` process and its children, as a context manager.

    Args:
        repository: the model repository.
        models: what to load.
        address: where to listen.
        options: how to operate it.
        installation: the Triton to run; by default the one that is found.

    Attributes:
        log: what it writes, in the cache folder.
        recoveries: the file that counts each model's, while it runs.
        api: its operator's calls.
    """

    log: Path
    recoveries: Path

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
        self.api = Api(address.ip, address.http_port, self.options.admin_key)
        self.models = tuple(models)
        self._installation = installation or Installation.find()
        self._repository = repository
        self._region = processes.prefix()
        self._id = f"depthface-{secrets.token_hex(8)}"
        self._process: subprocess.Popen[bytes] | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Triton:
        processes.sweep(parents())
        self.log = cache.make_folder("logs") / f"triton-{self.address.ip}-{self.address.http_port}.log"
        with ExitStack() as stack:
            stack.enter_context(self.address.held())  # before its log and its key are touched
            self._stack_bytes = _stack_bytes()
            self._workspace = stack.enter_context(Workspace.temporary())
            with cache.writing(self._workspace.folder):
                self._lay_out(stack)
            for port in (self.address.http_port, self.address.grpc_port):
                admin.publish(self.address.ip, port, self.options.admin_key)
                stack.callback(admin.hide, self.address.ip, port, self.options.admin_key)
            self._start(restarts=0)
            stack.enter_context(bounded(self.log))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def is_running(self) -> bool:
        """True while the server process lives."""
        return self._process is not None and self._process.poll() is None

    def cause(self) -> str:
        """Say what the process died of, or that it lives and does not answer."""
        code = self._process.poll() if self._process else None
        if code is None:
            return "did not answer in time"
        if code >= 0:
            return f"ended by itself with exit code {code}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = "a signal"
        hint = "; the system does so too where memory runs out" if -code == signal.SIGKILL else ""
        return f"was ended by {name} (signal {-code}{hint})"

    def wait_until_ready(self, stop: threading.Event) -> None:
        """Return when every model serves, or `stop` is set; raise `ServeError` with the reason if one cannot."""
        if self.wait_until_live(stop) and (failed := self.failures()):
            name, reason = max(failed.items(), key=lambda item: item[1] != "unknown")
            raise ServeError(f"{name} cannot be loaded: {reason} (log: {self.log})")

    def wait_until_live(self, stop: threading.Event) -> bool:
        """Return True when the server answers, False when `stop` is set; raise `ServeError` if it does neither."""
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self.api.is_live(self._id):
            if stop.wait(0.1):
                return False
            if not self.is_running:
                raise ServeError(
                    f"Triton {self.cause()} while starting: {self._last_error()} (log: {self.log}).",
                    "See what `depthface doctor` says of this machine.",
                )
            if time.monotonic() > deadline:
                raise ServeError(
                    f"Triton did not start within {_START_TIMEOUT_S:.0f} s (log: {self.log}).",
                    "The machine may be busy: try again, or load fewer models.",
                )
        if self._process is not None and not hide_secret(self._process.pid, self.options.admin_key):
            _log.warning(
                "the operator's key stays on Triton's command line, where other users of this machine can see it: the "
                "system does not let it be overwritten (kernel.yama.ptrace_scope, or a container's rules)"
            )
        return True

    def failures(self) -> dict[str, str]:
        """Return the models that were to be loaded and do not serve, each with the reason; none that was taken out."""
        try:
            index = self.api.index()
        except ApiError as error:
            raise ServeError(
                f"Triton does not list its models: {error} (log: {self.log}).", "Start `depthface serve` again."
            ) from error
        # Folders that nobody asked to load are listed too, without a state.
        asked = [model for model in index if model.get("state") or model["name"] in self.models]
        return {
            model["name"]: _reason(model)
            for model in asked
            if model.get("state") not in ("READY", "UNLOADING") and model.get("reason") != "unloaded"
        }

    def wait(self) -> None:
        """Return when the server process has ended; bury its orphans, which the first process of a container inherits.

        Where anybody else asks for its end meanwhile, it may not return.
        """
        with suppress(ChildProcessError):
            while (dead := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)) is not None:
                if self._process is not None and dead.si_pid == self._process.pid:
                    return
                os.waitpid(dead.si_pid, 0)

    def processes(self) -> dict[str, frozenset[int]]:
        """Return the IDs of the living Python processes by model."""
        return processes.by_model(self._process.pid, self._served) if self._process is not None else {}

    def count_processes(self, model: str) -> int:
        """Return how many Python processes a version of a loaded model has, by its config; raises `ApiError`.

        A network in Triton's own process has none, and an ensemble neither.
        """
        found = self.api.config(model)
        if not self._installation.runs_in_python(found.get("backend", "")):
            return 0
        return sum(
            int(group.get("count", 1)) * max(len(group.get("gpus", ())), 1) for group in found.get("instance_group", ())
        )

    def restart(self, models: Collection[str], restarts: int) -> None:
        """Start the server again at the same ports, with `models`, after what is left of it is gone.

        Call it from the main thread alone: a child dies with the thread that made it.
        """
        self._end()
        self.models = tuple(models)
        self._start(restarts)

    def stop(self) -> None:
        """End the server and all its children within 10 s, and leave nothing of it in /dev/shm."""
        self._end()
        self._stack.close()

    def _lay_out(self, stack: ExitStack) -> None:
        """Give every folder that Triton meets a plain name."""
        workspace = self._workspace
        self.recoveries = workspace.folder / "recoveries.json"
        limits_ensembles = self._installation.limits_ensembles and has_ensembles(self._repository)
        if changes_queues(self.options) or limits_ensembles:
            copy = LimitedCopy(
                self._repository, self.options, workspace.folder / "limits", limits_ensembles=limits_ensembles
            )
            stack.enter_context(copy.following())
            self._served = copy.folder
        else:
            self._served = workspace.plain("repository", self._repository)
        self._backends = workspace.plain("backends", self._installation.backends)
        self._environment = {
            **self._installation.environment_in(workspace),
            **self.options.environment(),
            RECOVERIES: str(self.recoveries),
        }

    def _start(self, restarts: int) -> None:
        with cache.writing(self.log):
            keep(self.log, self.log)
            log = self.log.open("ab")
        with log:
            try:
                self._process = subprocess.Popen(
                    self._command(),
                    env=self._environment | {RESTARTS: str(restarts)},
                    cwd=self._workspace.work,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C comes to this process alone, which then ends that one in order
                    preexec_fn=partial(_prepare, self._stack_bytes),
                )
            except OSError as error:  # its folder was cleaned away, or there are too many processes
                raise ServeError(f"Triton cannot be started: {error}.", "Start `depthface serve` again.") from error

    def _end(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_TIMEOUT_S)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for region in processes.SHM.glob(f"{self._region}*"):
            if not region.is_dir():  # the workspace, where there is room nowhere else
                region.unlink(missing_ok=True)

    def _command(self) -> list[str]:
        return [
            str(self._installation.program),
            f"--id={self._id}",
            f"--model-repository={self._served}",
            f"--backend-directory={self._backends}",
            "--model-control-mode=explicit",
            *(f"--load-model={model}" for model in self.models),
            f"--model-config-name={EXPORTED_CONFIG_NAME}",
            *self.address.arguments(),
            f"--backend-config=python,shm-region-prefix-name={self._region}",
            # One pool of threads for all networks, which a pool each would fight over (onnxruntime_backend, README.md).
            *(["--backend-config=onnxruntime,enable-global-threadpool=1"] if self._installation.is_native else []),
            *(
                ["--backend-config=tensorrt,version-compatible=true"]  # tensorrt_backend, README.md
                if has_version_compatible_engine(self._repository)
                else []
            ),
            # What an export has written is whole. To complete a config, Triton starts and ends a process of the model
            # before those that serve, which takes more than a second. NVIDIA's backends complete theirs in no process.
            *([] if self._installation.is_native else ["--disable-auto-complete-config"]),
            # A model that fails is reported by name through the index, not by an exit.
            "--exit-on-error=false",
            "--exit-timeout-secs=5",
            *self.options.arguments(self._installation.limits_bodies),
        ]

    def _last_error(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        errors = [line for line in lines if line.startswith(("E", "error:")) or "error while loading" in line]
        return errors[-1].partition("] ")[2] or errors[-1] if errors else "no error in its log"


def _reason(model: dict[str, str]) -> str:
    """Return the sentence in what the index says of a model; a Python exception's `At:` and its paths are cut off."""
    text = model.get("reason", "unknown").partition("\nAt:")[0].strip().rstrip(";")
    return text.rpartition("TritonModelException: ")[2] or text


def _stack_bytes() -> int:
    """Return what the limit of Triton's stacks is to be.

    Triton keeps a list of a body's pieces on its stack (http_server.cc, `alloca`); under the usual 8 MiB, ten megabytes
    sent in chunks of four bytes end the server. The limit is what glibc gives every thread.
    """
    usual, hard = resource.getrlimit(resource.RLIMIT_STACK)
    with suppress(OSError):
        if _OVERCOMMIT.read_text().strip() == "2":
            _log.warning(
                "vm.overcommit_memory is 2: stacks stay as they are, and a long body in a million pieces can end Triton"
            )
            return usual
    return _STACK_BYTES if hard == resource.RLIM_INFINITY else min(_STACK_BYTES, hard)


def _prepare(stack_bytes: int) -> None:
    """Prepare the child before Triton starts: its end with this process (prctl(2), PR_SET_PDEATHSIG), its limits.

    With no file left to open Triton answers nobody, and tries again as fast as it can, with a line of its log each time
    (libevent, `evconnlistener`). The usual limit, 1024, is as many idle connections.
    """
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    _, hard = resource.getrlimit(resource.RLIMIT_STACK)
    resource.setrlimit(resource.RLIMIT_STACK, (stack_bytes, hard))
    usual, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(usual, min(OPEN_FILES, hard)), hard))
