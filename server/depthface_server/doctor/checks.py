"""What depthface needs of a machine, one check after the other.

Nothing heavy is imported: a check may be of what cannot be.
"""

from __future__ import annotations

import os
import platform
import re
import resource
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import requires
from pathlib import Path

from depthface import machine
from depthface.cores import Cores
from depthface.errors import DepthfaceError, ServeError
from depthface.processor import VNNI, multiplies_bf16
from depthface_server.address import PORTS
from depthface_server.installation import Installation

__all__ = ["Finding", "findings"]

EXTRAS = ("client", "export", "steps", "server")

PYTHONS = ((3, 11), (3, 12))
"""Those that the server runs on: numpy 1, which Triton's Python stub needs, has no wheels for newer ones."""

GLIBC = (2, 35)
"""What the wheel of nvidia-pytriton is built for (manylinux_2_35)."""

MIN_DISK_BYTES = 4 * 2**30
"""Room for an export of Large (1.34 GB) beside the one that is there, and its temporary copy."""

MIN_SHM_BYTES = 512 * 2**20
"""Room for eight of the largest photos that are accepted (64 MiB) between steps; Docker gives 64 MiB in all."""

MIN_OPEN_FILES = 4096
"""A connection is one. With none left Triton answers nobody; `serve` takes as many as it may."""


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, what was found, and how to mend it; an empty remedy means that all is well."""

    name: str
    found: str
    remedy: str = ""


def findings(repository: Path) -> Iterator[Finding]:
    """All checks, in the order of the way from Python to ports; one that fails is a finding, and ends no other."""
    checks: dict[str, Callable[[], Finding | Iterator[Finding]]] = {
        "Python": _python,
        "packages": _packages,
        "numpy": _numpy,
        "glibc": _glibc,
        "Triton": _triton,
        "CPU": _cpu,
        "GPU": _gpu,
        "disk": lambda: _room("disk", repository, MIN_DISK_BYTES),
        "temporary folder": lambda: _room("temporary folder", Path(tempfile.gettempdir()), MIN_DISK_BYTES),
        "/dev/shm": _shm,
        "open files": _open_files,
        "exports": lambda: _exports(repository),
        **{f"port {port}": partial(_port, name, port) for name, port in PORTS.items()},
    }
    for name, check in checks.items():
        try:
            found = check()
            yield from [found] if isinstance(found, Finding) else found
        except Exception as error:  # it may be of anything: the machine is looked at because something is wrong with it
            yield _failed(name, error)


def _failed(name: str, error: Exception) -> Finding:
    if isinstance(error, OSError):
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return Finding(name, f"cannot be looked at ({what})", "Make it, or let this user read it")
    return Finding(
        name,
        f"cannot be looked at ({type(error).__name__}: {error})",
        "Install the packages anew: they may be half there",
    )


def _python() -> Finding:
    found = platform.python_version()
    if PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        return Finding("Python", found)
    remedy = "Use Python 3.11 or 3.12 for the server and for exports: make clean setup PYTHON=python3.12"
    return Finding("Python", f"{found}, on which the client alone runs", remedy)


def _packages() -> Iterator[Finding]:
    """Each extra: whole, half there, or not asked for.

    What pip was asked for is written nowhere. An extra was not if more than half is missing of what it adds to the
    package itself and to the extras that are whole: some of that comes with other packages.
    """
    try:
        from packaging.requirements import Requirement
    except ModuleNotFoundError:
        yield Finding("packages", "not looked at: packaging is missing", "pip install packaging")
        return
    lines = [Requirement(line) for line in requires("depthface") or []]

    def needed(extra: str) -> list[Requirement]:
        """Return what this machine needs for an extra; without one, for the package itself."""
        return [line for line in lines if line.marker is None or line.marker.evaluate({"extra": extra})]

    def is_right(line: Requirement) -> bool:
        found = machine.installed(line.name)
        return found is not None and line.specifier.contains(found, prereleases=True)

    base = needed("")
    extras = {extra: [line for line in needed(extra) if line not in base] for extra in EXTRAS}
    whole = [line for added in extras.values() if all(map(is_right, added)) for line in added]
    there = {line.name for line in (*base, *whole)}
    for extra, added in extras.items():
        wrong = [line for line in added if not is_right(line)]
        own = {line.name for line in added} - there
        if 2 * sum(machine.installed(name) is None for name in own) > len(own):
            yield Finding(f"packages [{extra}]", f"not installed (pip install 'depthface[{extra}]')")
        elif wrong:
            # By name: to install the extra again would lay onnxruntime over onnxruntime-gpu.
            remedy = "pip install " + shlex.join(f"{line.name}{line.specifier}" for line in wrong)
            said = ", ".join(_not_right(line.name, f"{line.name}{line.specifier}") for line in wrong)
            yield Finding(f"packages [{extra}]", said, remedy)
        else:
            yield Finding(f"packages [{extra}]", f"{len(added)} of {len(added)}")


def _not_right(name: str, wanted: str) -> str:
    found = machine.installed(name)
    return f"{name} is missing" if found is None else f"{wanted} ({found} is here)"


def _numpy() -> Finding:
    found = machine.installed("numpy")
    if found is None:
        return Finding("numpy", "missing", "pip install 'numpy<2'")
    if int(found.partition(".")[0]) >= 2:
        return Finding(
            "numpy", found, "pip install 'numpy<2': Triton's Python stub corrupts arrays of numpy 2 without an error"
        )
    return Finding("numpy", found)


def _glibc() -> Finding:
    name, found = platform.libc_ver()
    numbers = tuple(int(part) for part in re.findall(r"\d+", found)[:2])
    if name == "glibc" and numbers >= GLIBC:
        return Finding("glibc", found)
    wanted = ".".join(map(str, GLIBC))
    return Finding(
        "glibc", f"{name} {found}".strip() or "none", f"`serve` needs glibc {wanted}: Debian 12, Ubuntu 22.04"
    )


def _triton() -> Finding:
    """NVIDIA's or the wheel's, its stub for this Python, and the libpython that the stub needs."""
    try:
        triton = Installation.find()
    except ServeError as error:
        return Finding("Triton", error.what, error.remedy)
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return Finding("Triton", f"{triton.program}, with stub and libpython for {python}")


def _cpu() -> Finding:
    flags = set(re.findall(r"\S+", _first_line(Path("/proc/cpuinfo"), "flags")))
    cores = Cores.found()
    if platform.machine() != "x86_64" or "avx2" not in flags:
        return Finding("CPU", platform.machine(), "Use an x86-64 CPU with AVX2: others are not tested, and slow")
    quick = sorted(flags & {"avx512_bf16", "amx_bf16"})
    bf16 = f"bf16 in hardware ({', '.join(quick)})" if quick else "no bf16 in hardware: --precision bf16 gains nothing"
    if quick and not multiplies_bf16():
        bf16 += ", no quicker than fp32"
    products = sorted(flags & VNNI)
    int8 = f"int8 products in hardware ({', '.join(products)})" if products else "no int8 products in hardware"
    return Finding("CPU", f"cores: {cores}; {bf16}, {int8}")


def _first_line(path: Path, start: str) -> str:
    try:
        with path.open() as lines:
            return next((line for line in lines if line.startswith(start)), "")
    except OSError:
        return ""


def _gpu() -> Finding:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return Finding("GPU", "none (no nvidia-smi): models run on the CPU")
    try:
        done = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding("GPU", f"nvidia-smi does not answer ({error})", "Reinstall NVIDIA's driver")
    if done.returncode or not done.stdout.strip():
        said = (done.stderr or done.stdout).strip().partition("\n")[0]
        return Finding("GPU", f"nvidia-smi fails: {said}", "Load or reinstall NVIDIA's driver; or use the CPU alone")
    seen = machine.gpus()  # what exports, `verify` and `serve` go by
    if not seen:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        return Finding("GPU", f"none that CUDA_VISIBLE_DEVICES={visible} allows: models run on the CPU")
    return Finding("GPU", "; ".join(f"{gpu.name}, {gpu.compute_capability}, driver {gpu.driver}" for gpu in seen))


def _room(name: str, path: Path, wanted_bytes: int) -> Finding:
    existing = next(parent for parent in (path, *path.resolve().parents) if parent.exists())
    free_bytes = shutil.disk_usage(existing).free
    remedy = f"Make room: {wanted_bytes / 2**30:.0f} GiB are needed" if free_bytes < wanted_bytes else ""
    return Finding(name, f"{free_bytes / 2**30:.1f} GiB free", remedy)


def _shm() -> Finding:
    usage = shutil.disk_usage("/dev/shm")
    found = f"{usage.free / 2**20:.0f} of {usage.total / 2**20:.0f} MiB free"
    if usage.free >= MIN_SHM_BYTES:
        return Finding("/dev/shm", found)
    wanted = f"{MIN_SHM_BYTES / 2**20:.0f} MiB"
    return Finding(
        "/dev/shm", found, f"Give it {wanted}: docker run --shm-size=1g, or mount -o remount,size=1g /dev/shm"
    )


def _open_files() -> Finding:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    remedy = (
        ""
        if most >= MIN_OPEN_FILES or most == resource.RLIM_INFINITY
        else (
            f"Allow {MIN_OPEN_FILES}: LimitNOFILE= in systemd's unit, docker run --ulimit nofile=65536, or ulimit -Hn"
        )
    )
    return Finding("open files", f"{most} at most, each connection being one", remedy)


def _exports(repository: Path) -> Iterator[Finding]:
    """Yield what is known of weights and exported models, if the packages that read them can be imported."""
    try:
        from depthface_server.doctor.exports import of_repository, of_weights
    except ImportError as error:
        yield Finding("exports", f"not looked at: {error}", "Install the packages that are missing above")
        return
    for name, found in (("weights", of_weights()), (f"repository {repository}", of_repository(repository))):
        try:
            yield from (Finding(*words) for words in found)
        except DepthfaceError as error:
            yield Finding(name, error.what, error.remedy)
        except OSError as error:
            what = f"{error.filename or 'a file'} cannot be read ({error.strerror or error})"
            yield Finding(name, what, "Let this user read it")


def _port(name: str, port: int) -> Finding:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            remedy = f"Stop what listens there, or serve with another --{name}-port"
            return Finding(f"port {port}", f"{name}: {(error.strerror or 'in use').lower()}", remedy)
    return Finding(f"port {port}", f"{name}: free")
