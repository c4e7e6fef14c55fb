"""What an export shows while it works: one line that turns, and a bar for each phase of TensorRT's build."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

__all__ = ["Display"]


class Display:
    """A context manager; implements `tensorrt.Phases`. Where the console is no terminal, only `say` shows anything."""

    def __init__(self, console: Console, name: str) -> None:
        self._console = console
        self._name = name
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._stage = self._progress.add_task(name, total=None)
        self._phases: dict[str, TaskID] = {}

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def say(self, line: str) -> None:
        """Print a line that stays, and make it the one that turns."""
        self._console.print(f"{self._name}  {line}", markup=False)
        self._progress.update(self._stage, description=f"{self._name}  {line.strip()}")

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """Begin a phase."""
        self._phases[name] = self._progress.add_task(f"  {name}", total=steps)

    def advance(self, name: str, step: int) -> bool:
        """Count a step of it as done; a build is never given up here."""
        self._progress.update(self._phases[name], completed=step + 1)
        return True

    def finish(self, name: str) -> None:
        """End it: its bar goes."""
        self._progress.remove_task(self._phases.pop(name))
