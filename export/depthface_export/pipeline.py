"""The stages of an export, in order, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from depthface import manifest
from depthface.families import module_of
from depthface.spec import ModelCard, Precision
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
        if _is_current(target / card.network.name / "1", found, precision, exporters):
            repository.write_texts(target, card)
            return "unchanged"

        report(f"weights: {found.origin}")
        fetched = weights_stage.fetch(card, found)

        report("network: load in torch")
        source = module_of(card, "network").load(card, fetched.source, precision)

        # Imported here: torch and ONNX Runtime take seconds, and an unchanged export needs neither.
        from depthface_export import onnx, validate

        report(f"onnx: opset {onnx.OPSET}, {precision}")
        network_folder = build / card.network.name
        version_folder = network_folder / "1"
        version_folder.mkdir(parents=True)
        model = version_folder / "model.onnx"
        onnx.onnx_from_torch(source.module, source.example, source.dynamic_shapes, card.network, model)

        report("validate: ONNX Runtime against torch, on photographs")
        checks: list[dict[str, object]] = []
        for case in validate.validate(card, precision, source.reference, model):
            report(f"  {case[0].case}: " + ", ".join(str(check) for check in case))
            checks += [asdict(check) for check in case]

        report("repository: install")
        config = repository.network_config(card.network, weights=fetched.origin, precision=precision)
        repository.write_config(config, network_folder / repository.EXPORTED_CONFIG)
        repository.write_config(repository.network_config(card.network), network_folder / "config.pbtxt")
        manifest.Manifest(
            serves=card.ensemble.name,
            weights={"origin": fetched.origin, "sha256": fetched.sha256},
            license=None if weights == "random" else asdict(card.license),
            precision=precision,
            onnx={"sha256": manifest.sha256_of(model), "opset": onnx.OPSET, "ir_version": onnx.IR_VERSION},
            tensors={
                "inputs": [asdict(tensor) for tensor in card.network.inputs],
                "outputs": [asdict(tensor) for tensor in card.network.outputs],
            },
            exporters=exporters,
            checks=checks,
        ).write(version_folder)
        repository.write_texts(target, card)
        repository.install(network_folder, target / card.network.name)
    return "exported"


def _code(card: ModelCard) -> list[Path]:
    """The files whose change makes an export stale."""
    here = Path(__file__).parent
    family = Path(module_of(card, "card").__file__ or "").parent
    return [here / "onnx.py", family / "card.py", family / "network.py", family / "parity.py"]


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
