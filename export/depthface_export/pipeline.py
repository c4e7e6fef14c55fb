"""The stages of an export, in order, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from depthface import manifest
from depthface.families import module_of
from depthface.spec import ModelCard, Network, Precision, Source
from depthface_export import repository
from depthface_export import weights as weights_stage

__all__ = ["Outcome", "Report", "export"]

Outcome = Literal["exported", "unchanged"]
Report = Callable[[str], None]


def export(
    card: ModelCard,
    *,
    weights: str,
    precision: Precision,
    target: Path,
    accept_license: bool,
    report: Report,
) -> Outcome:
    """weights → network → ONNX → validated → model repository.

    Args:
        weights: `hub`, `random`, or the path of a folder.
        target: the model repository. Until the last stage it is as it was.
        report: is told of each stage as it begins, and of each check as it passes.

    Raises:
        ExportError: and nothing has changed.
    """
    weights_stage.check_license(card, weights, accept_license)
    found = weights_stage.locate(card, weights)
    exporters = manifest.exporter_versions(_code(card))
    with repository.staging(target) as build:
        if all(_is_current(target / network.name / "1", found, precision, exporters) for network in card.networks):
            repository.write_texts(target, card)
            return "unchanged"

        report(f"weights: {found.origin}")
        fetched = weights_stage.fetch(card, found)

        report("network: load")
        sources = module_of(card, "network").load(card, fetched.source, precision)

        for network in card.networks:
            _build(card, network, sources[network.name], fetched, precision, exporters, build, report)

        report("repository: install")
        repository.write_texts(target, card)
        for network in card.networks:
            repository.install(build / network.name, target / network.name)
        for step in card.steps:
            if step.is_pipeline:
                config = repository.python_config(step, weights=fetched.origin, precision=precision)
                repository.write_config(config, target / step.name / repository.EXPORTED_CONFIG)
    return "exported"


def _build(
    card: ModelCard,
    network: Network,
    source: Source,
    weights: weights_stage.Weights,
    precision: Precision,
    exporters: dict[str, str],
    build: Path,
    report: Report,
) -> None:
    """Make the folder of one network in `build`: its file, proven; its configs; its manifest last."""
    # Imported here: torch and ONNX Runtime take seconds, and an unchanged export needs neither.
    from depthface_export import onnx, validate

    report(f"onnx: {network.name}, {precision}")
    folder = build / network.name
    model = folder / "1" / "model.onnx"
    model.parent.mkdir(parents=True)
    onnx.onnx_from_source(source, network, model)

    report("validate: ONNX Runtime against the reference, on photographs")
    checks: list[dict[str, object]] = []
    for case in validate.validate(card, network, precision, source, model):
        report(f"  {case[0].case}: " + ", ".join(str(check) for check in case))
        checks += [asdict(check) for check in case]

    repository.write_config(repository.network_config(network), folder / "config.pbtxt")
    exported = repository.network_config(network, weights=weights.origin, precision=precision)
    repository.write_config(exported, folder / repository.EXPORTED_CONFIG)
    manifest.Manifest(
        serves={public: list(needed) for public, needed in card.serves.items() if network.name in needed},
        weights={"origin": weights.origin, "sha256": weights.sha256},
        license=None if weights.is_stand_in else asdict(card.license),
        precision=precision,
        onnx={"sha256": manifest.sha256_of(model), **onnx.versions(model)},
        tensors={
            "inputs": [asdict(tensor) for tensor in network.inputs],
            "outputs": [asdict(tensor) for tensor in network.outputs],
        },
        exporters=exporters,
        checks=checks,
    ).write(model.parent)


def _code(card: ModelCard) -> list[Path]:
    """The files whose change makes an export stale."""
    here = Path(__file__).parent
    family = Path(module_of(card, "card").__file__ or "").parent
    return [here / "onnx.py", *sorted(family.glob("*.py"))]


def _is_current(folder: Path, weights: weights_stage.Weights, precision: Precision, exporters: dict[str, str]) -> bool:
    """True if `folder` holds what this export would make: same weights, precision and code, file intact."""
    found = manifest.read(folder)
    return (
        found is not None
        and found.weights["origin"] == weights.origin
        and (weights.sha256 in ({}, found.weights["sha256"]))
        and found.precision == precision
        and found.exporters == exporters
        and found.describes(folder)
    )
