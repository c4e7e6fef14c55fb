"""Where an artefact came from and what was proven of it: `manifest.json`, beside the artefact, written last."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args

from depthface.contract import ENGINE_FILE, MANIFEST_FILE, ONNX_FILE
from depthface.spec import HardwareCompatible

__all__ = ["NAME", "Manifest", "folders", "read", "sha256_of"]

MAX_BYTES = 4 * 2**20
"""A manifest has some 20 KB; anything longer is rejected."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""Of a model: a plain file name."""


@dataclass(frozen=True)
class Manifest:
    """One export, whole.

    Attributes:
        serves: the public models that the artefact has a part in, and all the networks that each needs.
        weights: `origin`, and `sha256` of each weight file.
        license: of the weights; None for random ones.
        onnx: `sha256`, `opset`, `ir_version`; of an int8 export `in_fp32`, the products that had to stay so, and
            `with_vnni`, whether the processor that proved it has VNNI.
        tensors: `inputs` and `outputs`, each `{name, dtype, dims}`, without the batch dimension.
        exporters: the versions of the packages that had a hand in it.
        checks: each parity check: `case`, `metric`, `value`, `tolerance`.
        openvino_checks: the same by OpenVINO, if that is what computes the file on a CPU.
        command: what was typed to export it, without the repository.
        fingerprint: of each stage that had a hand in it, the sha256 of its code and its packages' versions; if one
            differs, the artefact is stale.
        files: of whatever else lies beside it, such as a tokenizer, the sha256 by name.
        facts: what only the weights tell of the public models, by name.
        engine: of `model.plan`, if there is one: `sha256`; `tensorrt`, `gpu`, `compute_capability` and `driver` of the
            machine that built it; `options`; `fp32_nodes`, how many of the fp16 graph's nodes had to go back to fp32;
            and its own `checks`.
        choice: of `--precision auto`: the `precision` that it took, and of each that it `tried` its milliseconds, or
            why it does not hold. None where the user chose.
    """

    serves: dict[str, list[str]]
    weights: dict[str, Any]
    license: dict[str, Any] | None
    precision: str
    onnx: dict[str, Any]
    tensors: dict[str, Any]
    exporters: dict[str, str]
    checks: list[dict[str, Any]]
    command: list[str] = field(default_factory=list)
    engine: dict[str, Any] | None = None
    openvino_checks: list[dict[str, Any]] | None = None
    fingerprint: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    choice: dict[str, Any] | None = None

    def write(self, folder: Path) -> None:
        """Write `manifest.json` into `folder`."""
        (folder / MANIFEST_FILE).write_text(self.text(), encoding="utf-8")

    def text(self) -> str:
        """Return what `manifest.json` holds."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    def differences(self, folder: Path) -> list[str]:
        """Return what in `folder` is not as this manifest says, each in a few words."""
        found = []
        sections = {ONNX_FILE: self.onnx, ENGINE_FILE: self.engine}
        for name, section in (sections | {name: {"sha256": digest} for name, digest in self.files.items()}).items():
            path = folder / name
            if section is None:
                found += [f"{name} is there, and its manifest does not know it"] if path.exists() else []
            elif not path.is_file():
                found.append(f"{name} is not there")
            elif sha256_of(path) != section["sha256"]:
                found.append(f"{name} is not the file that was exported (its sha256 differs)")
        return found


def folders(repository: Path) -> list[Path]:
    """Return the version folders of a repository that hold a manifest, sound or not; hidden folders do not count."""
    return [path.parent for path in sorted(repository.glob(f"[!.]*/[!.]*/{MANIFEST_FILE}"))]


def read(folder: Path) -> Manifest | None:
    """Return the manifest in `folder`; None if there is none, or not a sound one.

    What a newer depthface says besides is passed over: what it says in another way, a config's `contract` tells.
    """
    try:
        with (folder / MANIFEST_FILE).open("rb") as file:
            text = file.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            return None
        said = json.loads(text)
        found = Manifest(**{each.name: said[each.name] for each in fields(Manifest) if each.name in said})
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    return found if _is_sound(found) else None


def _is_sound(found: Manifest) -> bool:
    """Return True if every field has its expected type, and every model's name is a plain file name."""
    try:
        names = [*found.serves, *found.files, *(network for needed in found.serves.values() for network in needed)]
        texts = [
            found.precision,
            found.weights["origin"],
            found.onnx["sha256"],
            *found.exporters.values(),
            *found.fingerprint.values(),
            *found.files.values(),
            *found.facts.values(),
            *found.command,
        ]
        return (
            all(isinstance(needed, list) and needed for needed in found.serves.values())
            and all(isinstance(text, str) for text in (*names, *texts))
            and all(NAME.fullmatch(name) for name in names)
            and isinstance(found.weights["sha256"], dict)
            and isinstance(found.tensors, dict)
            and isinstance(found.license, dict | None)
            and isinstance(found.command, list)
            and all(isinstance(check, dict) for check in found.checks)
            and (found.engine is None or _is_sound_engine(found.engine))
            and (found.choice is None or found.choice["precision"] in found.choice["tried"])
        )
    except (AttributeError, KeyError, TypeError):
        return False


def _is_sound_engine(engine: dict[str, Any]) -> bool:
    options = engine["options"]
    return (
        all(isinstance(engine[name], str) for name in ("sha256", "tensorrt", "gpu", "compute_capability", "driver"))
        and isinstance(options["version_compatible"], bool)
        and options["hardware_compatible"] in get_args(HardwareCompatible)
    )


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, as lowercase hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
