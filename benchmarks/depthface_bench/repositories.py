"""The model repositories that are measured: exported by the real command's stages, one for each variant.

`perf_analyzer` asks a model for all its outputs, and nobody wants a photo's depth as two PNGs and an array at once. So
each repository gets, beside the public models, ensembles of the very same steps that have only the outputs a user
asks for.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import onnx
from rich.console import Console

from depthface import machine, manifest
from depthface.families import card_named
from depthface.families.insightface import architectures, synthetic
from depthface.spec import EngineOptions, Ensemble, EnsembleStep, ModelCard, Network, Precision, PythonStep
from depthface_bench.variants import Variant
from depthface_export import pipeline, repository
from depthface_export.progress import Display

__all__ = [
    "DEPTH",
    "EVERYTHING",
    "FACES",
    "MEASURED_DEPTH",
    "MEASURED_FACES",
    "PACK",
    "add_measured_depth",
    "depth_card",
    "export_depth",
    "export_faces",
    "has_faces",
    "network_named",
    "overridden",
    "write_pack",
]

DEPTH = "depth_anything_v2_small"
PACK = "drawn"
"""A detector that truly finds drawn faces, and a recogniser of the size of w600k_r50 with random weights."""

FACES = f"face_analysis_{PACK}"
EVERYTHING = ("boxes", "scores", "keypoints", "embeddings")
_THREADS = {"onnxruntime": "intra_op_thread_count", "openvino": "INFERENCE_NUM_THREADS"}
"""What each backend calls the threads of a network."""

MEASURED_DEPTH, MEASURED_FACES = "measured_depth", "measured_faces"


def depth_card() -> ModelCard:
    """Depth Anything V2 Small."""
    return card_named(DEPTH)


def export_depth(target: Path, variant: Variant) -> None:
    """Export depth with random weights into `target`: the true architecture, and speed does not depend on them."""
    _export(depth_card(), "random", target, variant)
    add_measured_depth(target, variant.precision)
    _place(target, variant)


def add_measured_depth(target: Path, precision: Precision) -> None:
    """Lay out `MEASURED_DEPTH` in a repository with depth of that precision in it."""
    card = depth_card()
    _add(target, card, _only(MEASURED_DEPTH, card.ensembles[0], ("png8",)), precision)


def export_faces(pack: Path, target: Path, variant: Variant) -> None:
    """Export the pack that `write_pack` wrote, if it can be had in this precision."""
    card = card_named(str(pack))
    if variant.precision not in card.tolerances:
        return
    _export(card, str(pack), target, variant)
    analysis = next(step for step in card.steps if step.name == FACES)
    _add(target, card, _around(MEASURED_FACES, analysis, EVERYTHING), variant.precision)
    _place(target, variant)


def has_faces(repository: Path) -> bool:
    """True if faces were exported in the variant that this repository is of."""
    return (repository / MEASURED_FACES).is_dir()


def write_pack(folder: Path) -> Path:
    """Write the pack's files as InsightFace loads them into `folder`, and return the folder, whose name is `PACK`."""
    pack = folder / PACK
    pack.mkdir(exist_ok=True)
    onnx.save(synthetic.detector(), pack / "detector.onnx")
    onnx.save(architectures.random_model("w600k_r50"), pack / "recognizer.onnx")
    return pack


def network_named(card: ModelCard, kind: str) -> Network:
    """The network of a card whose name ends with `kind`."""
    return next(network for network in card.networks if network.name.endswith(f"_{kind}"))


def overridden(
    source: Path, target: Path, network: str, *, instances: int, threads: int, batch: int, delay_us: int
) -> None:
    """Copy a repository, one network of it configured otherwise: how many instances, each with how many threads, how
    many requests at most in a batch (1: each by itself), and how long one waits for others to join it.
    """
    shutil.copytree(source, target)
    path = target / network / repository.EXPORTED_CONFIG
    config = repository.read_config(path)
    config.instance_group[0].count = instances
    config.parameters[_THREADS[config.backend]].string_value = str(threads)
    if config.max_batch_size > 1:
        config.dynamic_batching.preferred_batch_size[:] = [batch]
        config.dynamic_batching.max_queue_delay_microseconds = delay_us
    repository.write_config(config, path)


def _export(card: ModelCard, weights: str, target: Path, variant: Variant) -> None:
    with Display(Console(highlight=False, soft_wrap=True), f"{variant.name}, {card.name}") as display:
        pipeline.export(
            card,
            weights=weights,
            precision=variant.precision,
            target=target,
            accept_license=True,
            report=display.say,
            engines=pipeline.Engines(EngineOptions(), display) if variant.provider == "tensorrt" else None,
        )


def _place(target: Path, variant: Variant) -> None:
    """Have ONNX Runtime on the CPU or on the GPU, as the variant says: left to itself, it takes a GPU if there is one.

    Engines and OpenVINO have their place already.
    """
    for path in target.glob(f"*/{repository.EXPORTED_CONFIG}"):
        config = repository.read_config(path)
        if config.backend == "onnxruntime":
            (group,) = config.instance_group
            group.kind = group.KIND_CPU if variant.provider == "cpu" else group.KIND_GPU
            repository.write_config(config, path)


def _only(name: str, whole: Ensemble, outputs: tuple[str, ...]) -> Ensemble:
    """An ensemble with some of its outputs, without the steps and tensors that only the others need."""
    needed = set(outputs)
    steps: list[EnsembleStep] = []
    for step in reversed(whole.steps):
        kept = {inner: outer for inner, outer in step.outputs.items() if outer in needed}
        if kept:
            needed |= set(step.inputs.values())
            steps.insert(0, replace(step, outputs=kept))
    chosen = tuple(output for output in whole.outputs if output.name in outputs)
    return replace(whole, name=name, outputs=chosen, steps=tuple(steps))


def _around(name: str, step: PythonStep, outputs: tuple[str, ...]) -> Ensemble:
    """An ensemble of one step: a pipeline asked for some of its outputs."""
    inputs = tuple(tensor for tensor in step.inputs if not tensor.optional)
    return Ensemble(
        name=name,
        inputs=inputs,
        outputs=tuple(tensor for tensor in step.outputs if tensor.name in outputs),
        steps=(EnsembleStep(step.name, _same(tensor.name for tensor in inputs), _same(outputs)),),
        max_batch_size=step.max_batch_size,
    )


def _same(names: Iterable[str]) -> Mapping[str, str]:
    return {name: name for name in names}


def _add(target: Path, card: ModelCard, ensemble: Ensemble, precision: Precision) -> None:
    """Lay the ensemble out beside the card's own, and have the manifests say that it is served."""
    names = [network.name for network in card.networks]
    more = replace(card, ensembles=(*card.ensembles, ensemble))
    with_engine = frozenset(name for name in names if (target / name / "1" / manifest.ENGINE_FILE).is_file())
    for name in names:
        folder = target / name / "1"
        found = manifest.read(folder)
        assert found is not None, f"{name} was exported a moment ago"
        configs = repository.exported_configs(
            more, precision, found.weights["origin"], with_engine, on_gpu=bool(machine.gpus())
        )
        repository.write_texts(target, more, configs)
        found.serves[ensemble.name] = names
        found.write(folder)
