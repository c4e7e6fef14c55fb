"""A copy of the repository with the queues that an operator asks for, where Triton is to find those.

It has changed configs, each beside links to the versions of its model. Every other model, and so each network behind a
pipeline, is a link to its whole folder: it is never loaded by another config than its own. The copy follows the
repository: what is exported while a server runs is loaded by the config that it was exported with.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from depthface import config
from depthface.contract import CONFIG_FILE, EXPORTED_CONFIG
from depthface.errors import DepthfaceError
from depthface_server.beside import beside
from depthface_server.options import Options

__all__ = ["LimitedCopy", "changes_queues", "has_ensembles"]

_log = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.2
"""Less than `depthface load` takes to start, which may come right after an export."""

Stamp = Mapping[Path, tuple[int, int]]
Configs = Mapping[str, config.ModelConfig]
"""A model's, each by its path within the model's folder."""

Model = Path | Mapping[str, str | Path]
"""What the copy has of a model: a link to its folder; or else a config's text, or where a link leads, by path."""


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
        self._repository = repository.absolute()
        self._options = options
        self._limits_ensembles = limits_ensembles
        self._stamps: dict[str, Stamp] = {}
        self._configs: dict[str, Configs] = {}
        self._models: dict[str, Model] = {}
        folder.mkdir()
        self.update()

    def following(self) -> AbstractContextManager[None]:
        """Keep it up with the repository while the block runs."""
        return beside(self._follow, "limited copy")

    def update(self) -> None:
        """Write what has changed in the repository, each file atomically; where that fails, the next call goes on.

        A model whose config cannot be read stays as it was. The first of their errors is raised, when all others are
        up to date.
        """
        stamps = dict(_stamps(self._repository))
        if stamps == self._stamps:
            return
        problems: list[DepthfaceError | OSError] = []
        self._configs = {name: found for name, found in self._configs.items() if name in stamps}
        read: dict[str, Stamp] = {}
        for name, stamp in stamps.items():
            try:
                if stamp != self._stamps.get(name):
                    self._configs[name] = _read(self._repository / name)
                read[name] = stamp
            except (DepthfaceError, OSError) as error:
                problems.append(error)
        models: dict[str, Model] = {}
        loaded = {name: known.get(EXPORTED_CONFIG, known[CONFIG_FILE]) for name, known in self._configs.items()}
        parts = {name: config.parts_of(known) for name, known in loaded.items()}
        for name in self._configs:
            try:
                models[name] = self._model(name, loaded, parts)
            except (DepthfaceError, OSError) as error:
                problems.append(error)
                read.pop(name, None)
                if name in self._models:
                    models[name] = self._models[name]
        for name in {**self._models, **models}:
            before, after = self._models.get(name), models.get(name)
            if before != after:
                self._models.pop(name, None)  # or what is half written would be taken for whole
                _put(self.folder / name, after)
                if after is not None:
                    self._models[name] = after
        self._stamps = read
        if problems:
            raise problems[0]

    def _model(self, name: str, loaded: Mapping[str, config.ModelConfig], parts: Mapping[str, Sequence[str]]) -> Model:
        found = self._configs[name]
        firsts = {steps[0] for steps in parts.values() if steps}

        def limited(each: str, one: config.ModelConfig) -> config.ModelConfig:
            is_pipeline = config.parameters_of(one).task is not None and not parts[each]
            if changes_queues(self._options) and (is_pipeline or each in firsts):
                return config.with_queue(one, self._options.queue_size, self._options.queue_time_s)
            return one

        changed = {path: limited(name, one) for path, one in found.items()}
        if self._limits_ensembles and parts[name] and (first := parts[name][0]) in loaded:
            bound = limited(first, loaded[first])
            changed = {path: config.with_inflight_limit(one, bound) for path, one in changed.items()}
        folder = self._repository / name
        if changed == found:
            return folder
        versions = [entry for entry in folder.iterdir() if entry.is_dir() and entry.name != "configs"]
        links: dict[str, str | Path] = {entry.name: entry for entry in versions}
        return {**links, **{path: config.text_from_config(one) for path, one in changed.items()}}

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


def _stamps(repository: Path) -> Iterator[tuple[str, Stamp]]:
    """Go over the models with what tells whether their configs were written anew."""
    for folder in repository.glob("[!.]*/"):
        found = {}
        for path in (folder, folder / CONFIG_FILE, *folder.glob("configs/[!.]*.pbtxt")):
            if path.exists():
                status = path.stat()
                found[path] = status.st_ino, status.st_mtime_ns
        if folder / CONFIG_FILE in found:
            yield folder.name, found


def _read(folder: Path) -> Configs:
    paths = (folder / CONFIG_FILE, *folder.glob("configs/[!.]*.pbtxt"))
    return {str(path.relative_to(folder)): config.read(path) for path in paths}


def _put(place: Path, model: Model | None) -> None:
    """Put a model into the copy, or take it out of it.

    What is no link there is the copy's own. Nothing is ever written or removed below a link, where the repository is.
    """
    if place.is_symlink() and not isinstance(model, Path):
        place.unlink()
    elif place.is_dir() and not place.is_symlink() and not isinstance(model, Mapping):
        shutil.rmtree(place)
    if isinstance(model, Path):
        _replace(place, model)
    elif model is not None:
        for path, content in model.items():  # links go first: a config is not seen before what it is of
            _replace(place / path, content)
        for entry in [*place.iterdir(), *place.glob("configs/*")]:
            if entry.name != "configs" and str(entry.relative_to(place)) not in model:
                entry.unlink()


def _replace(path: Path, content: str | Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    if isinstance(content, Path):
        new.symlink_to(content)
    else:
        new.write_text(content, encoding="utf-8")
    new.replace(path)
