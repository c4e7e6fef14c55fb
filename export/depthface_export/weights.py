"""Weights, wherever they come from, to a folder (or a seed) that is known to be the right one."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from depthface.cache import expanded
from depthface.errors import LicenseNotAccepted, WeightsCorrupt, WeightsUnavailable
from depthface.manifest import sha256_of
from depthface.spec import HubFile, HubWeights, ModelCard, PublishedPack
from depthface.weights import Folder, Hub, Random, Synthetic, Weights
from depthface_export import archive

__all__ = ["HUB_DEADLINE_S", "check_license", "fetch", "locate"]

HUB_DEADLINE_S = 8.0
"""Within this the hub has answered, or it counts as out of reach. (Its own client retries for 23 s.)"""

_SILENCE_S = 60.0
"""So long a download may stand still."""

_BLOCK_BYTES = 1 << 20


def check_license(card: ModelCard, weights: Weights, accepted: bool) -> None:
    """Raise `LicenseNotAccepted` for weights that are not open, unless accepted. Stand-ins are nobody's."""
    if isinstance(weights, Random | Synthetic) or card.license.is_open or accepted:
        return
    raise LicenseNotAccepted(
        f"The weights of {card.title} are licensed {card.license.id}, which forbids some uses (commercial ones first "
        "of all).",
        f"Read {card.license.url}, and if you accept it add --accept-license or set DEPTHFACE_ACCEPT_LICENSE=1.",
    )


def locate(card: ModelCard, choice: str) -> Weights:
    """Say which weights `choice` means, without the network.

    Args:
        card: of the model.
        choice: `hub`, `random`, `synthetic`, or the path of a folder or of one of the card's files in it.

    Raises:
        WeightsUnavailable: there are none such.
    """
    stand_ins: dict[str, Random | Synthetic] = {"random": Random(), "synthetic": Synthetic()}
    if choice in stand_ins:
        if choice not in card.stand_ins:
            raise WeightsUnavailable(
                f"{card.title} has no {choice} weights.", f"Choose from: {', '.join(_words(card))}, or give a path."
            )
        return stand_ins[choice]
    if choice != "hub":
        return _in_folder(card, expanded(choice))
    if not card.is_published:
        raise WeightsUnavailable(
            f"{card.title} is no longer published.",
            f"Give --weights the path of a file of your own: {card.weights.files[0].name}.",
        )
    return Hub(card.weights.origin)


def _in_folder(card: ModelCard, folder: Path) -> Folder:
    try:
        str(folder.resolve()).encode()
    except UnicodeEncodeError as error:
        raise WeightsUnavailable(
            f"The path {folder} is not UTF-8, in which manifests are written.", "Rename it, or copy the weights."
        ) from error
    names = [file.name for file in card.weights.files]
    remedy = (
        f"Give --weights a folder with {' and '.join(names)} (what {card.weights.origin} holds), or "
        f"{' or '.join(f'`{word}`' for word in _words(card))}."
    )
    if folder.is_file():
        if folder.name not in names:  # else another file beside it would be taken
            raise WeightsUnavailable(f"{card.title} is not read from a file named {folder.name}.", remedy)
        folder = folder.parent
    for name in names:
        if not (folder / name).is_file():
            raise WeightsUnavailable(f"There is no {name} in {folder}.", remedy)
    found = {file: _measured(folder / file.name) for file in card.weights.files}
    sha256 = {file.name: digest for file, (_, digest) in found.items()}
    is_published = all(file.is_of(*measured) for file, measured in found.items())
    return Folder(folder, card.weights.origin if is_published else f"folder {folder.resolve().name}", sha256)


def _words(card: ModelCard) -> list[str]:
    """Return what can be said in the place of a path."""
    return [*(["hub"] if card.is_published else []), *card.stand_ins]


def fetch(card: ModelCard, weights: Weights) -> Folder | Random | Synthetic:
    """Download published weights if they are not here yet, and check size and sha256 of each file.

    Raises:
        WeightsUnavailable: the place they are published at cannot be reached, or refuses.
        WeightsCorrupt: a file is not what the card says.
    """
    if not isinstance(weights, Hub):
        return weights
    published = card.weights
    if isinstance(published, PublishedPack):
        folder = _pack_folder(published)
    else:
        folder = [_hub_file(published, file).parent for file in published.files].pop()
    return Folder(folder, weights.origin, _check_files(published, folder))


