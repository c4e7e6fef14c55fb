"""What `depthface serve` would run on this machine, and why: the lines of `--explain`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from depthface import config, machine
from depthface.contract import MODEL_VERSION, ONNX_FILE
from depthface.cores import Cores
from depthface_server import static_graphs
from depthface_server.installation import Installation
from depthface_server.options import Options
from depthface_server.repository import Contents

__all__ = ["explanation"]

_RUNTIMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "tensorrt": "TensorRT"}
_THREADS = ("intra_op_thread_count", "INFERENCE_NUM_THREADS")
"""How configs of ONNX Runtime's and OpenVINO's backends name the number of threads."""


def explanation(
    repository: Path, contents: Contents, options: Options, installation: Installation, cores: Cores
) -> Iterator[str]:
    """Yield a line for the machine, one for Triton, and one for each model, public ones after their networks."""
    yield f"cores: {cores}"
    kind = "NVIDIA's own backends" if installation.is_native else "depthface's backends, on the repository unchanged"
    yield f"Triton: {installation.program}, with {kind}"
    has_gpu = bool(machine.gpus())
    for name in contents.networks:
        found = config.of_model(repository / name)
        on_gpu = _is_on_gpu(found, has_gpu)
        graphs = _graphs(repository / name, found, installation, on_gpu=on_gpu)
        yield f"{name}: {_network(found, installation, cores, on_gpu=on_gpu)}{graphs}"
    for name in contents.exported:
        lazy = "; its networks are loaded when it is first used" if name in contents.lazy else ""
        yield f"{name}: {_public(repository, name, options)}{lazy}"


def _public(repository: Path, name: str, options: Options) -> str:
    found = config.of_model(repository / name)
    parts = config.parts_of(found)
    if not parts:
        return _pipeline(found, options)
    first = _pipeline(config.of_model(repository / parts[0]), options)
    return f"an ensemble, Triton goes along {', '.join(parts)}; of the first {first}"


def _is_on_gpu(found: config.ModelConfig, has_gpu: bool) -> bool:
    return _says_gpu(found) or (has_gpu and any(group.kind == group.KIND_AUTO for group in found.instance_group))


def _says_gpu(found: config.ModelConfig) -> bool:
    return found.backend == "tensorrt" or any(group.kind == group.KIND_GPU for group in found.instance_group)


def _network(found: config.ModelConfig, installation: Installation, cores: Cores, *, on_gpu: bool) -> str:
    if on_gpu:
        where = f"on the GPU, because {'its config says so' if _says_gpu(found) else 'there is one'}"
    else:
        where = f"on the CPU, {_threads(found, installation, cores)}"
    runtime = _RUNTIMES.get(found.backend, found.backend)
    why = ""
    if config.parameters_of(found).cpu_runtime == "openvino" and not installation.is_native and not on_gpu:
        runtime, why = _RUNTIMES["openvino"], ", which its export has proven in this precision"
    batch = f"batches of up to {found.max_batch_size}" if found.max_batch_size else "no batches"
    return f"{runtime}{why}, {where}{_arithmetic(found, installation)}; {_count(found)} at once, {batch}"


def _arithmetic(found: config.ModelConfig, installation: Installation) -> str:
    parameters = config.texts_of(found)
    if installation.is_native or not static_graphs.wants_bf16(parameters):
        return ""
    if static_graphs.computes_in_bf16(parameters):
        return ", in bf16"
    return ", in fp32, because this processor is no quicker in bf16"


def _graphs(folder: Path, found: config.ModelConfig, installation: Installation, *, on_gpu: bool) -> str:
    path = folder / MODEL_VERSION / ONNX_FILE
    if installation.is_native or found.backend == "tensorrt" or not path.is_file():
        return ""
    try:
        room = (static_graphs.room_on_gpu if on_gpu else static_graphs.room_of)(path, config.texts_of(found))
    except ValueError as error:
        return f"; it will not load: {error}"
    if not room:
        return ""
    what = (
        "sessions, for the shapes that come again"
        if on_gpu
        else "static graphs, for the shapes that are asked for most"
    )
    return f"; up to {room} {what}"


def _threads(found: config.ModelConfig, installation: Installation, cores: Cores) -> str:
    for name in _THREADS:
        if name in found.parameters:
            return f"{found.parameters[name].string_value} threads, because its config says so"
    if installation.is_native:
        return "as many threads as NVIDIA's backend takes"
    return f"{cores.count} threads, one a core"


def _pipeline(found: config.ModelConfig, options: Options) -> str:
    count = _count(found)
    policy = found.dynamic_batching.default_queue_policy
    size = policy.max_queue_size if options.queue_size is None else options.queue_size
    if not size:
        return f"{count} processes, a queue without a limit"
    time_s = policy.default_timeout_microseconds / 1e6 if options.queue_time_s is None else options.queue_time_s
    return f"{count} processes, {size} requests wait at most, for {time_s:g} s at most"


def _count(found: config.ModelConfig) -> int:
    return sum(group.count for group in found.instance_group) or 1
