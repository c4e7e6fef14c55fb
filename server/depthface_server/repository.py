"""What of a model repository can be served: the public models whose artefacts and manifests are there."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from depthface import config, manifest
from depthface.contract import CONFIG_FILE, EXPORTED_CONFIG, MANIFEST_FILE, MODEL_VERSION
from depthface.errors import ServeError

__all__ = ["Contents", "closed", "contents", "has_version_compatible_engine", "refuse_for_native"]


@dataclass(frozen=True)
class Contents:
    """The public models of a repository.

    Attributes:
        exported: name to the manifest of one of its networks, for those that can be served.
        networks: all that those need which are loaded at the start.
        lazy: those of the exported whose networks are loaded when they are first used.
        missing: names of those that are laid out but not exported.
        closed: what this user may not read, so that it is not known whether it could be served.
    """

    exported: dict[str, manifest.Manifest]
    networks: tuple[str, ...]
    lazy: tuple[str, ...]
    missing: tuple[str, ...]
    closed: tuple[Path, ...]


def contents(repository: Path) -> Contents:
    """Read a repository; raises `ServeError` if there is nothing in it to serve."""
    manifests = {
        folder.parent.name: found
        for folder in manifest.folders(repository)
        if (found := manifest.read(folder)) is not None
    }
    exported = {
        public: found
        for found in manifests.values()
        for public, needed in found.serves.items()
        if all(network in manifests for network in needed)
    }
    shut = closed(repository)
    configs = {path.parent.name: config.read(path) for path in sorted(repository.glob(f"[!.]*/{CONFIG_FILE}"))}
    for name in exported:
        for part in (name, *(config.parts_of(configs[name]) if name in configs else ())):
            if part not in configs and any(path.is_relative_to(repository / part) for path in shut):
                raise _shut(shut, repository)
            if part not in configs:
                raise ServeError(
                    f"{part}: {CONFIG_FILE} is missing: the repository is half copied, or was changed.",
                    "Export the model again, or copy its folders anew.",
                )
    parameters = {name: config.parameters_of(found) for name, found in configs.items()}
    if not exported and shut:
        raise _shut(shut, repository)
    if not exported:
        raise ServeError(
            f"There is no exported model in {repository.resolve().name}/.",
            f"Export one first: depthface export MODEL --repository {repository}",
        )
    lazy = tuple(name for name in exported if parameters[name].is_lazy)
    networks = {network for name, found in exported.items() if name not in lazy for network in found.serves[name]}
    missing = tuple(name for name, known in parameters.items() if known.task and name not in exported)
    return Contents(exported, tuple(sorted(networks)), lazy, missing, shut)


def closed(repository: Path) -> tuple[Path, ...]:
    """Return what of a repository's models this user may not read, of each the first thing: `glob` passes it over."""
    folders = [entry for entry in sorted(repository.iterdir()) if manifest.NAME.fullmatch(entry.name)]
    return tuple(path for folder in folders if (path := _first_closed(folder)) is not None)


def _first_closed(folder: Path) -> Path | None:
    for name in ("", MODEL_VERSION, f"{MODEL_VERSION}/{MANIFEST_FILE}", str(Path(EXPORTED_CONFIG).parent)):
        path = folder / name
        needed = os.R_OK | os.X_OK if path.is_dir() else os.R_OK
        if path.exists() and not os.access(path, needed, effective_ids=True):
            return path
    return None


def _shut(shut: Sequence[Path], repository: Path) -> ServeError:
    return ServeError(
        f"{', '.join(map(str, shut))} cannot be read by this user.",
        f"Let everybody read the repository: chmod -R a+rX {shlex.quote(str(repository))}",
    )


def has_version_compatible_engine(repository: Path) -> bool:
    """Return whether any engine is version-compatible: it holds code that TensorRT must be told to run."""
    manifests = map(manifest.read, manifest.folders(repository))
    engines = [found.engine for found in manifests if found is not None and found.engine is not None]
    return any(engine["options"]["version_compatible"] for engine in engines)


def refuse_for_native(repository: Path) -> None:
    """Raise `ServeError` for what NVIDIA's own backends would serve wrongly: a bf16 network of an ensemble.

    NVIDIA's OpenVINO backend compiles a network for batches of exactly `max_batch_size` (openvino.cc, `ov::set_batch`).
    """
    for path in sorted(repository.glob(f"[!.]*/{EXPORTED_CONFIG}")):
        found = config.read(path)
        if found.backend == "openvino" and found.max_batch_size > 1:
            raise ServeError(
                f"{found.name} is a bf16 network of an ensemble, which NVIDIA's OpenVINO backend cannot serve.",
                "Export it with --form pipeline, or in fp32.",
            )
