"""One export in one value, and one network of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from depthface.contract import ENGINE_FILE, ONNX_FILE, Form, Precision
from depthface.families import all_cards
from depthface.spec import EngineOptions, ModelCard, Network, Source
from depthface.weights import Folder, Hub, Weights
from depthface_export import forms

if TYPE_CHECKING:  # it brings ONNX Runtime, which takes seconds
    from depthface_export.tensorrt import Phases

__all__ = ["Engines", "Job", "NetworkJob", "Report", "say_nothing"]

Report = Callable[[str], None]


def say_nothing(line: str) -> None:
    """Tell nobody: the `Report` of who wants none."""


@dataclass(frozen=True)
class Engines:
    """Which TensorRT engines an export builds.

    Attributes:
        options: how.
        without: the names of networks that get none, of those that can have one.
        phases: who is told how far a build is; None for nobody.
    """

    options: EngineOptions
    without: frozenset[str] = frozenset()
    phases: Phases | None = None

    def options_of(self, network: Network) -> EngineOptions | None:
        """How the network's engine is built; None if it gets none."""
        return self.options if network.profiles and network.name not in self.without else None


@dataclass(frozen=True)
class Job:
    """One export.

    Attributes:
        card: of what is exported.
        weights: with which; `weights.locate` says it of what a user typed.
        target: the model repository.
        precision: of the networks, but for those that are `only_fp32`.
        precisions: of which the quickest that holds is taken, in the order in which they are tried; empty for
            `precision`.
        accepts_license: of weights that are not open.
        engines: which to build; None for none.
        form: of the public models, but for those that are no straight line.
        report: is told of each stage as it begins, and of each check as it passes.
    """

    card: ModelCard
    weights: Weights
    target: Path
    precision: Precision = "fp32"
    accepts_license: bool = False
    engines: Engines | None = None
    form: Form = forms.DEFAULT
    report: Report = say_nothing
    precisions: tuple[Precision, ...] = ()

    def precision_of(self, network: Network) -> Precision:
        """Return the precision that the network gets: one that is `only_fp32` keeps it."""
        return "fp32" if network.only_fp32 else self.precision

    def engine_of(self, network: Network) -> EngineOptions | None:
        """How the network's engine is built; None if it gets none."""
        return self.engines.options_of(network) if self.engines is not None else None

    def fuses_attention(self, network: Network) -> bool:
        """Return whether the network's attention becomes a node of ONNX Runtime's own, which TensorRT does not know."""
        return self.precision_of(network) == "fp16" and self.engine_of(network) is None

    @property
    def with_engine(self) -> frozenset[str]:
        """The names of the networks that get one."""
        return frozenset(network.name for network in self.card.networks if self.engine_of(network) is not None)

    @property
    def command(self) -> list[str]:
        """What is typed to have this export made, but for the repository."""
        words = [*self._named(), "--precision", self.precision]
        if self.form != forms.DEFAULT:
            words += ["--form", self.form]
        if self.accepts_license:
            words.append("--accept-license")
        if self.engines is not None:
            words.append("--engine")
            for name in sorted(self.engines.without):
                words += ["--without-engine", name]
            for option in fields(self.engines.options):
                value = getattr(self.engines.options, option.name)
                if value != option.default:
                    words += [f"--{option.name.replace('_', '-')}", *([] if value is True else [str(value)])]
        return ["depthface", "export", *words]

    def _named(self) -> list[str]:
        if isinstance(self.weights, Folder):
            folder, known = str(self.weights.path.resolve()), all_cards().get(self.card.name)
            # A folder that is a model of its own is its own weights, also one that is called as a published pack.
            is_known = known is not None and known.weights == self.card.weights
            return [self.card.name, "--weights", folder] if is_known else [folder]
        if isinstance(self.weights, Hub):
            return [self.card.name, "--weights", "hub"]
        return [self.card.name, "--weights", self.weights.origin.partition(",")[0]]


@dataclass(frozen=True)
class NetworkJob:
    """One network of an export, in the making.

    Attributes:
        source: what it is made from, and what it must equal.
        folder: where its files are made: the version's folder in a repository that nobody serves yet.
    """

    job: Job
    network: Network
    source: Source
    folder: Path

    @property
    def card(self) -> ModelCard:
        """Of the model that it is a network of."""
        return self.job.card

    @property
    def precision(self) -> Precision:
        """Its own."""
        return self.job.precision_of(self.network)

    @property
    def report(self) -> Report:
        """Who is told."""
        return self.job.report

    @property
    def model(self) -> Path:
        """Its ONNX file."""
        return self.folder / ONNX_FILE

    @property
    def plan(self) -> Path:
        """Its engine."""
        return self.folder / ENGINE_FILE
