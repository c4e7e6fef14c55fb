"""The private folder in which one server runs, whose path any program can take.

Triton starts its Python processes by an unquoted line of shell, their interpreter knows no letters but ASCII, and it
looks for modules in the working folder first. A space or `ö` in a path, or a file `numpy.py` where the command is run,
would break a server, and such a file would be run. So Triton gets an empty working folder of its own, and meets every
folder whose path is not plain by a link with a plain name.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import site
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import depthface
import depthface_server
from depthface.errors import ServeError
from depthface_server import processes

__all__ = ["Workspace", "parents"]

_PLAIN = re.compile(r"[A-Za-z0-9/._+-]+")
"""What neither a shell, nor `LD_LIBRARY_PATH`, nor an interpreter in ASCII reads otherwise."""

_VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"


class Workspace:
    """A folder that ends with its server.

    Attributes:
        folder: the folder itself, of this user alone.
        work: an empty folder in it, to be run in.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work = folder / "work"
        self.work.mkdir()

    @classmethod
    @contextmanager
    def temporary(cls) -> Iterator[Workspace]:
        """Make one where temporary files go; raises `ServeError` where none can be made."""
        folder = _make_folder()
        try:
            with _locked(folder):
                yield cls(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def plain(self, name: str, target: Path) -> Path:
        """Return a path with a plain name that leads to `target`: its own, or a link of this name."""
        path = target.absolute()
        if _PLAIN.fullmatch(str(path)):
            return path
        link = self.folder / name
        link.symlink_to(path)
        return link

    def make_python(self) -> Path:
        """Return the `bin` folder of an environment with the packages of this one, for Triton's Python processes.

        They take the first `python3` on PATH for their own and so find its packages. These are what an interpreter that
        is isolated from the environment's variables and from the working folder would find.
        """
        environment = self.folder / "python"
        packages = environment / "lib" / _VERSION / "site-packages"
        for folder in (environment / "bin", packages):
            folder.mkdir(parents=True)
        home = self.plain("base", Path(sys.base_prefix))
        (environment / "pyvenv.cfg").write_text(f"home = {home}/bin\ninclude-system-site-packages = false\n")
        (environment / "bin" / "python3").symlink_to(Path(sys.executable).absolute())
        for package in (depthface, depthface_server):
            (packages / package.__name__).symlink_to(Path(package.__path__[0]).absolute())
        links = [self.plain(f"packages-{number}", Path(path)) for number, path in enumerate(_package_folders())]
        (packages / "depthface.pth").write_text("".join(f"{link}\n" for link in links))
        return environment / "bin"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a lock on a folder: then what cleans /tmp of old files leaves it alone (tmpfiles.d(5), "Age")."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # not all file systems have locks
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def _make_folder() -> Path:
    problems = []
    for parent in parents():
        try:
            return Path(tempfile.mkdtemp(prefix=processes.prefix(), dir=parent))
        except OSError as error:
            problems.append(f"{parent}: {error.strerror}")
    raise ServeError(
        f"No temporary folder can be written ({'; '.join(problems)}).", "Make room in /tmp, or let this user write it."
    )


def parents() -> Iterator[Path]:
    """Go over the folders in which one may be made, the best first."""
    for name in (os.environ.get("TMPDIR", ""), "/tmp", os.environ.get("XDG_RUNTIME_DIR", ""), "/dev/shm"):
        if _PLAIN.fullmatch(name) and Path(name).is_absolute():
            yield Path(name)


def _package_folders() -> Sequence[str]:
    """Return the folders in which an isolated interpreter of this environment finds packages."""
    code = "import os, sys; sys.stdout.buffer.write(b'\\0'.join(map(os.fsencode, sys.path)))"
    found = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, check=True).stdout
    standard = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    standard |= {f"{folder}/lib-dynload" for folder in standard}
    paths = [os.fsdecode(path) for path in found.split(b"\0")]
    paths = [path for path in paths if path not in standard and Path(path).is_dir()]
    if Path(depthface.__path__[0]).is_relative_to(site.getusersitepackages()):  # `pip install --user`
        paths.append(site.getusersitepackages())
    return paths
