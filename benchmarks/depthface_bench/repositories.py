"""The model repositories that are measured: exported by the real command's stages, one for each variant.

`perf_analyzer` asks a model for all its outputs, and nobody wants a photo's depth as two PNGs and an array at once. So
each repository gets, beside the public models, the very same pipelines with only the inputs and outputs of a usual
request.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
from rich.console import Console

from depthface import machine, manifest
from depthface.config import read as read_config
from depthface.contract import ENGINE_FILE, EXPORTED_CONFIG, MANIFEST_FILE, Precision
from depthface.families import card_named
from depthface.spec import EngineOptions, ModelCard
from depthface_bench.variants import Variant
from depthface_export import configs, pipeline, texts
from depthface_export.job import Engines, Job
from depthface_export.progress import Display
from depthface_export.weights import locate
from depthface_standins.insightface import architectures, synthetic

__all__ = [
    "DEPTH",
    "DEPTH_NETWORK",
    "EMBEDDINGS",
    "EVERYTHING",
    "FACES",
    "MEASURED_DEPTH",
    "MEASURED_FACES",
    "PACK",
    "Setting",
    "add_measured_depth",
    "copy_depth",
    "depth_card",
    "embedding_card",
    "export_depth",
    "export_embeddings",
    "export_faces",
    "has_faces",
    "overridden",
    "write_pack",
]

DEPTH = "depth_anything_v2_small"
DEPTH_NETWORK = f"{DEPTH}_network"
PACK = "drawn"
"""A detector that truly finds drawn faces, and a recogniser of the size of w600k_r50 with random weights."""

FACES = f"face_analysis_{PACK}"
EVERYTHING = ("boxes", "scores", "keypoints", "embeddings")
_THREADS = {"onnxruntime": "intra_op_thread_count", "openvino": "INFERENCE_NUM_THREADS"}
"""What each backend calls the threads of a network."""

EMBEDDINGS = "clip_vit_b_32"

MEASURED_DEPTH, MEASURED_FACES = "measured_depth", "measured_faces"


def depth_card() -> ModelCard:
    """Depth Anything V2 Small."""
    return card_named(DEPTH)


def embedding_card() -> ModelCard:
    """CLIP ViT-B/32."""
    return card_named(EMBEDDINGS)


def export_depth(target: Path, variant: Variant) -> None:
    """Export depth with random weights into `target`: the true architecture, and speed does not depend on them."""
    _export(depth_card(), "random", target, variant)
    add_measured_depth(target, variant.precision)
    _place(target, variant)


def add_measured_depth(target: Path, precision: Precision) -> None:
    """Lay out `MEASURED_DEPTH` in a repository with depth of that precision in it."""
    _add(MEASURED_DEPTH, target, depth_card(), DEPTH, ("png8",), precision)


def copy_depth(source: Path, target: Path) -> None:
    """Copy depth alone out of a repository; the manifests of its networks name nothing else then."""
    networks = depth_card().serves[DEPTH]
    without = shutil.ignore_patterns(MANIFEST_FILE)
    for name in (DEPTH, *networks):
        shutil.copytree(source / name, target / name, ignore=without, copy_function=os.link)
    for name in networks:
        found = manifest.read(source / name / "1")
        assert found is not None, f"{name} was exported"
        replace(found, serves={DEPTH: found.serves[DEPTH]}).write(target / name / "1")


def export_embeddings(target: Path, variant: Variant) -> None:
    """Export embeddings of photos and texts with random weights into `target`."""
    _export(embedding_card(), "random", target, variant)
    _place(target, variant)


def export_faces(pack: Path, target: Path, variant: Variant) -> None:
    """Export the pack that `write_pack` wrote, if it can be had in this precision."""
    card = card_named(str(pack))
    if variant.precision not in card.tolerances:
        return
    _export(card, str(pack), target, variant)
    _add(MEASURED_FACES, target, card, FACES, EVERYTHING, variant.precision)
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


@dataclass(frozen=True)
class Setting:
    """How a network is run.

    Attributes:
        instances: how many processes or sessions there are.
        threads: of each.
        batch: the size that batches are made up to; 1 for none.
        delay_us: how long a request waits for others to join it.
    """

    instances: int
    threads: int
    batch: int
    delay_us: int

    def __str__(self) -> str:
        batches = f"batches of {self.batch}" if self.batch > 1 else "no batches"
        waiting = f"{self.delay_us} µs of waiting for them" if self.delay_us else "no waiting"
        return f"{self.instances} × {self.threads} threads, {batches}, {waiting}"


def overridden(source: Path, target: Path, network: str, setting: Setting) -> None:
    """Copy a repository, with one network of it run by another setting."""
    shutil.copytree(source, target)
    path = target / network / EXPORTED_CONFIG
    config = read_config(path)
    config.instance_group[0].count = setting.instances
    config.parameters[_THREADS[config.backend]].string_value = str(setting.threads)
    if config.max_batch_size > 1:
        config.dynamic_batching.preferred_batch_size[:] = [setting.batch]
        config.dynamic_batching.max_queue_delay_microseconds = setting.delay_us
    texts.write_config(config, path)


def _export(card: ModelCard, weights: str, target: Path, variant: Variant) -> None:
    with Display(Console(highlight=False, soft_wrap=True), f"{variant.name}, {card.name}") as display:
        job = Job(
            card,
            locate(card, weights),
            target,
            variant.precision,
            accepts_license=True,
            engines=Engines(EngineOptions(), phases=display) if variant.provider == "tensorrt" else None,
            report=display.say,
        )
        pipeline.export(job)


def _place(target: Path, variant: Variant) -> None:
    """Have ONNX Runtime on the CPU or on the GPU, as the variant says: left to itself, it takes a GPU if there is one.

    Engines and OpenVINO have their place already.
    """
    for path in target.glob(f"*/{EXPORTED_CONFIG}"):
        config = read_config(path)
        if config.backend == "onnxruntime":
            (group,) = config.instance_group
            group.kind = group.KIND_CPU if variant.provider == "cpu" else group.KIND_GPU
            texts.write_config(config, path)


def _add(name: str, target: Path, card: ModelCard, public: str, outputs: tuple[str, ...], precision: Precision) -> None:
    """Lay out `public` once more as `name`, with these outputs and no options, and have the manifests say so."""
    whole = next(pipeline for pipeline in card.pipelines if pipeline.name == public)
    part = replace(
        whole,
        name=name,
        inputs=tuple(tensor for tensor in whole.inputs if not tensor.optional),
        outputs=tuple(tensor for tensor in whole.outputs if tensor.name in outputs),
    )
    more = replace(card, pipelines=(*card.pipelines, part))
    names = [network.name for network in card.networks]
    with_engine = frozenset(name for name in names if (target / name / "1" / ENGINE_FILE).is_file())
    for network in names:
        folder = target / network / "1"
        found = manifest.read(folder)
        assert found is not None, f"{network} was exported a moment ago"
        origin = found.weights["origin"]
        exported = configs.exported_configs(more, precision, origin, with_engine, on_gpu=bool(machine.gpus()))
        texts.write_texts(target, more, exported)
        found.serves[name] = names
        found.write(folder)
