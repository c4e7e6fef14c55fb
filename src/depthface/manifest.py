"""Where an artefact came from and what was proven of it: `manifest.json`, beside the artefact, written last."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

__all__ = ["FILE_NAME", "Manifest", "exporter_versions", "read", "sha256_of"]

FILE_NAME = "manifest.json"

_EXPORTERS = ("depthface", "torch", "transformers", "onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Manifest:
    """One export, whole.

    Attributes:
        serves: the public models that the artefact has a part in, and all the networks that each needs.
        weights: `origin`, and `sha256` of each weight file.
        license: of the weights; None for random ones.
        onnx: `sha256`, `opset`, `ir_version`.
        tensors: `inputs` and `outputs`, each `{name, dtype, dims}`, without the batch dimension.
        exporters: the versions of the packages that made it, and `code`, the sha256 of the exporting code.
        checks: each parity check: `case`, `metric`, `value`, `tolerance`.
    """

    serves: dict[str, list[str]]
    weights: dict[str, Any]
    license: dict[str, Any] | None
    precision: str
    onnx: dict[str, Any]
    tensors: dict[str, Any]
    exporters: dict[str, str]
    checks: list[dict[str, Any]]

    @property
    def is_random(self) -> bool:
        """True if what it computes means nothing."""
        return bool(self.weights["origin"].startswith("random"))

    def write(self, folder: Path) -> None:
        """Write `manifest.json` into `folder`."""
        (folder / FILE_NAME).write_text(json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")

    def describes(self, folder: Path) -> bool:
        """True if `model.onnx` in `folder` is the one that this manifest speaks of."""
        path = folder / "model.onnx"
        return path.is_file() and sha256_of(path) == self.onnx["sha256"]


def read(folder: Path) -> Manifest | None:
    """The manifest in `folder`; None if there is none, or not one of this version."""
    try:
        return Manifest(**json.loads((folder / FILE_NAME).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def sha256_of(path: Path) -> str:
    """The sha256 of a file, as lowercase hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def exporter_versions(code: list[Path]) -> dict[str, str]:
    """The versions of all that has a hand in an export, without importing any of it."""
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in code)).hexdigest()
    return {name: version(name) for name in _EXPORTERS} | {"code": digest}
