"""A page of the parity of model repositories, out of their manifests: `python tools/parity.py model_repository …`.

For each network: where its weights came from, its precision, what computed it, and of each metric the worst value among
all cases, each a photo in one shape or some texts, beside its tolerance.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from depthface import manifest
from depthface.contract import MANIFEST_FILE
from depthface.manifest import Manifest


def page(repositories: list[Path]) -> str:
    """Return the page in Markdown; raise SystemExit if there is nothing to say."""
    found = [
        (path.parent.parent.name, read)
        for repository in repositories
        for path in sorted(repository.glob(f"*/*/{MANIFEST_FILE}"))
        if (read := manifest.read(path.parent)) is not None
    ]
    if not found:
        raise SystemExit(f"There is no exported model in {', '.join(map(str, repositories)) or 'nothing'}.")
    lines = [
        "# Published weights",
        "",
        f"Measured on {datetime.now(UTC):%Y-%m-%d}, with " + ", ".join(_versions(found[0][1])) + ".",
        "",
        "| network | weights | precision | computed by | metric | worst value | tolerance | cases |",
        "|---|---|---|---|---|---|---|---|",
        *(line for name, read in found for line in _rows(name, read)),
    ]
    return "\n".join(lines) + "\n"


def _versions(read: Manifest) -> Iterator[str]:
    return (f"{name} {version}" for name, version in read.exporters.items() if name != "code")


def _rows(name: str, read: Manifest) -> Iterator[str]:
    by_runtime: dict[str, list[dict[str, Any]]] = {}
    for check in read.checks:
        by_runtime.setdefault(_runtime(read, check["case"]), []).append(check)
    by_runtime |= {"OpenVINO": read.openvino_checks} if read.openvino_checks else {}
    by_runtime |= {"TensorRT": read.engine["checks"]} if read.engine and "checks" in read.engine else {}
    for runtime, checks in by_runtime.items():
        for metric in dict.fromkeys(check["metric"] for check in checks):
            values = [check for check in checks if check["metric"] == metric]
            worst: dict[str, Any] = max(values, key=lambda check: check["value"])
            yield (
                f"| `{name}` | {read.weights['origin']} | {read.precision} | {runtime} | {metric} "
                f"| {worst['value']:.2g} | {worst['tolerance']:.2g} | {len(values)} |"
            )


def _runtime(read: Manifest, case: str) -> str:
    """Return what has computed a case of a network's own checks, which its last word tells (`validate`)."""
    if case.endswith(", CUDA"):
        return "ONNX Runtime, CUDA"
    if read.precision == "bf16":
        return "OpenVINO, static graph" if case.endswith(", static graph") else "OpenVINO"
    return "ONNX Runtime"


if __name__ == "__main__":
    print(page([Path(argument) for argument in sys.argv[1:]]), end="")
