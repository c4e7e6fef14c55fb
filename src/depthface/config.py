"""Triton's configs as protobuf: read from a repository's files, edited, written.

An edit that would change nothing is an error: what was asked for would be ignored in silence.
"""

from __future__ import annotations

from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from depthface.contract import Parameters
from depthface.errors import ConfigError
from depthface.spec import TensorSpec

__all__ = [
    "ModelConfig",
    "config_from_text",
    "input_from_spec",
    "output_from_spec",
    "parameters_of",
    "read",
    "set_parameters",
    "text_from_config",
    "with_queue",
]

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
        return config_from_text(path.read_text())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise ConfigError(
            f"{path} cannot be read as a config of Triton ({error}).", "Export the model again."
        ) from error


def config_from_text(text: str) -> pb.ModelConfig:
    """Parse Triton's text format."""
    return text_format.Parse(text, pb.ModelConfig())


def text_from_config(config: pb.ModelConfig) -> str:
    """Return a config in Triton's text format."""
    return str(text_format.MessageToString(config))


def parameters_of(config: pb.ModelConfig) -> Parameters:
    """Return depthface's parameters of a model."""
    return Parameters.of_texts({name: value.string_value for name, value in config.parameters.items()})


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


def with_queue(config: pb.ModelConfig, size: int | None, time_s: float | None) -> pb.ModelConfig:
    """Return a copy of a public model's config with another limit of its queue.

    Args:
        size: the most requests that wait; 0 for a queue without any limit, of time neither; None for the config's own.
        time_s: how long one may wait; None for the config's own.

    Raises:
        ConfigError: the config has no queue with a limit, so that nothing would change.
    """
    copy = pb.ModelConfig()
    copy.CopyFrom(config)
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
