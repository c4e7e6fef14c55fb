"""The shapes that facts come in: frozen dataclasses, no behaviour beyond reading them.

A family's `card.py` fills these in; export, server and client read them. Triton's datatype names are used throughout
(`UINT8`, `FP32`, `BYTES`), and `-1` for a dimension that varies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = [
    "Ensemble",
    "EnsembleStep",
    "HubFile",
    "HubWeights",
    "License",
    "ModelCard",
    "Network",
    "Precision",
    "PublishedPack",
    "PythonStep",
    "Source",
    "TensorSpec",
]

Precision = Literal["fp32", "fp16"]
DType = Literal["UINT8", "INT32", "FP32", "BYTES"]


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of a model, without its batch dimension; an optional input may be left out of a request."""

    name: str
    dtype: DType
    dims: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True)
class License:
    """Under what terms the weights may be used."""

    id: str
    is_open: bool
    url: str


@dataclass(frozen=True)
class HubFile:
    """One published file; `None` where no public record of the value was found."""

    name: str
    size_bytes: int | None
    sha256: str | None


@dataclass(frozen=True)
class HubWeights:
    """Published weights: a hub repository at one revision, and the files of it that are needed."""

    repo_id: str
    revision: str
    files: tuple[HubFile, ...]

    @property
    def origin(self) -> str:
        """How a manifest names them."""
        return f"{self.repo_id}@{self.revision}"


@dataclass(frozen=True)
class PublishedPack:
    """Published weights: the ONNX files of one of InsightFace's packs, or of a folder of such files."""

    name: str
    files: tuple[HubFile, ...]

    @property
    def origin(self) -> str:
        """How a manifest names them."""
        return f"{self.name}@insightface"


@dataclass(frozen=True)
class Network:
    """A step that is a neural network: `model.onnx` behind Triton's onnxruntime backend."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int


@dataclass(frozen=True)
class PythonStep:
    """A step that is a Python function, named `module:function`; called for one photo at a time.

    Attributes:
        parameters: what the function is told besides its inputs.
        is_pipeline: the function is a coroutine that asks other models itself (Triton's BLS), and a public model.
        is_lazy: not loaded when the server starts, but when it is first used.
        instances: how many processes run it.
    """

    name: str
    function: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int
    parameters: Mapping[str, str] = field(default_factory=dict)
    is_pipeline: bool = False
    is_lazy: bool = False
    instances: int = 1


@dataclass(frozen=True)
class EnsembleStep:
    """One arrow of an ensemble: a model, and which tensor of the ensemble each of its tensors is."""

    model: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


@dataclass(frozen=True)
class Ensemble:
    """A public model: the tensors a user sees and the steps between them."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    steps: tuple[EnsembleStep, ...]
    max_batch_size: int


@dataclass(frozen=True)
class ModelCard:
    """Everything that is known of what one export makes: its networks, and the public models that they serve.

    Attributes:
        stand_ins: weights that are nobody's: `random` (the true architecture, seeded), `synthetic` (set by hand).
        serves: the networks that each public model needs.
        tolerances: per precision, the largest value each parity metric may have, in the task's own units; the
            family's `parity.py` says what each metric is.
        is_published: the weights can be downloaded; else the user brings them.
        is_committed: the generated text of its models is kept in git, as the reference.
        architecture: what the family's `network.py` builds random weights from.
    """

    name: str
    family: str
    title: str
    license: License
    weights: HubWeights | PublishedPack
    networks: tuple[Network, ...]
    steps: tuple[PythonStep, ...]
    ensembles: tuple[Ensemble, ...]
    serves: Mapping[str, tuple[str, ...]]
    tolerances: Mapping[Precision, Mapping[str, float]]
    stand_ins: tuple[str, ...] = ("random",)
    is_published: bool = True
    is_committed: bool = True
    architecture: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """A network on its way to ONNX, and what it must equal.

    Attributes:
        model: a `torch.nn.Module` in evaluation mode that takes and gives what the card says, or a finished
            `onnx.ModelProto`.
        reference: what the family's `parity.py` compares the export with.
        example: an input to trace a module with; batch ≥ 2 and height ≠ width, so that no two dimensions are one.
        dynamic_shapes: for each input of a module, which of its dimensions vary (`torch.export.Dim`).
    """

    model: Any
    reference: Any
    example: Any = None
    dynamic_shapes: Any = None
