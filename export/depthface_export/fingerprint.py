"""What an artefact depends on, stage by stage: the code, the packages and the facts that have a hand in it.

Each stage of an export names its own modules and packages below. What is compared is a hash of their code without
comments and docstrings, so that only a change of what is computed makes an artefact stale. Nothing is imported for it:
an export that finds nothing to do takes no second.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable
from dataclasses import replace
from importlib.machinery import PathFinder
from pathlib import Path

from depthface.families import module_of
from depthface.machine import installed
from depthface.spec import Makers, Network
from depthface.weights import Random, Synthetic
from depthface_export.job import Job

__all__ = ["code_of", "fingerprint", "makers", "versions"]

ONNX = Makers(modules=("depthface_export.onnx",), packages=("onnx",))
ATTENTION = Makers(modules=("depthface_export.attention",), packages=("onnx",))
INT8 = Makers(
    modules=("depthface_export.int8", "depthface_export.validate", "depthface.image", "depthface.picture"),
    packages=("onnxruntime", "scikit-image"),  # its photographs are what it is calibrated on
)
PROOF = Makers(modules=("depthface_export.validate",), packages=("onnxruntime",))
OPENVINO = Makers(modules=("depthface.openvino",), packages=("openvino",))
ENGINE = Makers(
    modules=("depthface_export.engine", "depthface_export.tensorrt", "depthface_export.precision"),
    packages=("polygraphy",),  # of TensorRT itself the manifest tells more
)
STANDINS = "depthface_standins"


def makers(job: Job, network: Network) -> dict[str, Makers]:
    """Return what has a hand in a network's artefact, by stage."""
    family = module_of(job.card, "card").MAKERS
    parity = f"{module_of(job.card, 'card').__package__}.parity"
    stages = {"network": family, "onnx": ONNX, "proof": replace(PROOF, modules=(*PROOF.modules, parity))}
    if isinstance(job.weights, Random | Synthetic):
        stages["stand-ins"] = Makers((f"{STANDINS}.seeding", *_modules_below(f"{STANDINS}.{job.card.family}")), ())
    if job.fuses_attention(network):
        stages["attention"] = ATTENTION
    if job.precision_of(network) == "int8":
        stages["int8"] = replace(INT8, modules=(*INT8.modules, parity))
    if job.precision_of(network) == "bf16" or network.by_openvino:
        stages["openvino"] = OPENVINO
    if job.engine_of(network) is not None:
        stages["engine"] = ENGINE
    return stages


def fingerprint(job: Job, network: Network) -> dict[str, str]:
    """Return a hash for each stage that has a hand in a network's artefact, and one for the card's facts."""
    known = network if job.engine_of(network) is not None else replace(network, profiles=())
    tolerances = job.card.tolerances[job.precision_of(network)]
    serves = {public: needed for public, needed in job.card.serves.items() if network.name in needed}
    facts = repr((known, sorted(tolerances.items()), dict(job.card.architecture), serves))
    return {"facts": _hash([facts])} | {
        stage: _hash([*map(code_of, made_by.modules), *(f"{name} {_version(name)}" for name in made_by.packages)])
        for stage, made_by in makers(job, network).items()
    }


def versions(job: Job, network: Network) -> dict[str, str]:
    """Return the versions of the packages that have a hand in a network's artefact, and depthface's own."""
    names = {name for made_by in makers(job, network).values() for name in made_by.packages}
    return {name: _version(name) for name in ("depthface", *sorted(names))}


def code_of(module: str) -> str:
    """Return a module's code without its comments and docstrings."""
    tree = ast.parse(_file_of(module).read_bytes())
    for node in ast.walk(tree):
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list) and any(_is_text(line) for line in block):
                setattr(node, name, [line for line in block if not _is_text(line)] or [ast.Pass()])
    return ast.unparse(tree)


def _is_text(statement: ast.stmt) -> bool:
    """Return True for a docstring, of whatever it is: a string that stands by itself."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _place_of(module: str) -> Path:
    """Return the path of a module without its suffix: `find_spec` would import the packages above it."""
    top, *rest = module.split(".")
    spec = PathFinder.find_spec(top)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{module} is not installed.")
    return Path(spec.submodule_search_locations[0], *rest)


def _file_of(module: str) -> Path:
    place = _place_of(module)
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


def _modules_below(package: str) -> tuple[str, ...]:
    """Return a module, or a package with all that is in it."""
    place = _place_of(package)
    inner = (path.relative_to(place).with_suffix("") for path in sorted(place.rglob("[!.]*.py")))
    return (package, *(".".join((package, *path.parts)) for path in inner if path.name != "__init__"))


def _version(name: str) -> str:
    return installed(name) or "none"


def _hash(parts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part.encode()).digest())
    return digest.hexdigest()
