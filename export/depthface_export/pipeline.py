"""The stages of an export, in order, and nothing else."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from depthface import machine, manifest
from depthface.contract import EXPORTED_CONFIG, ONNX_FILE, Precision
from depthface.errors import ExportError, ParityError
from depthface.families import all_cards, module_of
from depthface.spec import EngineOptions, ModelCard, Network, Source
from depthface_export import repository
from depthface_export import weights as weights_stage

if TYPE_CHECKING:
    from depthface_export.tensorrt import Phases

__all__ = ["Engines", "Outcome", "Report", "command", "export"]

Outcome = Literal["exported", "unchanged"]
Report = Callable[[str], None]


@dataclass(frozen=True)
class Engines:
    """Which TensorRT engines an export builds: all that there can be, but for the networks `without`."""

    options: EngineOptions
    phases: Phases
    without: frozenset[str] = frozenset()

    def options_of(self, network: Network) -> EngineOptions | None:
        """How the network's engine is built; None if it gets none."""
        return self.options if network.profiles and network.name not in self.without else None


def export(
    card: ModelCard,
    *,
    weights: str,
    precision: Precision,
    target: Path,
    accept_license: bool,
    report: Report,
    engines: Engines | None = None,
) -> Outcome:
    """weights → network → ONNX → validated → engine, if wanted → model repository.

    Args:
        weights: `hub`, `random`, or the path of a folder.
        target: the model repository. Until the last stage it is as it was.
        report: is told of each stage as it begins, and of each check as it passes.
        engines: which to build; None for none.

    Raises:
        ExportError: and nothing has changed.
    """
    weights_stage.check_license(card, weights, accept_license)
    found = weights_stage.locate(card, weights)
    exporters = manifest.exporter_versions(_code(card))
    if engines is not None:
        _check_engines(card, precision, engines)
    typed = command(card, weights, precision, accept_license, engines)
    with repository.staging(target) as build:
        precisions: dict[str, Precision] = {
            network.name: "fp32" if network.only_fp32 else precision for network in card.networks
        }
        options = {network.name: engines.options_of(network) if engines else None for network in card.networks}
        with_engine = frozenset(name for name, option in options.items() if option is not None)
        configs = repository.exported_configs(card, precision, found.origin, with_engine, on_gpu=bool(machine.gpus()))
        outcome: Outcome = "unchanged"
        if not all(
            _is_current(target / name / "1", found, own, exporters)
            and _has_current_engine(target / name / "1", options[name])
            for name, own in precisions.items()
        ):
            outcome = "exported"
            report(f"weights: {found.origin}")
            fetched = weights_stage.fetch(card, found)

            report("network: load")
            with _undisturbed():
                maker = module_of(card, "network")
            sources = maker.load(card, fetched.source, precision)

            for network in card.networks:
                own = precisions[network.name]
                _build(card, network, sources[network.name], fetched, own, exporters, typed, engines, build, report)

        for network in card.networks:
            made = manifest.read((build if outcome == "exported" else target) / network.name / "1")
            if made is not None and made.openvino_checks is None:
                repository.leave_to_onnxruntime(configs[network.name])
        if outcome == "exported":
            for name in precisions:
                repository.write_config(configs[name], build / name / EXPORTED_CONFIG)
            report("repository: install")
        with _undisturbed():
            for network in card.networks if outcome == "exported" else ():
                repository.install(build / network.name, target / network.name)
            # Also where nothing is new: an export that was killed may have got no further than the networks.
            repository.write_texts(target, card, configs)
    return outcome


