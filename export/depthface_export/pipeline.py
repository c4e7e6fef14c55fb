"""The stages of an export, in order, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from tritonclient.grpc import model_config_pb2 as pb

import depthface_standins
from depthface import machine, manifest
from depthface.contract import CONFIG_FILE, EXPORTED_CONFIG, GPU_PRECISIONS, MANIFEST_FILE, MODEL_VERSION
from depthface.errors import ExportError, ParityError
from depthface.families import module_of
from depthface.processor import has_vnni
from depthface.spec import EngineOptions, Network, Source
from depthface.verify import int8_problems
from depthface.weights import Folder, Random, Synthetic
from depthface_export import configs, fingerprint, forms, layout, quickest, staging, texts
from depthface_export import weights as weights_stage
from depthface_export.interrupts import hold_signals
from depthface_export.job import Job, NetworkJob
from depthface_export.recall import recalling

__all__ = ["Outcome", "export"]

Outcome = Literal["exported", "unchanged"]

_NOT_YET = "not exported yet"


def export(job: Job) -> Outcome:
    """Weights → network → ONNX → validated → engine, if wanted → model repository.

    Until the last stage the repository is as it was.

    Raises:
        ExportError: and nothing has changed.
    """
    weights_stage.check_license(job.card, job.weights, job.accepts_license)
    _check_wishes(job)
    for name in forms.staying(job.card, job.form):
        job.report(f"{name}: stays a pipeline, its steps depend on what is found in the photo")
    with staging.stage(job.target, job.report) as build:
        job, is_made = _in_its_precision(job, build)
        changes, other_form = _changes(job), layout.changes(job) + layout.misfits(job)
        if is_made and not changes:
            changes = [f"{job.card.name}: its precision is chosen now"]
        if not all(change.endswith(_NOT_YET) for change in changes + other_form):
            for change in changes + other_form:
                job.report(f"anew: {change}")
        if changes and not is_made:
            _make(job, build)
        made_in = build if changes else job.target
        exported = configs.exported_configs(
            job.card, job.precision, job.weights.origin, job.with_engine, on_gpu=bool(machine.gpus()), form=job.form
        )
        for network in job.card.networks:
            made = manifest.read(made_in / network.name / MODEL_VERSION)
            assert made is not None, "it was made a moment ago, or held against its files"
            if made.openvino_checks is None:
                configs.leave_to_onnxruntime(exported[network.name])
            for pipeline in job.card.pipelines:
                if network.name in pipeline.parameters.networks.values():
                    configs.add_facts(exported[pipeline.name], made.facts)
        _install(job, build, exported, job.card.networks if changes else ())
        if other_form and not changes:
            _note_command(job)
    return "exported" if changes or other_form else "unchanged"


def _in_its_precision(job: Job, build: Path) -> tuple[Job, bool]:
    """Return the job in the quickest of its `precisions`, and True if its networks had to be made in `build` for that.

    If what was chosen before still stands, nothing is made.
    """
    if not job.precisions:
        return job, False
    settled = quickest.settled(job)
    if settled is not None and not _changes(settled):
        return settled, False
    return quickest.choose(job, build, _make), True


def _check_wishes(job: Job) -> None:
    """Before anything is done: that this can be had in the precision, and with the engines, that are wished for."""
    if not {*(job.precisions or (job.precision,))} <= job.card.tolerances.keys():
        possible = " or ".join(job.card.tolerances)
        raise ExportError(
            f"{job.card.title} is exported in {possible}, not in {job.precision}.", "Choose another --precision."
        )
    forms.check(job.card, job.form)
    if job.engines is None:
        return
    from depthface_export import tensorrt

    if not {*(job.precisions or (job.precision,))} <= {*GPU_PRECISIONS}:
        raise ExportError(f"{job.precision} is for processors.", f"Build engines in {' or '.join(GPU_PRECISIONS)}.")
    names = [network.name for network in job.card.networks]
    unknown = job.engines.without - set(names)
    if unknown:
        raise ExportError(
            f"{job.card.name} has no network {', '.join(sorted(unknown))}.", f"Its networks: {', '.join(names)}."
        )
    tensorrt.require()


def _changes(job: Job) -> list[str]:
    """Why the repository does not hold what this export would make, each in a few words; empty if it does."""
    return [change for network in job.card.networks for change in _changes_of(job, network)]


def _changes_of(job: Job, network: Network) -> list[str]:
    folder = job.target / network.name / MODEL_VERSION
    found = manifest.read(folder)
    if found is None:
        return [f"{network.name}: {_NOT_YET}"]
    now = fingerprint.fingerprint(job, network)
    changed = sorted(
        stage for stage in now.keys() | found.fingerprint.keys() if now.get(stage) != found.fingerprint.get(stage)
    )
    reasons = [
        ("other weights", found.weights["origin"] != job.weights.origin or not _may_be(found.weights["sha256"], job)),
        (f"in {found.precision} before", found.precision != job.precision_of(network)),
        (f"made otherwise now: {', '.join(changed)}", bool(changed)),
        ("another engine", not _has_current_engine(found, job.engine_of(network))),
    ]
    changes = [what for what, is_so in reasons if is_so] or found.differences(folder) or int8_problems(found)
    return [f"{network.name}: {what}" for what in changes]


def _may_be(sha256: Mapping[str, str], job: Job) -> bool:
    """Return True unless these are known to be other files than the job's. Of published ones the origin says enough."""
    return not isinstance(job.weights, Folder) or dict(job.weights.sha256) == dict(sha256)


