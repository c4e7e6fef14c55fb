"""How a server is operated: its key, its limits, its queues, and how long an idle network stays."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from depthface import config
from depthface.admin import chosen_key
from depthface.contract import ADMIN_HEADER, CONFIG_FILE
from depthface.limits import Limits

__all__ = ["IDLE_MINUTES", "Options", "changes_queues", "has_ensembles", "hide_secret", "write_limits"]

IDLE_MINUTES = "DEPTHFACE_IDLE_MINUTES"
"""The variable that says how long a network that nobody asks stays in memory; 0 or nothing: for ever."""

_RESTRICTED = "model-repository,shared-memory,trace,logging"
"""Triton's names of the APIs that change the server, read its memory, or write files where they are told."""

_PHOTOS_IN_A_BODY = 8
"""As many of the largest as depth takes in one request."""


@dataclass(frozen=True)
class Options:
    """What an operator chooses; the defaults are those of `depthface serve`.

    Attributes:
        admin_key: what the restricted APIs ask for.
        limits: of one photo.
        queue_size: requests that wait before one pipeline; 0 for queues without any limit; None for what the
            repository says.
        queue_time_s: how long one may wait there; None for what the repository says.
        load_threads: models that load at once.
        idle_minutes: how long a network that nobody asks stays in memory; 0 for ever.
    """

    admin_key: str = field(default_factory=chosen_key, repr=False)
    limits: Limits = field(default_factory=Limits)
    queue_size: int | None = None
    queue_time_s: float | None = None
    load_threads: int = 4
    idle_minutes: float = 0.0

    def arguments(self, limits_bodies: bool) -> list[str]:
        """Triton's command line; `limits_bodies` if this Triton can refuse an HTTP body for its length."""
        longest = _PHOTOS_IN_A_BODY * self.limits.max_bytes
        return [
            *([f"--http-max-input-size={longest}"] if limits_bodies else []),
            f"--http-restricted-api={_RESTRICTED}:{ADMIN_HEADER}={self.admin_key}",
            f"--grpc-restricted-protocol={_RESTRICTED}:{ADMIN_HEADER}={self.admin_key}",
            f"--model-load-thread-count={self.load_threads}",
        ]

    def environment(self) -> dict[str, str]:
        """Return what the Python models read."""
        return self.limits.environment() | {IDLE_MINUTES: str(self.idle_minutes)}


def hide_secret(pid: int, secret: str) -> bool:
    """Overwrite a secret in the command line of a child process, which /proc shows to every user of the machine.

    Triton takes the key on its command line alone, and keeps a copy of its own; so call this once it is up. Until then
    it can be seen. False where the kernel does not let a parent do so.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        start, end = int(fields[45]), int(fields[46])  # proc(5): arg_start and arg_end, the 48th and 49th
        with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
            memory.seek(start)
            line = memory.read(end - start)
            for match in re.finditer(re.escape(secret.encode()), line):
                memory.seek(start + match.start())
                memory.write(b"*" * len(secret))
    except OSError:
        return False
    return True


def changes_queues(options: Options) -> bool:
    """Return whether the options ask for other queues than a repository's own."""
    return options.queue_size is not None or options.queue_time_s is not None


def has_ensembles(repository: Path) -> bool:
    """Return whether a public model of a repository is laid out as an ensemble."""
    return any(config.parts_of(config.read(path)) for path in repository.glob(f"[!.]*/{CONFIG_FILE}"))


def write_limits(repository: Path, options: Options, copy: Path, *, limits_ensembles: bool) -> None:
    """Make `copy`, a repository with the queues that the options ask for: configs, beside links to the rest.

    Args:
        limits_ensembles: this Triton can bound what is between the steps of an ensemble.
    """
    folders = [path.parent for path in repository.glob(f"[!.]*/{CONFIG_FILE}")]
    ensembles = {folder.name: parts for folder in folders if (parts := config.parts_of(config.of_model(folder)))}
    firsts = {parts[0] for parts in ensembles.values()}
    copy.mkdir()
    for folder in folders:
        _copy_links(folder, copy / folder.name)
        for path in (folder / CONFIG_FILE, *folder.glob("configs/[!.]*.pbtxt")):
            found = config.read(path)
            is_pipeline = config.parameters_of(found).task is not None and folder.name not in ensembles
            if changes_queues(options) and (is_pipeline or folder.name in firsts):
                found = config.with_queue(found, options.queue_size, options.queue_time_s)
            _write(found, copy / folder.name / path.relative_to(folder))
    if limits_ensembles:
        for name, (first, *_) in ensembles.items():
            for path in (copy / name / CONFIG_FILE, *(copy / name).glob("configs/*.pbtxt")):
                _write(config.with_inflight_limit(config.read(path), config.of_model(copy / first)), path)


def _write(found: config.ModelConfig, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(config.text_from_config(found))


def _copy_links(folder: Path, copy: Path) -> None:
    copy.mkdir()
    for entry in folder.iterdir():
        if entry.is_dir() and entry.name != "configs":
            (copy / entry.name).symlink_to(entry.resolve())
