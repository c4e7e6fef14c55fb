"""Cards to Triton's configs: the same for everyone, and those of one export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tritonclient.grpc import model_config_pb2 as pb

from depthface.config import input_from_spec, output_from_spec, parameters_of, parts_of, set_parameters
from depthface.contract import CONTRACT, ENGINE_FILE, ENSEMBLE, GPU_PRECISIONS, ONNX_FILE, Form, Parameters, Precision
from depthface.spec import ModelCard, Network, Pipeline, TensorSpec
from depthface_export.ensembles import Step, scheduling, steps_of

__all__ = [
    "BY_OPENVINO",
    "add_facts",
    "exported_configs",
    "laid_out",
    "leave_to_onnxruntime",
    "network_config",
    "pipeline_config",
    "public_configs",
]

BY_OPENVINO: tuple[Precision, ...] = ("fp32", "int8")
"""The precisions in which it may; in bf16 the backend itself is `openvino`."""

MAX_QUEUE_SIZE = 256
"""Requests that wait before one pipeline; one more is answered 503 at once."""

MAX_QUEUE_TIME_S = 300
"""The longest wait there, then 503. A client that will not wait so long says so, and is not worked for in vain."""

PIPELINES_FOR_A_GPU = 4
"""Times as many processes as for a CPU: it computes several photos in little more time than one, and much less than it
takes to decode them."""


def network_config(network: Network) -> pb.ModelConfig:
    """Return the config of a network, the same for everyone.

    Its queue has no limit of its own: the pipelines that ask it bound what waits there. With any limit Triton stops
    looking ahead, and wakes its batcher up to half a second late for a request that comes while the network computes
    (dynamic_batch_scheduler.cc, `default_wait_microseconds`; scheduler_utils.cc, `support_prefetching_`).
    """
    return pb.ModelConfig(
        name=network.name,
        backend="onnxruntime",
        max_batch_size=network.max_batch_size,
        input=[input_from_spec(tensor) for tensor in network.inputs],
        output=[output_from_spec(tensor) for tensor in network.outputs],
        # One instance with all cores, or one on each GPU: several would fight for the same arithmetic.
        instance_group=[pb.ModelInstanceGroup(count=1, kind=pb.ModelInstanceGroup.KIND_AUTO)],
        dynamic_batching=pb.ModelDynamicBatching(),
    )


def pipeline_config(pipeline: Pipeline) -> pb.ModelConfig:
    """Return the config of a pipeline, the same for everyone: requests wait here, in a queue with an end.

    Triton is as late here (see `network_config`) only for a request that comes while every instance is at work.
    """
    config = _python_config(pipeline, pipeline.name, pipeline.inputs, pipeline.outputs)
    _limit_queue(config)
    _take_at_once(config, pipeline.takes_together)
    set_parameters(config, replace(pipeline.parameters, contract=CONTRACT))
    return config


def _python_config(
    pipeline: Pipeline, name: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> pb.ModelConfig:
    """Return the config of a model of Python that does a part of a pipeline's work, or all of it."""
    config = pb.ModelConfig(
        name=name,
        backend="python",
        max_batch_size=pipeline.max_batch_size,
        input=[input_from_spec(tensor) for tensor in inputs],
        output=[output_from_spec(tensor) for tensor in outputs],
        instance_group=[pb.ModelInstanceGroup(count=pipeline.instances, kind=pb.ModelInstanceGroup.KIND_CPU)],
        dynamic_batching=pb.ModelDynamicBatching(),
    )
    _take_at_once(config, 1)
    return config


def _limit_queue(config: pb.ModelConfig) -> None:
    config.dynamic_batching.default_queue_policy.MergeFrom(
        pb.ModelQueuePolicy(
            max_queue_size=MAX_QUEUE_SIZE,
            default_timeout_microseconds=MAX_QUEUE_TIME_S * 1_000_000,
            allow_timeout_override=True,
        )
    )


def public_configs(card: ModelCard, pipeline: Pipeline, form: Form = "pipeline") -> dict[str, pb.ModelConfig]:
    """Return the configs of a public model and, of an ensemble, of its steps; the same for everyone, by model."""
    line = pipeline.line
    if form == "pipeline" or line is None:
        return {pipeline.name: pipeline_config(pipeline)}
    ensemble = pb.ModelConfig(
        name=pipeline.name,
        platform=ENSEMBLE,
        max_batch_size=pipeline.max_batch_size,
        input=[input_from_spec(tensor) for tensor in pipeline.inputs],
        output=[output_from_spec(tensor) for tensor in pipeline.outputs],
        ensemble_scheduling=scheduling(pipeline, line, _network_of(card, pipeline)),
    )
    set_parameters(ensemble, replace(pipeline.parameters, contract=CONTRACT))
    return {pipeline.name: ensemble, **_step_configs(pipeline, steps_of(pipeline, line))}


def _network_of(card: ModelCard, pipeline: Pipeline) -> Network:
    (name,) = pipeline.parameters.networks.values()
    return next(network for network in card.networks if network.name == name)


