"""Steps one after the other, each in a process of its own, and what they found put down as they find it.

A step that fails, hangs or takes the interpreter with it costs its own figures alone. A record is on the disk as soon
as it is known (`records.jsonl`); the JSON and the table are written anew after each step. Only the standard library.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import report

__all__ = ["Book", "Step", "go"]

_LAST_LINES = 12
"""Of what a step that failed has said."""

_TIMES = 2
"""A step may take so many times what it needs, about, whatever the steps behind it need."""

_SPARE = 1.1
"""Those are left so many times what they need."""


class Book:
    """The records of a run, in a folder: `records.jsonl`, and made of it `results.json` and `results.md`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lines = folder / "records.jsonl"
        folder.mkdir(parents=True, exist_ok=True)

    def forget(self, names: Collection[str]) -> None:
        """Drop what an earlier run has put down of these steps."""
        kept = [record for record in self.records() if record["step"] not in names]
        self._lines.write_text("".join(_line(record) for record in kept))

    def add(self, step: str, kind: str, **facts: Any) -> None:
        """Put a record down, and say it."""
        line = _line({"step": step, "kind": kind, **facts})
        with self._lines.open("a") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        print(line, end="", flush=True)

    def records(self) -> list[dict[str, Any]]:
        """Return what is there; a last line that was cut off is passed over."""
        found = []
        for line in self._lines.read_text().splitlines() if self._lines.exists() else ():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    def write(self) -> Path:
        """Write the JSON and the table of what there is so far; return the table's file."""
        records = self.records()
        for name, text in (
            ("results.json", json.dumps(records, indent=1, ensure_ascii=False) + "\n"),
            ("results.md", report.markdown(records)),
        ):
            aside = self._folder / f".{name}"
            aside.write_text(text)
            aside.replace(self._folder / name)
        return self._folder / "results.md"


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        needs_s: how long it takes on a GPU, about; with less than that left it is not begun.
        command: what runs it; it puts its records into the same book. `--until` is added, the `time.time()` at which it
            is ended.
    """

    name: str
    title: str
    needs_s: float
    command: tuple[str, ...]


def go(steps: Sequence[Step], book: Book, log: Path, left_s: Callable[[], float]) -> None:
    """Run the steps in order; whatever becomes of one, the next gets its turn, and the book is written.

    Args:
        log: takes what the steps print.
        left_s: seconds that are left for all. A step that hangs is ended when it has taken what the steps behind it do
            not need, or twice what it needs itself, if that is more.
    """
    for index, step in enumerate(steps):
        started, left = time.monotonic(), left_s()
        facts: dict[str, Any]
        if left < step.needs_s:
            facts = {"state": "skipped", "error": f"{left:.0f} s were left, and it takes {step.needs_s:.0f} s"}
        else:
            needed_s = _SPARE * sum(later.needs_s for later in steps[index + 1 :])
            facts = _run(step, log, min(left, max(_TIMES * step.needs_s, left - needed_s)))
        seconds = round(time.monotonic() - started, 1)
        book.add(step.name, "step", title=step.title, seconds=seconds, **facts)
        book.write()


def _run(step: Step, log: Path, at_most_s: float) -> dict[str, Any]:
    with log.open("ab") as out:
        out.write(f"\n=== {step.name}\n".encode())
        out.flush()
        begins = out.tell()
        try:
            command = (*step.command, "--until", str(time.time() + at_most_s))
            process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
        except OSError as error:
            return {"state": "failed", "error": str(error)}
        try:
            code = process.wait(at_most_s)
        except subprocess.TimeoutExpired:
            return {"state": "cut off", "error": f"it was not done after {at_most_s:.0f} s"}
        finally:
            _end(process)  # with whatever it has started, on an interrupt too
    if code == 0:
        return {"state": "done"}
    how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return {"state": "failed", "error": f"{how}: {_tail(log, begins)}"}


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _tail(log: Path, begins: int) -> str:
    with log.open("rb") as file:
        file.seek(begins)
        lines = file.read().decode("utf-8", "replace").splitlines()
    return "\n".join([line for line in lines if line.strip()][-_LAST_LINES:])
