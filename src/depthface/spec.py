"""The shapes that facts come in: frozen dataclasses, no behaviour beyond reading them.

A family's `card.py` fills these in; export, server and client read them. Triton's datatype names are used throughout
(`UINT8`, `FP32`, `BYTES`), and `-1` for a dimension that varies.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from depthface.cache import expanded
from depthface.contract import Parameters, Precision

if TYPE_CHECKING:  # the server's own process computes nothing, and does without
    import numpy as np
    import numpy.typing as npt

__all__ = [
    "AskNetwork",
    "EngineOptions",
    "HardwareCompatible",
    "HubFile",
    "HubWeights",
    "License",
    "Line",
    "Makers",
    "ModelCard",
    "Network",
    "Pipeline",
    "Precision",
    "Profile",
    "PublishedPack",
    "Samples",
    "Source",
    "TensorSpec",
]

HardwareCompatible = Literal["none", "same_compute_capability", "ampere_plus"]
AskNetwork = Callable[
    [str, Mapping[str, "npt.NDArray[Any]"], Collection[str]],
    Awaitable[dict[str, "npt.NDArray[Any]"]],
]
"""How a pipeline asks a network: its name, batched inputs, the outputs wanted; it gives those."""

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

    def is_of(self, size_bytes: int, sha256: str) -> bool | None:
        """Return whether what has this size and this sha256 is the published file; None where nobody can say."""
        if self.size_bytes not in (None, size_bytes):
            return False
        return None if self.sha256 is None else self.sha256 == sha256


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

    @property
    def folder(self) -> Path:
        """Where InsightFace itself keeps them (`insightface.utils.storage`)."""
        return expanded("~/.insightface/models") / self.name


@dataclass(frozen=True)
class Profile:
    """The shapes of one input, batch first, that an engine takes: from `min` to `max`, tuned for `opt`."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]


@dataclass(frozen=True)
class EngineOptions:
    """How a TensorRT engine is built.

    Attributes:
        version_compatible: it runs under later versions of TensorRT too, more slowly.
        hardware_compatible: the GPUs it runs on: of the kind that built it, of its compute capability, or any from
            Ampere on.
        workspace_mib: memory that the builder may use for a layer's scratch space; None for all there is.
        optimization_level: 0 (built at once) to 5 (all is tried); None for TensorRT's own, 3.
    """

    version_compatible: bool = False
    hardware_compatible: HardwareCompatible = "none"
    workspace_mib: int | None = None
    optimization_level: int | None = None


@dataclass(frozen=True)
class Network:
    """A neural network: `model.onnx` behind one of Triton's backends, or an engine built from it.

    Attributes:
        only_fp32: whatever precision is asked for; the others cost it more accuracy than they save time.
        profiles: the shapes of all inputs that an engine is built for, by input. Where there are several, the server
            takes for each request the one that it fits best. With none there is no engine.
        by_openvino: on a CPU, where OpenVINO computes it quicker than ONNX Runtime and as exactly.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int
    only_fp32: bool = False
    profiles: tuple[Mapping[str, Profile], ...] = ()
    by_openvino: bool = False


@dataclass(frozen=True)
class Line:
    """A public model's work as a straight line: a step before its one network, and one after it.

    So it can also be laid out as Triton's `ensemble`. The steps are coroutines like a pipeline's, named
    `module:function`, that ask no network.

    Attributes:
        before: takes the public inputs.
        prepared: what it gives: the network's inputs, by their names; public outputs, by theirs; and what `after` needs
            besides.
        after: gives the public outputs that are left; None if they are the network's own.
        taken: what it takes, in order: outputs of the network, by their names, and others of `prepared`.
        is_apart: each output of `after` is dear, so it is computed only where it is asked for.
    """

    before: str
    prepared: tuple[TensorSpec, ...]
    after: str | None = None
    taken: tuple[TensorSpec, ...] = ()
    is_apart: bool = False


@dataclass(frozen=True)
class Pipeline:
    """A public model: a coroutine, named `module:function`, that asks the networks itself (Triton's BLS).

    It is called for one photo at a time, and is told by its `Parameters` what it needs besides its inputs.

    Attributes:
        parameters: what its config says to everyone; an export adds what it alone knows.
        takes_together: so many requests, at the most, are taken at once, for `Parameters.gathers`. They wait for one
            another, so that it is for what costs little before a network is asked.
        instances: how many processes run it, each with one request, so that one decodes while the other waits for a
            network; for a GPU they are more.
        line: the same work as a straight line; None where what is done depends on what is found, or has
            no shape that several of one request share.
    """

    name: str
    function: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int
    parameters: Parameters
    takes_together: int = 1
    instances: int = 2
    line: Line | None = None


@dataclass(frozen=True)
class ModelCard:
    """Everything that is known of what one export makes: its networks, and the public models that they serve.

    Attributes:
        stand_ins: weights that are nobody's: `random` (the true architecture, seeded), `synthetic` (set by hand).
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
    pipelines: tuple[Pipeline, ...]
    tolerances: Mapping[Precision, Mapping[str, float]]
    stand_ins: tuple[str, ...] = ("random",)
    is_published: bool = True
    is_committed: bool = True
    architecture: Mapping[str, object] = field(default_factory=dict)

    @property
    def serves(self) -> dict[str, tuple[str, ...]]:
        """The networks that each public model needs."""
        return {pipeline.name: tuple(pipeline.parameters.networks.values()) for pipeline in self.pipelines}


@dataclass(frozen=True)
class Makers:
    """What has a hand in an artefact: if one of these changes, the artefact is stale.

    Attributes:
        modules: names of depthface's own, whose code counts.
        packages: names of others', whose versions count.
    """

    modules: tuple[str, ...]
    packages: tuple[str, ...]


@dataclass(frozen=True)
class Samples:
    """What an export is compared on, or calibrated on.

    Attributes:
        photos: `(H, W, 3) uint8 RGB` each.
        sentences: for networks that read.
        is_exact: the export is shown them scaled as the reference is; else by the faster method, as it is served.
    """

    photos: Sequence[npt.NDArray[np.uint8]]
    sentences: Sequence[str] = ()
    is_exact: bool = True


@dataclass(frozen=True)
class Source:
    """A network on its way to ONNX, and what it must equal.

    Attributes:
        model: a `torch.nn.Module` in evaluation mode that takes and gives what the card says, or a finished
            `onnx.ModelProto`.
        reference: what the family's `parity.py` compares the export with.
        example: an input to trace a module with; batch ≥ 2 and height ≠ width, so that no two dimensions are one.
        dynamic_shapes: for each input of a module, which of its dimensions vary (`torch.export.Dim`).
        files: what else lies beside the ONNX file, by name, such as a tokenizer.
        facts: what only the weights tell, for the `facts` of the public models that ask it.
    """

    model: Any
    reference: Any
    example: Any = None
    dynamic_shapes: Any = None
    files: Mapping[str, bytes] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
