"""`python -m depthface_bench`: what the Makefile's `setup-bench`, `bench` and `tune` call, and `report`."""

from __future__ import annotations

import json
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import click

from depthface.errors import DepthfaceError
from depthface_bench import setup as setup_stage

__all__ = ["main"]

RESULTS = Path("benchmarks/results")
WORK = Path("build/bench")


class _Commands(click.Group):
    """Says what is wrong in one sentence, as the `depthface` command does."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except DepthfaceError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Commands)
def main() -> None:
    """Measure depthface, and what a user would take instead."""
    # What is killed ends its servers too, as on Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # insightface and transformers warn of each other's future; it says nothing about their speed.
    warnings.filterwarnings("ignore", category=FutureWarning)


@main.command()
def setup() -> None:
    """Find perf_analyzer, or fetch it."""
    tool = setup_stage.fetch()
    click.echo(f"perf_analyzer {tool.version}, {'from PATH' if tool.libraries is None else 'from the pinned wheels'}")


@main.command()
@click.option("--quick", is_flag=True, help="A shorter look.")
@click.option("--precision", "chosen", multiple=True, help="fp32 and which else; by default what suits this machine.")
@click.option("--results", type=click.Path(file_okay=False, path_type=Path), default=RESULTS, show_default=True)
@click.option("--work", type=click.Path(file_okay=False, path_type=Path), default=WORK, show_default=True)
def run(quick: bool, chosen: tuple[str, ...], results: Path, work: Path) -> None:
    """Measure everything in one run; write the data, the table and the plots."""
    tool = setup_stage.find()
    from depthface_bench import plan, writing

    found, failures = writing.run_and_write(tool, work, results, plan.QUICK if quick else plan.FULL, quick, chosen)
    click.echo(found.read_text())
    click.echo("`python -m depthface_bench pages` writes the tables of figures on the pages anew.", err=True)
    for failure in failures:
        click.echo(f"no figure: {failure}", err=True)
    if failures:
        raise SystemExit(1)


@main.command()
@click.argument("data", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def report(data: Path) -> None:
    """Write the table and the plots of stored results anew."""
    from depthface_bench import writing

    click.echo(str(writing.write(json.loads(data.read_text()), data.parent, data.stem)))


@main.command()
def pages() -> None:
    """Write the tables of figures on the pages from the stored results; run it in the checkout."""
    from depthface_bench import pages as pages_stage

    some = pages_stage.processors(RESULTS)
    for page in pages_stage.PAGES:
        page.write_text(pages_stage.filled(page.read_text(), some))
    click.echo(f"{', '.join(map(str, pages_stage.PAGES))}: {', '.join(one.name for one in some)}")


@main.command()
@click.option("--results", type=click.Path(file_okay=False, path_type=Path), default=RESULTS, show_default=True)
@click.option("--work", type=click.Path(file_okay=False, path_type=Path), default=WORK, show_default=True)
@click.option("--precision", default="fp32", show_default=True)
@click.option("--window", default=15, show_default=True, help="Requests in a window.")
def tune(results: Path, work: Path, precision: str, window: int) -> None:
    """Try instances × threads × batch × delay, and print what each gives."""
    tool = setup_stage.find()
    from depthface_bench import writing

    click.echo(writing.tune_and_write(tool, work, results, precision, window))


if __name__ == "__main__":
    main()
