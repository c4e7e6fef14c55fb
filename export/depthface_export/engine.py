"""The engine stage: built, proven on photographs, and, where fp16 does not hold, once more with parts in fp32."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import onnx

from depthface import manifest
from depthface.errors import ParityError
from depthface.machine import Machine
from depthface.spec import EngineOptions
from depthface_export import precision as precision_stage
from depthface_export import tensorrt, validate
from depthface_export.job import NetworkJob
from depthface_export.validate import Check

__all__ = ["engine_from_export", "is_current"]


def engine_from_export(making: NetworkJob, options: EngineOptions) -> tuple[dict[str, Any], list[Check]]:
    """Build `model.plan` from `model.onnx` and prove it; return the manifest's `engine`, and checks of `model.onnx`.

    If an fp16 engine does not hold, `model.onnx` is rewritten with its attention scores, its normalisations and what
    comes near fp16's limit in fp32, proven anew, and built once more. The checks are those of that proof; if the file
    stays as it was, there are none.

    Raises:
        EngineError: TensorRT cannot build it.
        ParityError: the engine does not compute what its reference does.
    """
    here = tensorrt.require()
    network, report = making.network, making.report
    assert making.job.engines is not None
    phases = making.job.engines.phases

    def attempt() -> list[Check]:
        report(f"engine: {network.name}, TensorRT {here.tensorrt}, {here.gpus[0].name}")
        tensorrt.engine_from_onnx(making.model, making.plan, network, options, phases)
        report("gate: the engine against the reference, on photographs")
        with tensorrt.runner(making.plan, network) as run:
            return validate.prove(making, run, what="engine")

    fp32_nodes, of_rewritten = 0, list[Check]()
    try:
        checks = attempt()
    except ParityError as error:
        if making.precision != "fp16":
            raise
        report(f"  {error}")
        fp32_nodes, of_rewritten = _raise_precision(making)
        try:
            checks = attempt()
        except ParityError as again:
            raise ParityError(
                f"{again.what} Neither does it with attention scores, normalisations and all that comes near fp16's "
                "limit in fp32.",
                "Nothing was installed. Export with --precision fp32.",
            ) from again
    return _facts(making, here, options, fp32_nodes, checks), of_rewritten


def is_current(found: dict[str, Any], options: EngineOptions) -> bool:
    """Return True if a manifest's `engine` is what these options would build on this machine."""
    return bool(found["options"] == asdict(options) and _belongs(tensorrt.require()).items() <= found.items())


def _raise_precision(making: NetworkJob) -> tuple[int, list[Check]]:
    """Rewrite the ONNX file in place, and prove it again; return how many nodes went to fp32, and the new checks."""
    model = making.model
    graph = onnx.load(model)
    feeds = validate.inputs(making, validate.runner(model))
    scores, norms = precision_stage.attention_scores(graph), precision_stage.normalisations(graph)
    large = precision_stage.near_overflow(graph, feeds, validate.runner)
    making.report(
        f"engine: once more, in fp32 {len(scores)} nodes of attention scores, {len(norms)} normalisations, and "
        f"{len(large - scores - norms)} others near fp16's limit"
    )
    onnx.save(precision_stage.in_fp32(graph, scores | norms | large), model)
    return len(scores | norms | large), validate.prove(making, validate.runner(model))


def _facts(
    making: NetworkJob, here: Machine, options: EngineOptions, fp32_nodes: int, checks: list[Check]
) -> dict[str, Any]:
    return {
        "sha256": manifest.sha256_of(making.plan),
        **_belongs(here),
        "options": asdict(options),
        "fp32_nodes": fp32_nodes,
        "checks": [asdict(check) for check in checks],
    }


def _belongs(here: Machine) -> dict[str, Any]:
    gpu = here.gpus[0]
    return {
        "tensorrt": here.tensorrt,
        "gpu": gpu.name,
        "compute_capability": gpu.compute_capability,
        "driver": gpu.driver,
    }
