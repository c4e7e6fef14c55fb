"""Triton's configs as protobuf: read from a repository's files, edited, written.

An edit that would change nothing is an error: what was asked for would be ignored in silence.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf import text_format

from depthface.alone import import_alone
from depthface.contract import CONFIG_FILE, ENSEMBLE, EXPORTED_CONFIG, Form, Parameters
from depthface.errors import ConfigError
from depthface.spec import TensorSpec

__all__ = [
    "ModelConfig",
    "config_from_text",
    "form_in",
    "input_from_spec",
    "misfit_of",
    "of_model",
    "output_from_spec",
    "parameters_of",
    "parts_of",
    "read",
    "set_parameters",
    "text_from_config",
    "texts_of",
    "with_inflight_limit",
    "with_queue",
]

if TYPE_CHECKING:
    from tritonclient.grpc import model_config_pb2 as pb
else:
    pb = import_alone("tritonclient.grpc.model_config_pb2")  # its package imports gRPC and NumPy

ModelConfig = pb.ModelConfig

_TYPES = {
    "UINT8": pb.TYPE_UINT8,
    "INT32": pb.TYPE_INT32,
    "FP32": pb.TYPE_FP32,
    "BYTES": pb.TYPE_STRING,
}


def read(path: Path) -> pb.ModelConfig:
    """Read a config from Triton's text format; raises `ConfigError` naming the file if it is none."""
    try:
        return config_from_text(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise ConfigError(
            f"{path} cannot be read as a config of Triton ({error}).", "Export the model again."
        ) from error


def of_model(folder: Path) -> pb.ModelConfig:
    """Read the config that Triton takes of the model in a folder: that of its export, if there is one."""
    exported = folder / EXPORTED_CONFIG
    return read(exported if exported.is_file() else folder / CONFIG_FILE)


def form_in(folder: Path) -> Form | None:
    """Return the form in which a public model lies in a folder; None if it cannot be told."""
    try:
        return ENSEMBLE if read(folder / CONFIG_FILE).platform == ENSEMBLE else "pipeline"
    except ConfigError:
        return None


def config_from_text(text: str) -> pb.ModelConfig:
    """Parse Triton's text format."""
    return text_format.Parse(text, pb.ModelConfig())


def text_from_config(config: pb.ModelConfig) -> str:
    """Return a config in Triton's text format."""
    return str(text_format.MessageToString(config))


def parameters_of(config: pb.ModelConfig) -> Parameters:
    """Return depthface's parameters of a model."""
    return Parameters.of_texts(texts_of(config))


def texts_of(config: pb.ModelConfig) -> dict[str, str]:
    """Return all parameters of a model, those of its backend too."""
    return {name: value.string_value for name, value in config.parameters.items()}


def parts_of(config: pb.ModelConfig) -> tuple[str, ...]:
    """Return the models that an ensemble consists of, each once, in their order; none for any other model."""
    return tuple(dict.fromkeys(step.model_name for step in config.ensemble_scheduling.step))


def misfit_of(folder: Path) -> str | None:
    """Return why this depthface does not serve the public model in a folder; None if it does, or it cannot be told."""
    try:
        return parameters_of(of_model(folder)).misfit
    except ConfigError:
        return None


def set_parameters(config: pb.ModelConfig, parameters: Parameters) -> None:
    """Put depthface's parameters in the place of those that a config has; the backends' own stay."""
    for name in parameters_of(config).texts():
        del config.parameters[name]
    for name, text in parameters.texts().items():
        config.parameters[name].string_value = text


def input_from_spec(tensor: TensorSpec) -> pb.ModelInput:
    """Return an input as a config has it."""
    return pb.ModelInput(name=tensor.name, data_type=_TYPES[tensor.dtype], dims=tensor.dims, optional=tensor.optional)


def output_from_spec(tensor: TensorSpec) -> pb.ModelOutput:
    """Return an output as a config has it."""
    return pb.ModelOutput(name=tensor.name, data_type=_TYPES[tensor.dtype], dims=tensor.dims)


def with_inflight_limit(config: pb.ModelConfig, first: pb.ModelConfig) -> pb.ModelConfig:
    """Return a copy of an ensemble's config that bounds what is between its steps.

    A step that is at the bound holds up the one before it, and so the queue of the first fills, which refuses what is
    too much. At the first step itself a request would be held in one of the few threads that listen, so the bound is
    not below what that step and its queue hold (ensemble_scheduler.cc, `StepInflightRequestLimiter`, from 26.04 on).

    Args:
        first: the config of the first step; without a limit of its queue there is no bound either.
    """
    copy = deepcopy(config)
    size = first.dynamic_batching.default_queue_policy.max_queue_size
    instances = sum(group.count for group in first.instance_group)
    copy.ensemble_scheduling.max_inflight_requests = size + instances + 1 if size else 0
    return copy


def with_queue(config: pb.ModelConfig, size: int | None, time_s: float | None) -> pb.ModelConfig:
    """Return a copy of a config with another limit of its queue: of a pipeline, or of an ensemble's first step.

    Args:
        size: the most requests that wait; 0 for a queue without any limit, of time neither; None for the config's own.
        time_s: how long one may wait; None for the config's own.

    Raises:
        ConfigError: the config has no queue with a limit, so that nothing would change.
    """
    copy = deepcopy(config)
    if not copy.dynamic_batching.HasField("default_queue_policy"):
        raise ConfigError(f"{config.name} has no queue whose limit could be changed.", "Export the model again.")
    policy = copy.dynamic_batching.default_queue_policy
    if size == 0:
        copy.dynamic_batching.ClearField("default_queue_policy")
        return copy
    if size is not None:
        policy.max_queue_size = size
    if time_s is not None:
        policy.default_timeout_microseconds = round(time_s * 1e6)
    return copy
