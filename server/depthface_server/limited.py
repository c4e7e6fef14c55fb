"""A copy of the repository with the queues that an operator asks for, where Triton is to find those.

It has configs, beside links to the rest, and follows the repository: what is exported while a server runs is loaded by
the config that it was exported with.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from depthface import config
from depthface.contract import CONFIG_FILE, EXPORTED_CONFIG
from depthface_server.beside import beside
from depthface_server.options import Options

__all__ = ["LimitedCopy", "changes_queues", "has_ensembles"]

_log = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0

Entries = Mapping[Path, str | Path]
"""What a copy has, by its path within: a config's text, or where a link leads. Links go first."""

Stamps = Mapping[Path, tuple[int, int]]


def changes_queues(options: Options) -> bool:
    """Return whether the options ask for other queues than a repository's own."""
    return options.queue_size is not None or options.queue_time_s is not None


def has_ensembles(repository: Path) -> bool:
    """Return whether a public model of a repository is laid out as an ensemble."""
    return any(config.parts_of(config.read(path)) for path in repository.glob(f"[!.]*/{CONFIG_FILE}"))


class LimitedCopy:
    """The copy, which is made at once, and follows the repository while it is asked to.

    Args:
        limits_ensembles: this Triton can bound what is between the steps of an ensemble.

    Attributes:
        folder: of the copy.
    """

    def __init__(self, repository: Path, options: Options, folder: Path, *, limits_ensembles: bool) -> None:
        self.folder = folder
        self._repository = repository
        self._options = options
        self._limits_ensembles = limits_ensembles
        self._stamps: Stamps = {}
        self._entries: Entries = {}
        folder.mkdir()
        self.update()

    def following(self) -> AbstractContextManager[None]:
        """Keep it up with the repository while the block runs."""
        return beside(self._follow, "limited copy")

    def update(self) -> None:
        """Write what has changed in the repository, each file atomically; where that fails, the next call goes on."""
        stamps = _stamps(self._repository)
        if stamps == self._stamps:
            return
        entries = _entries(self._repository, self._options, self._limits_ensembles)
        for path, content in entries.items():
            if self._entries.get(path) != content:
                _replace(self.folder / path, content)
        for path in self._entries.keys() - entries.keys():
            (self.folder / path).unlink(missing_ok=True)
        for gone in {path.parts[0] for path in self._entries} - {path.parts[0] for path in entries}:
            shutil.rmtree(self.folder / gone, ignore_errors=True)
        self._stamps, self._entries = stamps, entries

    def _follow(self, stop: threading.Event) -> None:
        said = ""
        while not stop.wait(_LOOK_EVERY_S):
            try:
                self.update()
                said = ""
            except Exception as error:  # it may be of a model that is just being written by hand
                if said != str(error):
                    said = str(error)
                    _log.warning("a change of the repository is not taken over: %s", error)


def _stamps(repository: Path) -> Stamps:
    """Return what tells whether a config was written anew."""
    found = {}
    for folder in repository.glob("[!.]*/"):
        for path in (folder, folder / CONFIG_FILE, *folder.glob("configs/[!.]*.pbtxt")):
            if path.exists():
                status = path.stat()
                found[path] = status.st_ino, status.st_mtime_ns
    return found


def _entries(repository: Path, options: Options, limits_ensembles: bool) -> Entries:
    folders = [path.parent for path in repository.glob(f"[!.]*/{CONFIG_FILE}")]
    ensembles = {folder.name: parts for folder in folders if (parts := config.parts_of(config.of_model(folder)))}
    firsts = {parts[0] for parts in ensembles.values()}
    links = {
        entry.relative_to(repository): entry.resolve()
        for folder in folders
        for entry in folder.iterdir()
        if entry.is_dir() and entry.name != "configs"
    }
    configs: dict[Path, config.ModelConfig] = {}
    for folder in folders:
        for path in (folder / CONFIG_FILE, *folder.glob("configs/[!.]*.pbtxt")):
            found = config.read(path)
            is_pipeline = config.parameters_of(found).task is not None and folder.name not in ensembles
            if changes_queues(options) and (is_pipeline or folder.name in firsts):
                found = config.with_queue(found, options.queue_size, options.queue_time_s)
            configs[path.relative_to(repository)] = found
    if limits_ensembles:
        for path, found in configs.items():
            if path.parts[0] in ensembles:
                first = Path(ensembles[path.parts[0]][0])
                loaded = configs.get(first / EXPORTED_CONFIG) or configs[first / CONFIG_FILE]
                configs[path] = config.with_inflight_limit(found, loaded)
    return {**links, **{path: config.text_from_config(found) for path, found in configs.items()}}


def _replace(path: Path, content: str | Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    if isinstance(content, Path):
        new.symlink_to(content)
    else:
        new.write_text(content, encoding="utf-8")
    new.replace(path)