def _has_current_engine(found: manifest.Manifest, options: EngineOptions | None) -> bool:
    if found.engine is None or options is None:
        return found.engine is None and options is None
    from depthface_export import engine as engine_stage

    return engine_stage.is_current(found.engine, options)


def _make(job: Job, build: Path) -> dict[str, NetworkJob]:
    """Make the folder of every network in `build`; return how each was made."""
    job.report(f"weights: {job.weights.origin}")
    fetched = weights_stage.fetch(job.card, job.weights)
    job.report("network: load")
    sources = _sources(job, fetched)
    made = {}
    for network in job.card.networks:
        folder = build / network.name / MODEL_VERSION
        folder.mkdir(parents=True)
        made[network.name] = NetworkJob(job, network, sources[network.name], folder)
        _make_network(made[network.name], fetched)
    return made


def _sources(job: Job, weights: Folder | Random | Synthetic) -> dict[str, Source]:
    with hold_signals():  # their imports: torch, ONNX Runtime
        maker = module_of(job.card, "network")
        stand_ins = depthface_standins.module_of(job.card)
    found: dict[str, Source] = (
        maker.load(job.card, weights.path, job.precision)
        if isinstance(weights, Folder)
        else stand_ins.load(job.card, weights, job.precision)
    )
    return {name: replace(source, reference=recalling(source.reference)) for name, source in found.items()}


def _make_network(making: NetworkJob, weights: Folder | Random | Synthetic) -> None:
    """Make the folder of one network: its files, proven; its config; its manifest last."""
    # Imported here: torch and ONNX Runtime take seconds, and an unchanged export needs neither.
    with hold_signals():
        from depthface_export import attention, onnx, validate
        from depthface_export import engine as engine_stage

    network, report = making.network, making.report
    report(f"onnx: {network.name}, {making.precision}")
    onnx.onnx_from_source(making.source, network, making.model)
    if making.job.fuses_attention(network):
        attention.fuse(making.model)
    for name, data in making.source.files.items():
        (making.folder / name).write_bytes(data)
    of_int8: dict[str, Any] = {}
    if making.precision == "int8":
        from depthface_export import int8

        checks, in_fp32 = int8.int8_from_export(making)
        of_int8 = {"with_vnni": has_vnni()} | ({"in_fp32": in_fp32} if in_fp32 else {})
    else:
        checks = validate.prove_as_served(making)
    openvino_checks = _checks_by_openvino(making)
    options = making.job.engine_of(network)
    engine = None
    if options is not None:
        engine, of_rewritten = engine_stage.engine_from_export(making, options)
        checks = of_rewritten or checks

    texts.write_config(configs.network_config(network), making.folder.parent / CONFIG_FILE)
    manifest.Manifest(
        serves={public: list(needed) for public, needed in making.card.serves.items() if network.name in needed},
        weights={"origin": weights.origin, "sha256": dict(weights.sha256) if isinstance(weights, Folder) else {}},
        license=asdict(making.card.license) if isinstance(weights, Folder) else None,
        precision=making.precision,
        onnx={
            "sha256": manifest.sha256_of(making.model),
            **onnx.versions(making.model),
            **of_int8,
        },
        tensors={
            "inputs": [asdict(tensor) for tensor in network.inputs],
            "outputs": [asdict(tensor) for tensor in network.outputs],
        },
        exporters=fingerprint.versions(making.job, network),
        fingerprint=fingerprint.fingerprint(making.job, network),
        checks=[asdict(check) for check in checks],
        command=making.job.command,
        openvino_checks=openvino_checks,
        engine=engine,
        files={name: manifest.sha256_of(making.folder / name) for name in making.source.files},
        facts=dict(making.source.facts),
    ).write(making.folder)


def _checks_by_openvino(making: NetworkJob) -> list[dict[str, Any]] | None:
    """Return the checks of the proven file by OpenVINO; None where that does not serve it, or does not hold."""
    if not making.network.by_openvino or making.precision not in configs.BY_OPENVINO:
        return None
    from depthface_export import validate

    making.report("validate: by OpenVINO, which serves it on a CPU, against the reference")
    try:
        checks = validate.prove(making, validate.runner(making.model, making.precision, by_openvino=True))
        return [asdict(check) for check in checks]
    except ParityError:
        making.report("  not by OpenVINO: ONNX Runtime will serve it")
        return None


def _install(job: Job, build: Path, exported: Mapping[str, pb.ModelConfig], networks: tuple[Network, ...]) -> None:
    """Put the networks that were made in `build` into their place, and write the texts round them.

    Those are mended also where nothing was made: an export that was killed may have got no further than the networks.
    """
    for network in networks:
        texts.write_config(exported[network.name], build / network.name / EXPORTED_CONFIG)
    if networks:
        job.report("repository: install")
    with hold_signals():
        staging.install_all([(build / network.name, job.target / network.name) for network in networks])
        layout.install(job, build / "public", exported)


def _note_command(job: Job) -> None:
    """Have the manifests of networks that stay as they were say what is typed to have this form."""
    for network in job.card.networks:
        folder = job.target / network.name / MODEL_VERSION
        found = manifest.read(folder)
        assert found is not None, "it has just been held against its files"
        staging.write_whole(folder / MANIFEST_FILE, replace(found, command=job.command).text())
