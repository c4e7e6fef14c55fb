"""A pipeline's straight line to the steps of a Triton ensemble, and which of them feeds which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tritonclient.grpc import model_config_pb2 as pb

from depthface.spec import Line, Network, Pipeline, TensorSpec

__all__ = ["Step", "scheduling", "step_names", "steps_of"]


@dataclass(frozen=True)
class Step:
    """A model of Python that does the part of a line before the network, or after it.

    Attributes:
        function: its coroutine, `module:function`.
    """

    name: str
    function: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def step_names(pipeline: Pipeline) -> tuple[str, str]:
    """Return the names that the steps before and after the network have, or would have."""
    return f"{pipeline.name}_prepare", f"{pipeline.name}_finish"


def steps_of(pipeline: Pipeline, line: Line) -> list[Step]:
    """Return the first step and, if there is one, the last."""
    before, after = step_names(pipeline)
    steps = [Step(before, line.before, pipeline.inputs, line.prepared)]
    if line.after is not None:
        steps.append(Step(after, line.after, line.taken, _left(pipeline, line)))
    return steps


def scheduling(pipeline: Pipeline, line: Line, network: Network) -> pb.ModelEnsembling:
    """Return how an ensemble goes along the line.

    Asked for some outputs, Triton runs the steps that they need, as long as no output is also what another step takes;
    a step that runs is asked for all that the ensemble takes of it (ensemble_scheduler.cc, `EnsembleContext`). So the
    last step is there once for each of its outputs where they are dear.
    """
    first, *last = steps_of(pipeline, line)
    public = {tensor.name for tensor in pipeline.outputs}
    prepared = {tensor.name: _inner("prepared", tensor.name, public) for tensor in line.prepared}
    found = {tensor.name: _inner("found", tensor.name, () if last else public) for tensor in network.outputs}
    steps = [
        _step(first.name, {tensor.name: tensor.name for tensor in pipeline.inputs}, prepared),
        _step(network.name, {tensor.name: prepared[tensor.name] for tensor in network.inputs}, found),
    ]
    for step in last:
        taken = {tensor.name: (prepared | found)[tensor.name] for tensor in step.inputs}
        given = {tensor.name: tensor.name for tensor in step.outputs}
        parts = [{name: name} for name in given] if line.is_apart else [given]
        steps += [_step(step.name, taken, part) for part in parts]
    return pb.ModelEnsembling(step=steps)


def _left(pipeline: Pipeline, line: Line) -> tuple[TensorSpec, ...]:
    """Return the public outputs that the first step does not give."""
    given = {tensor.name for tensor in line.prepared}
    return tuple(tensor for tensor in pipeline.outputs if tensor.name not in given)


def _inner(giver: str, name: str, public: Sequence[str] | set[str]) -> str:
    """Return what an ensemble calls a tensor that a step gives: by the public name only if it is that output."""
    return name if name in public else f"{giver}.{name}"


def _step(model: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> pb.ModelEnsembling.Step:
    return pb.ModelEnsembling.Step(model_name=model, model_version=-1, input_map=inputs, output_map=outputs)