def _check_files(published: HubWeights | PublishedPack, folder: Path, remedy: str = "") -> dict[str, str]:
    """Return the sha256 of each file in `folder`; raise `WeightsCorrupt` for one that is not the published one."""
    found = {}
    for file in published.files:
        path = folder / file.name
        size_bytes, found[file.name] = _measured(path) if path.is_file() else (0, "none")
        if file.is_of(size_bytes, found[file.name]) is False:
            known = [f"{file.size_bytes} bytes"] if file.size_bytes else []
            known += [f"sha256 {file.sha256}"] if file.sha256 else []
            raise WeightsCorrupt(
                f"{file.name} of {published.origin} is not the published file: {size_bytes} bytes, sha256 "
                f"{found[file.name]}; published were {', '.join(known)}.",
                remedy or f"Delete {path.resolve()} and export again.",
            )
    return found


def _measured(path: Path) -> tuple[int, str]:
    """Return the size of a file in bytes, and its sha256."""
    return path.stat().st_size, sha256_of(path)


def _hub_file(published: HubWeights, file: HubFile) -> Path:
    import huggingface_hub as hub  # slow to import, and needed for published weights alone

    repo, revision = published.repo_id, published.revision
    cached = hub.try_to_load_from_cache(repo, file.name, revision=revision)
    if isinstance(cached, str):
        return Path(cached)
    try:
        _within(HUB_DEADLINE_S, lambda: hub.get_hf_file_metadata(hub.hf_hub_url(repo, file.name, revision=revision)))
        return Path(hub.hf_hub_download(repo, file.name, revision=revision))
    # The hub's client raises errors of its HTTP library, its own, and OSErrors.
    except Exception as error:
        raise WeightsUnavailable(
            f"{repo} cannot be fetched from the hub ({_first_line(error)}).",
            "Try again when it can be reached; or "
            f"download {' and '.join(f.name for f in published.files)} at revision {revision[:7]} on another "
            "machine and give --weights that folder; or use --weights random, which has the true architecture and "
            "speed, but computes nothing meaningful.",
        ) from error


def _pack_folder(published: PublishedPack) -> Path:
    """Return the pack in InsightFace's own storage; downloaded aside and checked, then moved in whole.

    InsightFace itself checks nothing, takes any folder of that name, even an empty one, for a finished download, and
    waits for ever for releases that fall silent.
    """
    folder = published.folder
    home = folder.parents[1]
    if all((folder / file.name).is_file() for file in published.files):
        return folder
    try:
        import requests
        from insightface.utils import storage

        address = storage.model_zoo_download_url(f"{published.name}.zip")
        _within(HUB_DEADLINE_S, lambda: requests.head(address, timeout=HUB_DEADLINE_S))
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home) as aside:
            fetched, archive_path = Path(aside), Path(aside, f"{published.name}.zip")
            _download(address, archive_path)
            archive.unpack(archive_path, published.files, published.name, fetched)
            _check_files(published, fetched, "Nothing was kept; export again, or give --weights a folder of your own.")
            # File by file: what else the user keeps in that folder stays.
            folder.mkdir(parents=True, exist_ok=True)
            for file in published.files:
                (fetched / file.name).replace(folder / file.name)
        return folder
    except WeightsCorrupt:
        raise
    except Exception as error:  # requests' errors, zipfile's, OSErrors
        raise WeightsUnavailable(
            f"The pack {published.name} cannot be fetched from InsightFace's releases ({_first_line(error)}).",
            f"Try again when they can be reached; or unpack {published.name}.zip on this machine and give --weights "
            "that folder; or use --weights synthetic, which finds drawn faces, or --weights random, which finds "
            "nothing.",
        ) from error


def _download(address: str, path: Path) -> None:
    import requests

    timeout_s = HUB_DEADLINE_S, _SILENCE_S
    with requests.get(address, stream=True, timeout=timeout_s) as answer, path.open("wb") as file:
        answer.raise_for_status()
        for block in answer.iter_content(_BLOCK_BYTES):
            file.write(block)


def _within(seconds: float, call: Callable[[], object]) -> None:
    """Run `call` in a thread; raise its error, or TimeoutError.

    A name lookup can hang past any socket timeout.
    """
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
