"""The commands of `depthface`, as a table: what `depthface --help` shows, without an import of any of them.

A new command is a click command in the `cli` of its package and a row here. `tests/test_cli.py` checks the rows
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
    """

    name: str
    group: str
    target: str
    summary: str

    @property
    def extra(self) -> str:
        """The optional dependencies that it needs: `pip install 'depthface[<extra>]'`."""
        return self.target.partition(".")[0].removeprefix("depthface_")


_ENTRIES = (
    Entry("export", "Make", "depthface_export.cli:export", "Turn weights into a checked model repository"),
    Entry("serve", "Serve", "depthface_server.cli:serve", "Serve the exported models"),
    Entry("gateway", "Serve", "depthface_gateway.cli:gateway", "Answer as immich's or another service does"),
    Entry("gateway-worker", "Serve", "depthface_gateway.cli:gateway_worker", "Do the jobs that a gateway takes"),
    Entry("depth", "Ask", "depthface_client.cli.depth:depth", "Write the depth maps of photos"),
    Entry("faces", "Ask", "depthface_client.cli.faces:faces", "Find the faces in photos"),
    Entry("compare", "Ask", "depthface_client.cli.faces:compare", "Say whether two photos show the same person"),
    Entry("swap", "Ask", "depthface_client.cli.swap:swap", "Put the face of one photo on another"),
    Entry("embed", "Ask", "depthface_client.cli.embedding:embed", "Turn photos or texts into vectors"),
    Entry("classify", "Ask", "depthface_client.cli.embedding:classify", "Say which of some labels fits a photo best"),
    Entry("parallax", "Ask", "depthface_render.cli:parallax", "Turn a photo into a clip in which it moves"),
    Entry("models", "Look after", "depthface_client.cli.server:models", "List what a server serves"),
    Entry("health", "Look after", "depthface_client.cli.server:health", "Send every model a real request"),
    Entry("load", "Look after", "depthface_client.cli.server:load", "Load a model into a running server"),
    Entry("unload", "Look after", "depthface_client.cli.server:unload", "Give back the memory of a model"),
    Entry("verify", "Look after", "depthface_server.cli:verify", "Check exported files against their manifests"),
    Entry("doctor", "Look after", "depthface_server.doctor.cli:doctor", "Check this machine and say what to mend"),
)

COMMANDS = {entry.name: entry for entry in _ENTRIES}
"""Each command by its name, in the order of the help."""
