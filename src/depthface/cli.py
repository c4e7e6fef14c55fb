"""The `depthface` command: a group whose subcommands are entry points, imported only when they are called."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

import click

from depthface import __version__
from depthface.errors import DepthfaceError

__all__ = ["main"]

_GROUP = "depthface.commands"


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(entry_points(group=_GROUP).names)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        found = tuple(entry_points(group=_GROUP, name=name))
        return _load(found[0]) if found else None

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except DepthfaceError as error:
            raise click.ClickException(str(error)) from error


def _load(entry: EntryPoint) -> click.Command:
    try:
        command: click.Command = entry.load()
    except ModuleNotFoundError as error:
        extra = entry.module.partition(".")[0].removeprefix("depthface_")
        missing = f"`depthface {entry.name}` needs the package {error.name}"

        @click.command(
            entry.name, help=f"(not installed: {missing})", context_settings={"ignore_unknown_options": True}
        )
        @click.argument("arguments", nargs=-1)
        def command(arguments: tuple[str, ...]) -> None:
            raise click.ClickException(f"{missing}. Install it: pip install 'depthface[{extra}]'")

    return command


@click.group(cls=_LazyGroup)
@click.version_option(__version__)
def main() -> None:
    """Depth Anything V2 and InsightFace on Triton: export, serve, ask."""
