"""What of a model repository can be served: the public models whose artefacts and manifests are there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from depthface import manifest
from depthface.errors import ServeError

__all__ = ["Contents", "contents"]


@dataclass(frozen=True)
class Contents:
    """The public models of a repository.

    Attributes:
        exported: name to the manifest of one of its networks, for those that can be served.
        networks: all that the exported ones need.
        missing: names of those that are laid out but not exported.
    """

    exported: dict[str, manifest.Manifest]
    networks: tuple[str, ...]
    missing: tuple[str, ...]


def contents(repository: Path) -> Contents:
    """Read a repository; raises `ServeError` if there is nothing in it to serve."""
    manifests = {
        path.parent.parent.name: found
        for path in sorted(repository.glob(f"[!.]*/*/{manifest.FILE_NAME}"))
        if (found := manifest.read(path.parent)) is not None
    }
    exported = {
        public: found
        for found in manifests.values()
        for public, needed in found.serves.items()
        if all(network in manifests for network in needed)
    }
    laid_out = (path.parent.name for path in sorted(repository.glob("[!.]*/config.pbtxt")) if _is_public(path))
    if not exported:
        raise ServeError(
            f"There is no exported model in {repository.resolve().name}/. Export one first: "
            f"depthface export depth_anything_v2_small --repository {repository}"
        )
    networks = {network for public, found in exported.items() for network in found.serves[public]}
    return Contents(exported, tuple(sorted(networks)), tuple(name for name in laid_out if name not in exported))


def _is_public(config: Path) -> bool:
    return 'key: "public"' in config.read_text()
