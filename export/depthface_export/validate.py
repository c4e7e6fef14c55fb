"""An ONNX file to proof: the same photographs through it and through its reference, compared in the task's units."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from depthface import image
from depthface.errors import ParityError
from depthface.families import module_of
from depthface.spec import ModelCard, Precision

__all__ = ["Check", "runner", "validate"]

Array = npt.NDArray[Any]

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


def runner(path: Path) -> Callable[[Array], Array]:
    """ONNX Runtime on the CPU, as a function from the first input to the first output."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda array: np.asarray(session.run(None, {name: array})[0])


def validate(
    card: ModelCard, precision: Precision, reference: Callable[[Array], Array], path: Path
) -> Iterator[list[Check]]:
    """Yield the checks of one input after another; raise `ParityError` at the first that fails."""
    parity = module_of(card, "parity")
    tolerances = card.tolerances[precision]
    photos = [image.decode((files("skimage") / "data" / name).read_bytes()) for name in _PHOTOS]
    exported = runner(path)
    for case in parity.cases(photos):
        measured = parity.measure(reference, exported, case)
        checks = [Check(case.name, metric, value, tolerances[metric]) for metric, value in measured.items()]
        for check in checks:
            if not check.passed:
                raise ParityError(
                    f"{card.name} in {precision} does not equal its reference: {check} at {check.case}. Nothing was "
                    "installed. Export in fp32, or report this with the versions of torch and onnxruntime."
                )
        yield checks
