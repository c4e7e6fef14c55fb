"""Weights, wherever they come from, to a folder (or a seed) that is known to be the right one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from depthface.errors import LicenseNotAccepted, WeightsCorrupt, WeightsUnavailable
from depthface.manifest import sha256_of
from depthface.spec import HubFile, ModelCard

__all__ = ["HUB_DEADLINE_S", "Weights", "check_license", "fetch", "locate"]

HUB_DEADLINE_S = 8.0
"""Within this the hub has answered, or it counts as out of reach. (Its own client retries for 23 s.)"""

RANDOM_SEED = 0


@dataclass(frozen=True)
class Weights:
    """Which weights an export uses.

    Attributes:
        source: a folder in the format of `transformers`, or the seed of random weights; None for published weights
            that have not been fetched yet.
        origin: the same for people and for comparing: `<hub id>@<revision>`, `folder <name>`, `random, seed 0`.
        sha256: of each weight file, by name; empty for random weights and before fetching.
    """

    source: Path | int | None
    origin: str
    sha256: dict[str, str]


def check_license(card: ModelCard, choice: str, accepted: bool) -> None:
    """Raise `LicenseNotAccepted` for weights that are not open, unless accepted. Random weights are nobody's."""
    if choice == "random" or card.license.is_open or accepted:
        return
    raise LicenseNotAccepted(
        f"The weights of {card.title} are licensed {card.license.id}, which forbids some uses (commercial ones first "
        f"of all). Read {card.license.url}, and if you accept it add --accept-license or set "
        "DEPTHFACE_ACCEPT_LICENSE=1."
    )


def locate(card: ModelCard, choice: str) -> Weights:
    """Say which weights `choice` (`hub`, `random`, or a folder's path) means, without the network."""
    if choice == "random":
        return Weights(RANDOM_SEED, f"random, seed {RANDOM_SEED}", {})
    published = f"{card.weights.repo_id}@{card.weights.revision}"
    if choice == "hub":
        return Weights(None, published, {})
    folder = Path(choice).expanduser()
    if folder.is_file():
        folder = folder.parent
    for file in card.weights.files:
        if not (folder / file.name).is_file():
            raise WeightsUnavailable(
                f"There is no {file.name} in {folder}. Give --weights a folder with "
                f"{' and '.join(f.name for f in card.weights.files)} (what {card.weights.repo_id} holds), or `hub`, "
                "or `random`."
            )
    sha256 = {file.name: sha256_of(folder / file.name) for file in card.weights.files}
    is_published = all(file.sha256 is None or file.sha256 == sha256[file.name] for file in card.weights.files)
    return Weights(folder, published if is_published else f"folder {folder.name}", sha256)


def fetch(card: ModelCard, weights: Weights) -> Weights:
    """Download published weights if they are not in the hub's cache yet, and check size and sha256 of each file.

    Raises:
        WeightsUnavailable: the hub cannot be reached, or refuses.
        WeightsCorrupt: a file is not what the card says.
    """
    if weights.source is not None:
        return weights
    paths = {file.name: _hub_file(card, file) for file in card.weights.files}
    sha256 = {}
    for file in card.weights.files:
        sha256[file.name] = sha256_of(paths[file.name])
        size_bytes = paths[file.name].stat().st_size
        if file.sha256 not in (None, sha256[file.name]) or file.size_bytes not in (None, size_bytes):
            raise WeightsCorrupt(
                f"{file.name} of {weights.origin} is not the published file: {size_bytes} bytes, sha256 "
                f"{sha256[file.name]}, where {file.size_bytes or 'any number of'} bytes and {file.sha256} were "
                f"expected. Delete {paths[file.name].resolve()} and export again."
            )
    return Weights(next(iter(paths.values())).parent, weights.origin, sha256)


def _hub_file(card: ModelCard, file: HubFile) -> Path:
    import huggingface_hub as hub  # slow to import, and needed for published weights alone

    repo, revision = card.weights.repo_id, card.weights.revision
    cached = hub.try_to_load_from_cache(repo, file.name, revision=revision)
    if isinstance(cached, str):
        return Path(cached)
    try:
        _within(
            HUB_DEADLINE_S,
            lambda: hub.get_hf_file_metadata(hub.hf_hub_url(repo, file.name, revision=revision)),
        )
        return Path(hub.hf_hub_download(repo, file.name, revision=revision))
    # The hub's client raises errors of its HTTP library, its own, and OSErrors.
    except Exception as error:
        raise WeightsUnavailable(
            f"{repo} cannot be fetched from the hub ({_first_line(error)}). Try again when it can be reached; or "
            f"download {' and '.join(f.name for f in card.weights.files)} at revision {revision[:7]} on another "
            "machine and give --weights that folder; or use --weights random, which has the true architecture and "
            "speed, but computes nothing meaningful."
        ) from error


def _within(seconds: float, call: Callable[[], object]) -> None:
    """Run `call` in a thread; raise its error, or TimeoutError. (A name lookup can hang past any socket timeout.)"""
    outcome: list[BaseException | None] = []

    def run() -> None:
        try:
            call()
            outcome.append(None)
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise TimeoutError(f"no answer within {seconds:.0f} s")
    if outcome[0] is not None:
        raise outcome[0]


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
