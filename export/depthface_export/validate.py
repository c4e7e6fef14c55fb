"""An ONNX file to proof: the same photographs through it and through its reference, compared in the task's units."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnxruntime

from depthface import image
from depthface.errors import ParityError
from depthface.families import module_of
from depthface.spec import ModelCard, Network, Precision, Source

__all__ = ["Check", "runner", "validate"]

Arrays = dict[str, npt.NDArray[Any]]

# Photographs that ship inside scikit-image's wheel: a person, a cat, a table, a rocket at night.
_PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")


@dataclass(frozen=True)
class Check:
    """One metric on one input: what it was, and the most it may be."""

    case: str
    metric: str
    value: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """True within tolerance; a value that is not a number is not."""
        return self.value <= self.tolerance

    def __str__(self) -> str:
        relation = "≤" if self.passed else ">"
        return f"{self.metric} {self.value:.1e} {relation} {self.tolerance:.0e}"


def runner(path: Path) -> Callable[[Arrays], Arrays]:
    """ONNX Runtime on the CPU, as a function from inputs by name to outputs by name."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(None, inputs), strict=True))


def validate(
    card: ModelCard, network: Network, precision: Precision, source: Source, path: Path
) -> Iterator[list[Check]]:
    """Yield the checks of one input after another; raise `ParityError` at the first that fails."""
    tolerances = card.tolerances[precision]
    photos = [image.decode((files("skimage") / "data" / name).read_bytes()) for name in _PHOTOS]
    for case, measured in module_of(card, "parity").measurements(source, runner(path), photos):
        checks = [Check(case, metric, value, tolerances[metric]) for metric, value in measured.items()]
        for check in checks:
            if not check.passed:
                raise ParityError(
                    f"{network.name} in {precision} does not equal its reference: {check} at {check.case}. Nothing was "
                    "installed. Export in fp32, or report this with the versions of torch and onnxruntime."
                )
        yield checks
