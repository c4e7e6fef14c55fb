"""An ONNX file to proof: the same photographs through it and through its reference, compared in the task's units."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from depthface import image
from depthface.contract import Precision
from depthface.errors import ExportError, ParityError
from depthface.families import module_of
from depthface.spec import ModelCard, Network, Source

__all__ = ["CALIBRATION", "PROOF", "Arrays", "Check", "Report", "Run", "checked", "inputs", "runner", "validate"]

Arrays = dict[str, npt.NDArray[Any]]
Run = Callable[[Arrays], Arrays]
Report = Callable[[str], None]

# Photographs that ship inside scikit-image's wheel.
PROOF = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
"""On which an export is proven: a person, a cat, a table, a rocket at night."""

CALIBRATION = (
    *("camera.png", "clock_motion.png", "coins.png", "grass.png", "hubble_deep_field.jpg", "ihc.png"),
    "motorcycle_left.png",
)
"""On which ranges are measured, none of them of those above. They are as many as a family's checks look at."""


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


def runner(model: Path | bytes, precision: Precision = "fp32", *, by_openvino: bool = False) -> Run:
    """What will serve it, on the CPU, as a function from inputs by name to outputs by name.

    Args:
        by_openvino: as bf16 is anyway, instead of by ONNX Runtime.

    Raises:
        ExportError: this processor cannot compute in that precision.
    """
    if precision == "bf16" or by_openvino:
        return _openvino(model, "bf16" if precision == "bf16" else "f32")
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(None, inputs), strict=True))


def _openvino(path: Path | bytes, hint: str) -> Run:
    from depthface.openvino import openvino

    model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": hint})
    if model.get_property("INFERENCE_PRECISION_HINT").get_type_name() != hint:
        raise ExportError(
            "This processor has no bf16 arithmetic (AVX512-BF16 or AMX), so bf16 can neither be proven nor served "
            "here. Export in fp32."
        )
    request = model.create_infer_request()

    def run(inputs: Arrays) -> Arrays:
        results = request.infer(inputs)
        return {output.get_any_name(): results[output] for output in model.outputs}

    return run


def validate(
    card: ModelCard, network: Network, precision: Precision, source: Source, run: Run, *, what: str = "ONNX file"
) -> Iterator[list[Check]]:
    """Yield the checks of one input after another; raise `ParityError` at the first that fails, or if there is none.

    A value that is not finite fails, wherever it is.

    Args:
        run: the exported network; what it is, for people, is `what`.
    """

    def finite(inputs: Arrays) -> Arrays:
        outputs = run(inputs)
        for name, value in outputs.items():
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise ParityError(f"{network.name} in {precision}: its {what} gives {name} that is not finite.")
        return outputs

    tolerances = card.tolerances[precision]
    compared = 0
    for case, measured in module_of(card, "parity").measurements(source, finite, _photos(PROOF)):
        checks = [Check(case, metric, value, tolerances[metric]) for metric, value in measured.items()]
        compared += len(checks)
        for check in checks:
            if not check.passed:
                raise ParityError(
                    f"{network.name} in {precision}: its {what} does not equal its reference: {check} at {check.case}. "
                    "Nothing was installed. Export in fp32, or report this with the versions of all that took part."
                )
        yield checks
    if not compared:
        raise ParityError(f"{network.name} in {precision}: nothing was compared with its reference. Report this.")


def checked(cases: Iterable[list[Check]], report: Report) -> list[Check]:
    """All checks of `validate`, each reported as it passes."""
    checks = []
    for case in cases:
        report(f"  {case[0].case}: " + ", ".join(str(check) for check in case))
        checks += case
    return checks


def inputs(card: ModelCard, source: Source, run: Run, names: Sequence[str] = PROOF) -> list[Arrays]:
    """What the network is given of the photographs `names` in its checks; `run` computes it."""
    given: list[Arrays] = []

    def noting(arrays: Arrays) -> Arrays:
        given.append(arrays)
        return run(arrays)

    for _ in module_of(card, "parity").measurements(source, noting, _photos(names)):
        pass
    return given


def _photos(names: Sequence[str]) -> list[npt.NDArray[np.uint8]]:
    return [image.decode((files("skimage") / "data" / name).read_bytes()) for name in names]
