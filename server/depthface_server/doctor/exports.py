"""What the doctor finds of weights and exported models; unlike the other checks it imports what reads them.

Each finding is the words of a `checks.Finding`: its name, what was found and, if something is to be mended, how. What
cannot be looked at raises a `DepthfaceError` or an `OSError`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from depthface import manifest
from depthface.cache import expanded
from depthface.contract import STAGING_FOLDER
from depthface.families import all_cards
from depthface.spec import HubFile, HubWeights, ModelCard
from depthface.verify import verdicts
from depthface_server.repository import closed, contents

__all__ = ["of_repository", "of_weights"]

Words = tuple[str, str] | tuple[str, str, str]


def of_weights() -> Iterator[Words]:
    """Yield what of the published weights lies in the caches, and whether it is what was published."""
    absent = []
    for card in all_cards().values():
        if not card.is_published:
            continue
        present = [(file, path) for file in card.weights.files if (path := _cached(card, file)).is_file()]
        if not present:
            absent.append(card.name)
            continue
        known = {path: file.is_of(path.stat().st_size, manifest.sha256_of(path)) for file, path in present}
        wrong = [path for path, is_published in known.items() if is_published is False]
        unknown = [path.name for path, is_published in known.items() if is_published is None]
        if wrong:
            yield f"weights {card.name}", f"{wrong[0].name} is not the published file", f"Delete {wrong[0]}"
        elif len(present) < len(card.weights.files):
            yield f"weights {card.name}", "not complete; an export fetches the rest"
        elif unknown:
            yield f"weights {card.name}", f"in the cache; no checksum is recorded of {', '.join(unknown)}"
        else:
            yield f"weights {card.name}", "in the cache, as published"
    if absent:
        yield "weights", f"not downloaded yet: {', '.join(absent)}"


def _cached(card: ModelCard, file: HubFile) -> Path:
    """Where huggingface_hub and InsightFace keep a file."""
    if isinstance(card.weights, HubWeights):
        folder = "models--" + card.weights.repo_id.replace("/", "--")
        return _hub() / folder / "snapshots" / card.weights.revision / file.name
    return card.weights.folder / file.name


def _hub() -> Path:
    """Where huggingface_hub keeps what it fetched, which is not imported for it (its page "Environment variables")."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("HF_HOME", str(Path(cache, "huggingface")))
    older = os.environ.get("HUGGINGFACE_HUB_CACHE", str(Path(home, "hub")))
    return expanded(os.path.expandvars(os.environ.get("HF_HUB_CACHE", older)))


def of_repository(repository: Path) -> Iterator[Words]:
    """Yield what is wrong with a repository, or what it holds."""
    name = f"repository {repository}"
    shut = closed(repository) if repository.is_dir() else ()
    for path in shut:
        yield name, f"{path} cannot be read by this user", "Let everybody read the repository: chmod -R a+rX"
    if not manifest.folders(repository):
        if not shut:
            yield name, "nothing exported yet (depthface export MODEL)"
        return
    for verdict in verdicts(repository):
        if verdict.problems:
            yield name, f"{verdict.network}: {'; '.join(verdict.problems)}", f"Run {verdict.command}"
    yield name, f"has {', '.join(contents(repository).exported)}"
    if (repository / STAGING_FOLDER).exists():
        yield name, "an export is at work, or was killed; the next one sweeps up after it"
