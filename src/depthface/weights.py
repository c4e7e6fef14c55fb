"""Which weights a model has: published ones, a folder's, or nobody's; and what the last are worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = [
    "Folder",
    "Hub",
    "Random",
    "Synthetic",
    "Weights",
    "depth_label_of",
    "is_meaningful",
    "label_of",
    "origin_of",
    "source_of",
    "warning_of",
]

_SOURCE = "depthface: "

_RANDOM = "random"
_SYNTHETIC = "synthetic"

_WARNINGS = {
    _RANDOM: "RANDOM WEIGHTS: true architecture and speed, meaningless answers.",
    _SYNTHETIC: "SYNTHETIC WEIGHTS: they know drawn pictures only; what they say of a photograph means nothing.",
}


@dataclass(frozen=True)
class Hub:
    """Published weights, at the place where they are published.

    Attributes:
        origin: `<hub id>@<revision>`, or `<pack>@insightface`.
    """

    origin: str


@dataclass(frozen=True)
class Folder:
    """Weights in a folder: a user's own, or published ones that have been fetched.

    Attributes:
        path: of the folder.
        origin: `folder <name>`; or that of the published weights, if each file is known to be theirs.
        sha256: of each file, by name.
    """

    path: Path
    origin: str
    sha256: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Random:
    """Seeded random weights in the true architecture."""

    seed: int = 0

    @property
    def origin(self) -> str:
        """`random, seed <seed>`."""
        return f"{_RANDOM}, seed {self.seed}"


@dataclass(frozen=True)
class Synthetic:
    """Weights that are set by hand, to see what is drawn for them."""

    @property
    def origin(self) -> str:
        """`synthetic`."""
        return _SYNTHETIC


Weights = Hub | Folder | Random | Synthetic
"""Where weights come from. `origin` says it to people, and in manifests and configs; it is what is compared."""


def warning_of(origin: str) -> str | None:
    """Return what must be said of answers of weights of this origin; None of weights that somebody trained."""
    return next((text for kind, text in _WARNINGS.items() if origin == kind or origin.startswith(f"{kind}, ")), None)


def label_of(origin: str) -> str | None:
    """Return the first words of the warning, for a picture; None where there is none."""
    warning = warning_of(origin)
    return None if warning is None else warning.partition(":")[0]


def depth_label_of(origin: str) -> str | None:
    """Return what a picture of depth is to say of weights of this origin; None where there is nothing to say."""
    label = label_of(origin)
    return None if label is None else f"{label}: NOT A DEPTH MAP"


def is_meaningful(origin: str) -> bool:
    """Return False for the weights of nobody: fine for plumbing and speed, not for looking at."""
    return warning_of(origin) is None


def source_of(origin: str) -> str:
    """Return what a file that was made with weights of this origin says of itself."""
    return f"{_SOURCE}{origin or 'unknown'}"


def origin_of(source: str) -> str:
    """Return the origin that `source_of` has put into a file; another program's text as it is."""
    return source.removeprefix(_SOURCE)
