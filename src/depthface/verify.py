"""Whether a repository is as it was exported, for this depthface, and its engines belong to this machine."""

from __future__ import annotations

import os
import shlex
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depthface import config, machine, manifest
from depthface.contract import (
    ENSEMBLE,
    EXPORTED_CONFIG,
    MANIFEST_FILE,
    ONNX_FILE,
    UNKNOWN_WEIGHTS,
    Parameters,
)
from depthface.cores import Cores
from depthface.errors import ConfigError, MismatchError
from depthface.families import all_cards
from depthface.machine import Machine
from depthface.processor import has_vnni
from depthface.weights import warning_of

__all__ = ["Verdict", "int8_problems", "refuse_mismatches", "verdicts"]

AMPERE = (8, 0)
"""The compute capability that `ampere_plus` engines need at least (NvInfer.h, HardwareCompatibilityLevel)."""


@dataclass(frozen=True)
class Verdict:
    """What was found of one network.

    Attributes:
        found: what it is, in a few words.
        problems: why it must not be served; empty if it may.
        command: what makes it anew.
    """

    network: str
    found: str
    problems: tuple[str, ...]
    command: str

    def __str__(self) -> str:
        if not self.problems:
            return f"{self.network}: {self.found}"
        return f"{self.network}: {'; '.join(self.problems)}. Make it anew on this machine:\n  {self.command}"


def verdicts(repository: Path) -> list[Verdict]:
    """Hold every exported network against its manifest, and engines and int8 against this machine.

    A public model that another depthface laid out, so that this one cannot serve it, is a problem of its networks.
    TensorRT and the GPU are asked for only if there is an engine.
    """
    read = {folder: manifest.read(folder) for folder in manifest.folders(repository)}
    has_engine = any(found is not None and found.engine is not None for found in read.values())
    here = machine.read() if has_engine else Machine(None, ())
    with ThreadPoolExecutor(Cores.found().count) as pool:  # a gigabyte is hashed in a second of one core
        return list(pool.map(lambda folder: _verdict(folder, read[folder], here, repository), read))


def refuse_mismatches(found: list[Verdict]) -> None:
    """Raise `MismatchError` with every network that must not be served, and the commands that make them anew."""
    wrong = [str(verdict) for verdict in found if verdict.problems]
    if wrong:
        raise MismatchError("\n".join(wrong))


def engine_problems(engine: dict[str, Any], here: Machine) -> list[str]:
    """Why the engine that a manifest's `engine` describes cannot run on a machine; empty if it can.

    An engine runs under the very TensorRT that built it, or, built version-compatible, a later one: of the same major
    version, or the next (docs.nvidia.com/deeplearning/tensorrt, Engine Compatibility). It runs on the kind of GPU that
    built it, unless built hardware-compatible. Its kernels were chosen and compiled under one branch of the driver.
    """
    options = engine["options"]
    problems = []
    if here.tensorrt is None:
        problems.append(f"its engine needs TensorRT {engine['tensorrt']}, and there is none here")
    elif not _runs_under(engine["tensorrt"], here.tensorrt, options["version_compatible"]):
        problems.append(f"its engine was built by TensorRT {engine['tensorrt']}, and here is {here.tensorrt}")
    if not here.gpus:
        problems.append(f"its engine needs an {engine['gpu']}, and there is no NVIDIA GPU here")
    for gpu in here.gpus:  # Triton starts it on each of them
        same = gpu.name == engine["gpu"]
        fits = {
            "none": same and gpu.compute_capability == engine["compute_capability"],
            "same_compute_capability": gpu.compute_capability == engine["compute_capability"],
            "ampere_plus": _numbers(gpu.compute_capability) >= AMPERE,
        }[options["hardware_compatible"]]
        if not fits:
            problems.append(
                f"its engine was built for {engine['gpu']} (compute capability {engine['compute_capability']}), and "
                f"here is {gpu.name} ({gpu.compute_capability})"
            )
        if _numbers(gpu.driver)[:1] != _numbers(engine["driver"])[:1]:
            problems.append(f"its engine was built under driver {engine['driver']}, and here is {gpu.driver}")
    return list(dict.fromkeys(problems))


def int8_problems(found: manifest.Manifest) -> list[str]:
    """Why a manifest proves nothing of int8 on this processor; empty if it does, or is of another precision."""
    if found.precision != "int8" or has_vnni() or not found.onnx.get("with_vnni", True):
        return []
    return ["its int8 was proven on a processor with VNNI; this one has none, and computes it less exactly"]


def _verdict(folder: Path, found: manifest.Manifest | None, here: Machine, repository: Path) -> Verdict:
    network = folder.parent.name
    if found is None:
        by_whom = "" if os.access(folder / MANIFEST_FILE, os.R_OK, effective_ids=True) else " by this user"
        return Verdict(
            network, "", (f"{MANIFEST_FILE} cannot be read{by_whom}",), _command(_guess(folder.parent), repository)
        )
    command = _command(found.command or _guess(folder.parent), repository)
    problems = found.differences(folder) + int8_problems(found)
    problems += [f"{public} {misfit}" for public in found.serves if (misfit := config.misfit_of(repository / public))]
    what = f"{ONNX_FILE} as exported, {found.precision}"
    if found.engine is not None:
        problems += engine_problems(found.engine, here)
        what += f"; engine of TensorRT {found.engine['tensorrt']} for {found.engine['gpu']}, which is here"
    return Verdict(network, what, tuple(problems), command)


def _command(words: list[str], repository: Path) -> str:
    return shlex.join([*words, "--repository", str(repository)])


def _guess(network: Path) -> list[str]:
    """Return what was typed to export a network whose manifest does not say so, as far as its card and config tell."""
    card = next((card for card in all_cards().values() if network.name in {each.name for each in card.networks}), None)
    if card is None:
        return ["depthface", "export", "FOLDER"]  # of the pack
    try:
        known = config.parameters_of(config.read(network / EXPORTED_CONFIG))
    except ConfigError:
        known = Parameters()
    if warning_of(known.weights):
        weights = known.weights.partition(",")[0]
    else:
        weights = "hub" if known.weights in (card.weights.origin, UNKNOWN_WEIGHTS) else "FOLDER"
    precision = ["--precision", known.precision] if known.precision else []
    forms = {config.form_in(network.parent / public) for public in card.serves}
    form = ["--form", ENSEMBLE] if ENSEMBLE in forms else []
    return ["depthface", "export", card.name, "--weights", weights, *precision, *form]


def _runs_under(built: str, here: str, is_version_compatible: bool) -> bool:
    if not is_version_compatible:
        return built == here
    return _numbers(built) <= _numbers(here) and _numbers(here)[0] - _numbers(built)[0] <= 1


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
