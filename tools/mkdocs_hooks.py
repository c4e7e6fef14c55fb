"""What mkdocs asks while it builds the site: the page of commands is made from the commands themselves."""

from __future__ import annotations

from typing import Any

import click

from depthface.cli import group
from depthface.commands import COMMANDS, GROUPS

_PLACE = "<!-- every command -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the help of every command where a page asks for it."""
    return markdown.replace(_PLACE, _commands()) if _PLACE in markdown else markdown


def _commands() -> str:
    root = click.Context(group, info_name="depthface")
    parts = [_block(group.get_help(root))]
    for heading in GROUPS:
        entries = [entry for entry in COMMANDS.values() if entry.group == heading]
        parts += [f"## {heading}"] if entries else []
        for entry in entries:
            command = group.get_command(root, entry.name)
            assert command is not None
            text = command.get_help(click.Context(command, info_name=entry.name, parent=root))
            parts += [f"### depthface {entry.name}", f"{entry.summary}.", _block(text)]
    return "\n\n".join(parts)


def _block(text: str) -> str:
    return f"```text\n{text}\n```"