def _build(
    card: ModelCard,
    network: Network,
    source: Source,
    weights: weights_stage.Weights,
    precision: Precision,
    exporters: dict[str, str],
    typed: list[str],
    engines: Engines | None,
    build: Path,
    report: Report,
) -> None:
    """Make the folder of one network in `build`: its files, proven; its configs; its manifest last."""
    # Imported here: torch and ONNX Runtime take seconds, and an unchanged export needs neither.
    with _undisturbed():
        from depthface_export import engine as engine_stage
        from depthface_export import onnx, validate

    report(f"onnx: {network.name}, {precision}")
    folder = build / network.name
    model = folder / "1" / ONNX_FILE
    model.parent.mkdir(parents=True)
    onnx.onnx_from_source(source, network, model)

    in_fp32: list[str] = []
    if precision == "int8":
        from depthface_export import int8

        checks, in_fp32 = int8.int8_from_export(card, network, source, model.parent, report)
    else:
        report("validate: what will serve it against the reference, on photographs")
        cases = validate.validate(card, network, precision, source, validate.runner(model, precision))
        checks = validate.checked(cases, report)

    openvino_checks = None
    if network.by_openvino and precision in repository.BY_OPENVINO:
        openvino_checks = _checks_by_openvino(card, network, precision, source, model, report)

    engine: dict[str, Any] | None = None
    if engines is not None and (options := engines.options_of(network)) is not None:
        engine = engine_stage.engine_from_export(
            card, network, precision, source, model.parent, options, report, engines.phases
        )

    repository.write_config(repository.network_config(network), folder / "config.pbtxt")
    manifest.Manifest(
        serves={public: list(needed) for public, needed in card.serves.items() if network.name in needed},
        weights={"origin": weights.origin, "sha256": weights.sha256},
        license=None if weights.is_stand_in else asdict(card.license),
        precision=precision,
        onnx={"sha256": manifest.sha256_of(model), **onnx.versions(model)} | ({"in_fp32": in_fp32} if in_fp32 else {}),
        tensors={
            "inputs": [asdict(tensor) for tensor in network.inputs],
            "outputs": [asdict(tensor) for tensor in network.outputs],
        },
        exporters=exporters,
        checks=[asdict(check) for check in checks],
        command=typed,
        openvino_checks=openvino_checks,
        engine=engine,
    ).write(model.parent)


def _checks_by_openvino(
    card: ModelCard, network: Network, precision: Precision, source: Source, model: Path, report: Report
) -> list[dict[str, Any]] | None:
    """Of the file that is proven already; None where OpenVINO does not hold the tolerances."""
    from depthface_export import validate

    report("validate: by OpenVINO, which serves it on a CPU, against the reference")
    run = validate.runner(model, precision, by_openvino=True)
    try:
        cases = validate.validate(card, network, precision, source, run)
        return [asdict(check) for check in validate.checked(cases, report)]
    except ParityError:
        report("  not by OpenVINO: ONNX Runtime will serve it")
        return None


def command(
    card: ModelCard, weights: str, precision: Precision, accept_license: bool, engines: Engines | None
) -> list[str]:
    """What is typed to make this export, but for the repository."""
    if card.name in all_cards():
        is_path = weights not in ("hub", *card.stand_ins)
        words = [card.name, "--weights", str(Path(weights).expanduser().resolve()) if is_path else weights]
    else:  # a folder is its own weights
        words = [str(Path(weights).expanduser().resolve())]
    words += ["--precision", precision]
    if accept_license:
        words.append("--accept-license")
    if engines is not None:
        words.append("--engine")
        for name in sorted(engines.without):
            words += ["--without-engine", name]
        for option in fields(engines.options):
            value = getattr(engines.options, option.name)
            if value != option.default:
                words += [f"--{option.name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return ["depthface", "export", *words]


def _check_engines(card: ModelCard, precision: Precision, engines: Engines) -> None:
    """Before anything is done: that engines can be built here, of this precision, and that `without` names networks."""
    from depthface_export import tensorrt

    if precision not in ("fp32", "fp16"):
        raise ExportError(f"{precision} is for processors. Build engines in fp32 or fp16.")
    unknown = engines.without - {network.name for network in card.networks}
    if unknown:
        raise ExportError(
            f"{card.name} has no network {', '.join(sorted(unknown))}. Its networks: "
            f"{', '.join(network.name for network in card.networks)}."
        )
    tensorrt.require()


def _has_current_engine(folder: Path, options: EngineOptions | None) -> bool:
    found = manifest.read(folder)
    if found is None or found.engine is None or options is None:
        return found is not None and found.engine is None and options is None
    from depthface_export import engine as engine_stage

    return engine_stage.is_current(found.engine, options)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let SIGINT and SIGTERM wait for the end of the block: inside of the import of a C++ library an interrupt aborts
    the process, and between two renames it would leave networks of two exports side by side."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    handlers = {number: signal.signal(number, lambda number, _: waiting.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for came in waiting:
        signal.raise_signal(came)


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
