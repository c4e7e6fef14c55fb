"""What an export writes into a model's config, and server and client read there: one home for its names and types.

A config of Triton carries parameters, texts by name. depthface's own are the fields of `Parameters`; those of NVIDIA's
backends (`intra_op_thread_count`, `HINT_BF16`, …) stand beside them and are not its business. The same parameters are
met in three forms: as text by name here, as JSON in what Triton tells of a model (`Parameters.of_config`), and as
protobuf in the files of a repository (`depthface.config`).

Triton tells of a refusal in words alone. The words that both sides look for are here too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

__all__ = [
    "ADMIN_HEADER",
    "CONFIG_FILE",
    "CONTRACT",
    "ENGINE_FILE",
    "ENSEMBLE",
    "EXPORTED_CONFIG",
    "EXPORTED_CONFIG_NAME",
    "GPU_PRECISIONS",
    "MANIFEST_FILE",
    "MODEL_VERSION",
    "NOT_SERVED",
    "NO_ROOM",
    "ONNX_FILE",
    "QUEUE_FULL",
    "RESTRICTED",
    "STAGING_FOLDER",
    "UNKNOWN_WEIGHTS",
    "WAITED_TOO_LONG",
    "CpuRuntime",
    "Form",
    "Parameters",
    "Precision",
    "texts_of",
]

CONTRACT = 1
"""The number of what the files of a public model ask of the server: functions by name, parameters by name and form.

It is raised where one of them goes or means something else. 0 is that of depthface 0.1.0, which writes none."""

CONFIG_FILE = "config.pbtxt"
"""A model's config, the same for everyone."""

EXPORTED_CONFIG_NAME = "exported"
EXPORTED_CONFIG = f"configs/{EXPORTED_CONFIG_NAME}.pbtxt"
"""Beside it: what this very export is. Triton prefers it under `--model-config-name=exported`, and does without it
otherwise."""

MODEL_VERSION = "1"
"""The one version of each model, and the folder that holds its artefact."""

ONNX_FILE = "model.onnx"
ENGINE_FILE = "model.plan"
MANIFEST_FILE = "manifest.json"

STAGING_FOLDER = ".export"
"""In a repository: where an export is at work. What a killed one leaves there, the next one sweeps up."""

ADMIN_HEADER = "x-depthface-admin"
"""The HTTP header that carries an operator's key; in gRPC the metadata `triton-grpc-protocol-x-depthface-admin`."""

UNKNOWN_WEIGHTS = "unknown"
"""What is said of the weights of a model whose config does not name them."""

QUEUE_FULL = "maximum queue size"
"""What Triton says of a queue that takes no more."""

WAITED_TOO_LONG = "timeout expired"
"""What it says of a request that has waited in a queue for as long as it may."""

NO_ROOM = "shared memory pool"
"""What it says if /dev/shm is too small for a tensor."""

NOT_SERVED = (
    "failed to load",
    "unknown model",
    "is not found",
    "is not ready",
    "not at ready state",
    "has no available versions",
)
"""What it says of a model that it does not serve, whatever the status: one of these."""

RESTRICTED = "is restricted"
"""What it says of a call that is for its operator."""

Precision = Literal["fp32", "fp16", "bf16", "int8"]
GPU_PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")
"""What a GPU serves, where there is one. The others are for processors, and are proven and served there alone."""

CpuRuntime = Literal["openvino"]
Form = Literal["pipeline", "ensemble"]
ENSEMBLE: Form = "ensemble"
"""How a public model is laid out: one process that asks the networks itself, or steps that Triton goes along."""

_FACT = "fact."


@dataclass(frozen=True)
class Parameters:
    """depthface's parameters of one model.

    Attributes:
        task: what a public model does, a name of `depthface.tasks`; None for a network of one.
        networks: the models that a public one asks, by the role that each plays in it.
        is_lazy: its networks are not loaded when the server starts, but when it is first used.
        rank: which one a request takes that names no model, of several that do the same: the lowest.
        counted: the output whose length is counted in the metrics: the faces of a photo.
        part_of: of a step of an ensemble: the public model, under whose name it answers and counts.
        gathers: what its photos ask a network at the same moment is one batch, and not one after the other: a CPU gains
            by that where a network is small, since it reads the weights once.
        weights: where the weights came from, such as `<hub id>@<revision>` or `random, seed 0`.
        precision: of the networks; None in a config that no export has written.
        cpu_runtime: what computes the network on a CPU in the place of ONNX Runtime, which an embedded server heeds.
        facts: whatever else a family tells its own pipeline.
        contract: of a public model and its steps: the number of the contract for which an export laid them out.
        repository: where the models lie; never written, the server tells it to a pipeline that it runs.
    """

    task: str | None = None
    networks: Mapping[str, str] = field(default_factory=dict)
    is_lazy: bool = False
    rank: int = 0
    counted: str | None = None
    part_of: str | None = None
    gathers: bool = False
    weights: str = UNKNOWN_WEIGHTS
    precision: Precision | None = None
    cpu_runtime: CpuRuntime | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    contract: int = 0
    repository: Path | None = None

    @property
    def misfit(self) -> str | None:
        """Why this depthface does not serve a public model that has these, after its name; None if it does."""
        if self.contract == CONTRACT:
            return None
        other = "an older" if self.contract < CONTRACT else "a newer"
        return f"was laid out by {other} depthface, whose files this one does not serve"

    def texts(self) -> dict[str, str]:
        """Return them by the names that they have in a config; what is as the defaults are is left out."""
        texts = {
            "task": self.task or "",
            "networks": ",".join(f"{role}={name}" for role, name in self.networks.items()),
            "lazy": "true" if self.is_lazy else "",
            "rank": str(self.rank or ""),
            "counted": self.counted or "",
            "part_of": self.part_of or "",
            "gathers": "true" if self.gathers else "",
            "weights": "" if self.weights == UNKNOWN_WEIGHTS else self.weights,
            "precision": self.precision or "",
            "cpu_runtime": self.cpu_runtime or "",
            "contract": str(self.contract or ""),
        }
        texts |= {f"{_FACT}{name}": value for name, value in self.facts.items()}
        return {name: text for name, text in texts.items() if text}

    @classmethod
    def of_texts(cls, texts: Mapping[str, str]) -> Parameters:
        """Read them from a config's parameters by name; those of others are passed over."""
        pairs = [pair.partition("=") for pair in texts.get("networks", "").split(",") if pair]
        precision, runtime = texts.get("precision"), texts.get("cpu_runtime")

        def number(name: str) -> int:
            return int(text) if (text := texts.get(name, "")).isdecimal() else 0

        return cls(
            task=texts.get("task") or None,
            networks={role: name for role, _, name in pairs},
            is_lazy=texts.get("lazy") == "true",
            rank=number("rank"),
            counted=texts.get("counted") or None,
            part_of=texts.get("part_of") or None,
            gathers=texts.get("gathers") == "true",
            weights=texts.get("weights") or UNKNOWN_WEIGHTS,
            precision=cast(Precision, precision) if precision in get_args(Precision) else None,
            cpu_runtime="openvino" if runtime == "openvino" else None,
            facts={name.removeprefix(_FACT): text for name, text in texts.items() if name.startswith(_FACT)},
            contract=number("contract"),
        )

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> Parameters:
        """Read them from a config as Triton tells it in JSON, to its clients and to its Python models."""
        return cls.of_texts(texts_of(config))


def texts_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Return all parameters, others' too, of a config as Triton tells it in JSON: protobuf leaves empty texts out."""
    return {name: value.get("string_value", "") for name, value in config.get("parameters", {}).items()}
