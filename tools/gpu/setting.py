"""What a step is told: where its files are, what this machine is, how much to measure, how long there is."""

from __future__ import annotations

import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steps import Book

from depthface.contract import ONNX_FILE
from depthface_bench.variants import Variant

__all__ = ["GPU", "REHEARSAL", "Scale", "Setting", "median_ms"]


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
        batches: of a network alone.
        at_once: requests under way, end to end.
        processes: of the pipeline, tried at the best of those.
        seconds: that one figure of a network takes, after its warm-up.
        windows: perf_analyzer's, at most; three have to agree.
        larger: the cards measured beside Small.
        square: the side of the matrices that show the peak.
        grid_px: height and width of what a network alone is given; and `wide_px`, of a photo of 4:3.
    """

    batches: tuple[int, ...]
    at_once: tuple[int, ...]
    processes: tuple[int, ...]
    seconds: float
    windows: int
    larger: tuple[str, ...]
    square: int
    grid_px: tuple[int, int]
    wide_px: tuple[int, int]


GPU = Scale((1, 8, 32), (1, 2, 4, 8, 16, 32, 64), (16, 32), 0.5, 5, ("base", "large"), 8192, (518, 518), (518, 686))
REHEARSAL = Scale((1, 2), (1, 2), (1,), 0.1, 4, ("base",), 1024, (140, 140), (140, 182))


@dataclass(frozen=True)
class Setting:
    """One step's.

    Attributes:
        on_gpu: False in a rehearsal: the same on ONNX Runtime's CPU provider.
        until: `time.time()` at which the step is ended.
    """

    step: str
    book: Book
    work: Path
    on_gpu: bool
    cores: int
    until: float

    @property
    def scale(self) -> Scale:
        """How much is measured here."""
        return GPU if self.on_gpu else REHEARSAL

    @property
    def device(self) -> str:
        """As ONNX Runtime and PyTorch call it."""
        return "cuda" if self.on_gpu else "cpu"

    def variant(self, precision: Any) -> Variant:
        """What runs a network here."""
        return Variant(precision, "cuda" if self.on_gpu else "cpu")

    def repository(self, precision: Any) -> Path:
        """Where that variant's repository is made."""
        return self.work / self.variant(precision).name.replace(" ", "-")

    def network(self, precision: Any, name: str) -> Path:
        """Return the ONNX file of a network in it."""
        return self.repository(precision) / name / "1" / ONNX_FILE

    @property
    def in_operators(self) -> Path:
        """Where Small in fp16 is whose attention is three operators."""
        return self.work / "small-in-operators.onnx"

    def larger(self, size: str) -> Path:
        """Return the ONNX file of Base or Large."""
        return self.work / f"{size}.onnx"

    def row(self, table: str, **facts: Any) -> None:
        """Put down a line of a table."""
        self.book.add(self.step, "row", table=table, **facts)

    def fact(self, name: str, value: object) -> None:
        """Put down what is so."""
        self.book.add(self.step, "fact", name=name, value=value)

    def aim(self, text: str, value: float, is_met: bool) -> None:
        """Put down an aim beside what was reached; a rehearsal meets none and says nothing of it."""
        if self.on_gpu:
            self.book.add(self.step, "aim", text=text, value=value, met=is_met)

    @contextmanager
    def part(self, what: str) -> Iterator[None]:
        """Let the block fail alone: what it could not measure is put down, and the step goes on."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            lines = str(error).strip().splitlines() or [""]
            self.book.add(self.step, "failure", what=what, error=f"{type(error).__name__}: {lines[0][:400]}")


def median_ms(run: Callable[[], object], seconds: float) -> float:
    """Return the median time of a run, which has to end only when its work has; at least three are measured."""
    run()  # those who call have run it before: two are enough for whatever is chosen or compiled on the way
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - started < seconds:
        begins = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - begins))
    return statistics.median(times)
