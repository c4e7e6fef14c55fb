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
        example: a command line that works as it is, or with the reader's own file names.
        extra: the optional dependencies that it needs: `pip install 'depthface[<extra>]'`.
    """

    name: str
    group: str
    target: str
    summary: str
    example: str
    extra: str


_ENTRIES = (
    Entry(
        "export",
        "Make",
        "depthface_export.cli:export",
        "Turn weights into a checked model repository",
        "depthface export depth_anything_v2_small --weights random",
        "export",
    ),
    Entry(
        "serve",
        "Serve",
        "depthface_server.cli:serve",
        "Serve the exported models",
        "depthface serve --repository model_repository --http-port 8000",
        "server",
    ),
    Entry(
        "depth",
        "Ask",
        "depthface_client.cli:depth",
        "Write the depth maps of photos",
        "depthface depth photo.jpg --out depth.png",
        "client",
    ),
    Entry(
        "faces",
        "Ask",
        "depthface_client.cli:faces",
        "Find the faces in photos",
        "depthface faces photo.jpg --draw faces.png",
        "client",
    ),
    Entry(
        "compare",
        "Ask",
        "depthface_client.cli:compare",
        "Say whether two photos show the same person",
        "depthface compare a.jpg b.jpg",
        "client",
    ),
    Entry(
        "swap",
        "Ask",
        "depthface_client.cli:swap",
        "Put the face of one photo on another",
        "depthface swap --source a.jpg --target b.jpg --out c.png",
        "client",
    ),
    Entry(
        "models",
        "Look after",
        "depthface_client.cli:models",
        "List what a server serves, and with which weights",
        "depthface models --url 127.0.0.1:8000",
        "client",
    ),
    Entry(
        "health",
        "Look after",
        "depthface_client.cli:health",
        "Send every served model a real request",
        "depthface health && echo all answer",
        "client",
    ),
    Entry(
        "load",
        "Look after",
        "depthface_client.cli:load",
        "Load a model into a running server",
        "depthface load depth_anything_v2_small",
        "client",
    ),
    Entry(
        "unload",
        "Look after",
        "depthface_client.cli:unload",
        "Give back the memory of a model",
        "depthface unload depth_anything_v2_small",
        "client",
    ),
    Entry(
        "verify",
        "Look after",
        "depthface_server.cli:verify",
        "Check every exported file against its manifest",
        "depthface verify --repository model_repository",
        "server",
    ),
    Entry(
        "doctor",
        "Look after",
        "depthface_server.doctor.cli:doctor",
        "Check this machine and say what to mend",
        "depthface doctor --json",
        "server",
    ),
)

COMMANDS = {entry.name: entry for entry in _ENTRIES}
"""Each command by its name, in the order of the help."""
