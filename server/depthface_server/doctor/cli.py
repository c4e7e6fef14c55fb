"""`depthface doctor`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from depthface_server.doctor.checks import findings

__all__ = ["doctor"]


@click.command()
@click.option(
    "--repository",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("model_repository"),
    show_default=True,
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def doctor(repository: Path, as_json: bool) -> None:
    """Check this machine, and say what to mend. Exit 1 if there is something.

    Example: depthface doctor --json
    """
    found = list(findings(repository))
    if as_json:
        click.echo(json.dumps([{"ok": not finding.remedy, **asdict(finding)} for finding in found], indent=2))
    else:
        for finding in found:
            click.echo(f"{'mend' if finding.remedy else 'ok':5} {finding.name}: {finding.found}")
            if finding.remedy:
                click.echo(f"      {finding.remedy.removesuffix('.')}.")
    if any(finding.remedy for finding in found):
        raise SystemExit(1)
