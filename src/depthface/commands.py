"""The commands of `depthface`, as a table: what `depthface --help` shows, without an import of any of them.

A new command is a click command in the `cli.py` of its package and a row here. `tests/test_cli.py` checks the rows
against the commands.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["COMMANDS", "GROUPS", "Entry"]

GROUPS = ("Make", "Serve", "Ask", "Look after")


@dataclass(frozen=True)
class Entry:
    """One command.

    Attributes:
        name: what the user types after `depthface`.
        group: its heading in the help, one of `GROUPS`.
        target: `module:attribute` of the click command.
        summary: one line for the help, without a full stop.
        extra: the optional dependencies that it needs: `pip install 'depthface[<extra>]'`.
    """

    name: str
    group: str
    target: str
    summary: str
    extra: str


_ENTRIES = (
    Entry("export", "Make", "depthface_export.cli:export", "Turn weights into a checked model repository", "export"),
    Entry("serve", "Serve", "depthface_server.cli:serve", "Serve the exported models", "server"),
    Entry("depth", "Ask", "depthface_client.cli.depth:depth", "Write the depth maps of photos", "client"),
    Entry("faces", "Ask", "depthface_client.cli.faces:faces", "Find the faces in photos", "client"),
    Entry(
        "compare", "Ask", "depthface_client.cli.faces:compare", "Say whether two photos show the same person", "client"
    ),
    Entry("swap", "Ask", "depthface_client.cli.swap:swap", "Put the face of one photo on another", "client"),
    Entry(
        "models",
        "Look after",
        "depthface_client.cli.server:models",
        "List what a server serves, and with which weights",
        "client",
    ),
    Entry(
        "health", "Look after", "depthface_client.cli.server:health", "Send every served model a real request", "client"
    ),
    Entry("load", "Look after", "depthface_client.cli.server:load", "Load a model into a running server", "client"),
    Entry("unload", "Look after", "depthface_client.cli.server:unload", "Give back the memory of a model", "client"),
    Entry(
        "verify",
        "Look after",
        "depthface_server.cli:verify",
        "Check every exported file against its manifest",
        "server",
    ),
    Entry(
        "doctor",
        "Look after",
        "depthface_server.doctor.cli:doctor",
        "Check this machine and say what to mend",
        "server",
    ),
)

COMMANDS = {entry.name: entry for entry in _ENTRIES}
"""Each command by its name, in the order of the help."""
