"""The shapes that facts come in: frozen dataclasses, no behaviour beyond reading them.

A family's `card.py` fills these in; export, server and client read them. Triton's datatype names are used throughout
(`UINT8`, `FP32`, `BYTES`), and `-1` for a dimension that varies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = [
    "Ensemble",
    "EnsembleStep",
    "HubFile",
    "HubWeights",
    "License",
    "ModelCard",
    "Network",
    "Precision",
    "PythonStep",
    "TensorSpec",
]

Precision = Literal["fp32", "fp16"]
DType = Literal["UINT8", "INT32", "FP32", "BYTES"]


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of a model, without its batch dimension."""

    name: str
    dtype: DType
    dims: tuple[int, ...]


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


@dataclass(frozen=True)
class Network:
    """A step that is a neural network: `model.onnx` behind Triton's onnxruntime backend."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int


@dataclass(frozen=True)
class PythonStep:
    """A step that is a Python function, named `module:function`; called for one photo at a time."""

    name: str
    function: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int


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
    """Everything that is known of one public model.

    `tolerances` gives, per precision, the largest value each parity metric may have, in the task's own units; the
    family's `parity.py` says what each metric is.
    """

    name: str
    family: str
    title: str
    license: License
    weights: HubWeights
    network: Network
    steps: tuple[PythonStep, ...]
    ensemble: Ensemble
    tolerances: Mapping[Precision, Mapping[str, float]]
    architecture: Mapping[str, object] = field(default_factory=dict)