def _step_configs(pipeline: Pipeline, steps: Sequence[Step]) -> dict[str, pb.ModelConfig]:
    """Return the configs of an ensemble's own steps; the first has the queue with an end: an ensemble has none."""
    configs, whole = {}, pipeline.parameters
    for step in steps:
        config = _python_config(pipeline, step.name, step.inputs, step.outputs)
        counted = whole.counted if whole.counted in {tensor.name for tensor in step.outputs} else None
        known = Parameters(networks=whole.networks, part_of=pipeline.name, counted=counted, facts=whole.facts)
        set_parameters(config, replace(known, contract=CONTRACT))
        configs[step.name] = config
    _limit_queue(configs[steps[0].name])
    return configs


def exported_configs(
    card: ModelCard,
    precision: Precision,
    weights: str,
    with_engine: frozenset[str] = frozenset(),
    *,
    on_gpu: bool = False,
    form: Form = "pipeline",
) -> dict[str, pb.ModelConfig]:
    """By model, the configs of this very export: its weights' origin, and what serves its precision best.

    Args:
        with_engine: the networks that have a TensorRT engine.
        on_gpu: the others are for a GPU too, which computes several requests in little more time than one. What is in a
            precision for processors stays on a processor, also where a GPU is served from.
    """
    networks = {network.name: network_config(network) for network in card.networks}
    public = laid_out(card, form)
    inside = {name for config in public.values() for name in parts_of(config)}
    some_on_gpu = False
    for network in card.networks:
        config = networks[network.name]
        is_for_processors = not network.only_fp32 and precision not in GPU_PRECISIONS
        if is_for_processors:
            config.instance_group[0].kind = pb.ModelInstanceGroup.KIND_CPU
        if precision == "bf16" and not network.only_fp32:
            _serve_by_openvino(config, keeps_batches=network.name in inside)
        if network.name in with_engine:
            _serve_by_tensorrt(config, network)
        if network.name in with_engine or (on_gpu and not is_for_processors):
            some_on_gpu = True
            continue
        _take_at_once(config, 1)
        if network.by_openvino and precision in BY_OPENVINO:
            set_parameters(config, Parameters(cpu_runtime="openvino"))
    if some_on_gpu:
        for config in public.values():
            for group in config.instance_group:
                group.count *= PIPELINES_FOR_A_GPU
    configs = networks | public
    for config in configs.values():
        set_parameters(config, replace(parameters_of(config), weights=weights, precision=precision))
    return configs


def laid_out(card: ModelCard, form: Form = "pipeline") -> dict[str, pb.ModelConfig]:
    """Return the configs of all public models of a card and of their steps, the same for everyone, by model."""
    configs: dict[str, pb.ModelConfig] = {}
    for pipeline in card.pipelines:
        configs |= public_configs(card, pipeline, form)
    return configs


def _take_at_once(config: pb.ModelConfig, count: int) -> None:
    """Have so many requests taken at once at the most, as soon as it can be, whatever more there waits.

    Most often that is one. A CPU saves no time on several together where a network is large, and they would all have to
    wait for the last of them, in as much more memory.
    """
    if config.max_batch_size > 1:
        config.dynamic_batching.preferred_batch_size[:] = [count]


def _serve_by_tensorrt(config: pb.ModelConfig, network: Network) -> None:
    """Put the engine in the place of the ONNX file, and leave all else the same.

    The backend takes for each request the profile that it fits best (github.com/triton-inference-server/server,
    model_configuration.md, `instance_group.profile`), and serves TYPE_UINT8 inputs as they are.
    """
    config.backend = "tensorrt"
    config.default_model_filename = ENGINE_FILE
    (group,) = config.instance_group
    group.kind = pb.ModelInstanceGroup.KIND_GPU
    group.profile.extend(str(index) for index in range(len(network.profiles)))


def _serve_by_openvino(config: pb.ModelConfig, *, keeps_batches: bool) -> None:
    """bf16 is how OpenVINO computes the fp32 file, not another file.

    NVIDIA's OpenVINO backend compiles a model for batches of exactly `max_batch_size` (openvino.cc, `ov::set_batch`).
    So to Triton the batch is a dimension like others, and may be any. Nothing is lost: batching wins no time on a CPU.
    An ensemble with batches, though, takes no step without them: its networks are for depthface's own OpenVINO backend.
    """
    config.backend = "openvino"
    config.default_model_filename = ONNX_FILE
    if not keeps_batches:
        config.max_batch_size = 0
        for tensor in (*config.input, *config.output):
            tensor.dims.insert(0, -1)
    for key, value in (("HINT_BF16", "YES"), ("PERFORMANCE_HINT", "LATENCY"), ("NUM_STREAMS", "1")):
        config.parameters[key].string_value = value


def add_facts(config: pb.ModelConfig, facts: Mapping[str, str]) -> None:
    """Tell a pipeline, and who asks it, what only the weights told."""
    known = parameters_of(config)
    set_parameters(config, replace(known, facts={**known.facts, **facts}))


def leave_to_onnxruntime(config: pb.ModelConfig) -> None:
    """Have a network computed by ONNX Runtime on a CPU too."""
    set_parameters(config, replace(parameters_of(config), cpu_runtime=None))
