"""An ONNX file to proof: the same photographs through it and through its reference, compared in the task's units."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

import depthface_standins
from depthface import image, machine
from depthface.contract import GPU_PRECISIONS, Precision
from depthface.cores import Cores
from depthface.errors import ExportError, ParityError
from depthface.families import module_of
from depthface.spec import ModelCard, Samples
from depthface_export.job import NetworkJob, Report

__all__ = [
    "CALIBRATION",
    "PROOF",
    "Arrays",
    "Check",
    "Named",
    "Run",
    "has_cuda",
    "inputs",
    "prove",
    "prove_as_served",
    "runner",
    "runner_of_static_graphs",
    "samples",
    "session_as_served",
    "validate",
]

Arrays = dict[str, npt.NDArray[Any]]
Run = Callable[[Arrays], Arrays]


@dataclass(frozen=True)
class Named:
    """Samples by name: photographs that ship inside scikit-image's wheel, and sentences."""

    photographs: tuple[str, ...]
    sentences: tuple[str, ...]


PROOF = Named(
    photographs=("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg"),
    sentences=(
        "a photo of a cat",
        "a red circle",
        "two green squares.",
        "a photo of an astronaut in an orange suit.",
        "A rocket on its launch pad, at night!",
        "a cup of coffee; 3 spoons",
        "two children's bicycles in front of a red door",
        "Größe, naïve, 東京タワー, Ελληνικά",
        "😀 smiling face",
        "x",
        "the quick brown fox jumps over the lazy dog " * 12,  # cut off
        "مرحبا بالعالم",
    ),
)
"""On which an export is proven: a person, a cat, a table, a rocket at night; words in several scripts, and too many."""

CALIBRATION = Named(
    photographs=(
        *("camera.png", "clock_motion.png", "coins.png", "grass.png", "hubble_deep_field.jpg", "ihc.png"),
        "motorcycle_left.png",
    ),
    sentences=(
        "a photo of a dog",
        "my grandmother's house in winter, seen from the street.",
        "blue triangle",
        "GREEN CARS",
        "sunset over the sea; 12 boats",
        "ein Kind lacht 😂, ça va, 北京的街道",
        "y",
        "all work and no play makes a dull day, " * 10,
        "Привет, мир",
        "the concert, from far away, at 8:30 pm",
    ),
)
"""On which ranges are measured, none of them of those above. They are as many as a family's checks look at."""


_REPORT = "Nothing was installed. Export in fp32, or report this with the versions of all that took part."


@dataclass(frozen=True)
class Check:
    """One metric on one input: what it was, and the most it may be."""

    case: str
    metric: str
    value: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """True within tolerance; a value that is not a number, or not finite, is not."""
        return math.isfinite(self.value) and self.value <= self.tolerance

    def __str__(self) -> str:
        relation = "≤" if self.passed else ">"
        return f"{self.metric} {self.value:.1e} {relation} {self.tolerance:.0e}"


def runner(model: Path | bytes, precision: Precision = "fp32", *, by_openvino: bool = False) -> Run:
    """Return it in a runtime of the CPU, as a function from inputs by name to outputs by name.

    Args:
        by_openvino: as bf16 is anyway, instead of by ONNX Runtime.

    Raises:
        ExportError: this processor cannot compute in that precision.
    """
    if precision == "bf16" or by_openvino:
        return _openvino(model, is_bf16=precision == "bf16")
    return _run_of(onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]))


def _run_of(session: onnxruntime.InferenceSession) -> Run:
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(None, inputs), strict=True))


def has_cuda() -> bool:
    """Return True where ONNX Runtime would serve on a GPU."""
    return bool(machine.gpus()) and machine.CUDA_PROVIDER in onnxruntime.get_available_providers()


def session_as_served(model: Path, *, on_cuda: bool) -> onnxruntime.InferenceSession:
    """Return a session of ONNX Runtime as the server's backend has it, which falls back on no other provider.

    Raises:
        ExportError: CUDA does not start.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = Cores.found().count
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    cuda = [(machine.CUDA_PROVIDER, machine.CUDA_OPTIONS)] if on_cuda else []
    if on_cuda:
        onnxruntime.preload_dlls()
    providers = [*cuda, "CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(model, options, providers=providers, enable_fallback=0)
    if on_cuda and machine.CUDA_PROVIDER not in session.get_providers():
        raise ExportError(
            f"{machine.CUDA_PROVIDER} did not start, though there is a GPU; ONNX Runtime's warning says why.",
            "Mend that; or set CUDA_VISIBLE_DEVICES to nothing, and the export is for processors.",
        )
    return session


def runner_of_static_graphs(model: Path, report: Report) -> Run:
    """Return as `runner` how OpenVINO serves shapes in bf16 that are asked for often: a graph for each alone.

    A graph that is too far from the one for any shape is not served, nor here: it is reported, and that one answers.
    """
    from depthface.openvino import MOST_OFF, fixed, off, openvino, options

    core = openvino.Core()
    network = core.read_model(model)
    for_any = _openvino(model, is_bf16=True)

    def run(inputs: Arrays) -> Arrays:
        expected = for_any(inputs)
        shapes = {name: value.shape for name, value in inputs.items()}
        compiled = core.compile_model(fixed(network, shapes), "CPU", options(is_bf16=True))
        got = {output.get_any_name(): value for output, value in compiled(inputs).items()}
        far = off([*expected.values()], [got[name] for name in expected])
        if far <= MOST_OFF:
            return got
        report(f"  no static graph for {shapes}: its outputs would be off by {far:.3f} of their norm")
        return expected

    return run


def _openvino(path: Path | bytes, *, is_bf16: bool) -> Run:
    from depthface.openvino import openvino, options

    model = openvino.Core().compile_model(path, "CPU", options(is_bf16=is_bf16))
    if is_bf16 and model.get_property("INFERENCE_PRECISION_HINT").get_type_name() != "bf16":
        raise ExportError(
            "This processor has no bf16 arithmetic (AVX512-BF16 or AMX): bf16 can neither be proven nor served here.",
            "Export in fp32.",
        )
    request = model.create_infer_request()

    def run(inputs: Arrays) -> Arrays:
        results = request.infer(inputs)
        return {output.get_any_name(): results[output] for output in model.outputs}

    return run


def prove_as_served(making: NetworkJob) -> list[Check]:
    """Return the checks of `prove` by ONNX Runtime, or in bf16 by OpenVINO, of what cannot be served without them.

    In bf16 that is two ways: OpenVINO's graphs for any shape and for one alone have other kernels, and round
    otherwise. What CUDA serves here is proven there too: a CPU computes fp16 in fp32, where nothing is past the largest
    of fp16.
    """
    making.report("validate: on the CPU, against the reference, on photographs")
    checks = prove(making, runner(making.model, making.precision))
    if making.precision == "bf16":
        alone = prove(
            making,
            runner_of_static_graphs(making.model, making.report),
            what="ONNX file, a static graph for each shape,",
        )
        checks += _told_apart(alone, "static graph")
    if making.precision in GPU_PRECISIONS and making.job.engine_of(making.network) is None:
        checks += _told_apart(_proven_on_cuda(making), "CUDA")
    return checks


def _proven_on_cuda(making: NetworkJob) -> list[Check]:
    """Return the checks of `prove` on CUDA, which are none where it is not."""
    if has_cuda():
        making.report("validate: on CUDA, which serves it here, against the reference")
        run = _run_of(session_as_served(making.model, on_cuda=True))
        return prove(making, run, what="ONNX file, on CUDA,")
    if making.precision == "fp16":
        making.report("  on the CPU alone: there is no CUDA here, which may compute it otherwise")
    return []


def _told_apart(checks: list[Check], how: str) -> list[Check]:
    """Return checks whose cases say how the file was computed."""
    return [replace(check, case=f"{check.case}, {how}") for check in checks]


def prove(making: NetworkJob, run: Run, *, what: str = "ONNX file") -> list[Check]:
    """Return the checks of `validate`, each reported as it passes.

    Raises:
        ParityError: one fails, or there is none.
    """
    checks: list[Check] = []
    for case in validate(making, run, what=what):
        making.report(f"  {case[0].case}: " + ", ".join(str(check) for check in case))
        checks += case
    if not checks:
        raise ParityError(f"{making.network.name} in {making.precision}: its {what} was compared on nothing.", _REPORT)
    return checks


def validate(making: NetworkJob, run: Run, *, what: str = "ONNX file") -> Iterator[list[Check]]:
    """Yield the checks of one input after another; raise `ParityError` at the first that fails.

    A value that is not finite fails, wherever it is: of an output or of a metric.

    Args:
        run: the exported network; what it is, for people, is `what`.
    """
    name = f"{making.network.name} in {making.precision}"

    def finite(inputs: Arrays) -> Arrays:
        outputs = run(inputs)
        for output, value in outputs.items():
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise ParityError(f"{name}: its {what} gives {output} that is not finite.", _REPORT)
        return outputs

    tolerances = making.card.tolerances[making.precision]
    measurements = module_of(making.card, "parity").measurements
    for case, measured in measurements(making.source, finite, samples(making.card, precision=making.precision)):
        checks = [Check(case, metric, value, tolerances[metric]) for metric, value in measured.items()]
        for check in checks:
            if not check.passed:
                raise ParityError(f"{name}: its {what} does not equal its reference: {check} at {check.case}.", _REPORT)
        yield checks


def inputs(making: NetworkJob, run: Run, named: Named = PROOF) -> list[Arrays]:
    """Return what the network is given of such samples in its checks; `run` computes it."""
    given: list[Arrays] = []

    def noting(arrays: Arrays) -> Arrays:
        given.append(arrays)
        return run(arrays)

    shown = samples(making.card, named, precision=making.precision)
    for _ in module_of(making.card, "parity").measurements(making.source, noting, shown):
        pass
    return given


def samples(card: ModelCard, named: Named = PROOF, *, precision: Precision = "fp32") -> Samples:
    """Return the samples, and what the family's stand-ins see something in; shown as they are in that precision."""
    photos = [image.decode((files("skimage") / "data" / name).read_bytes()) for name in named.photographs]
    pictures = depthface_standins.module_of(card).pictures()
    return Samples([*photos, *pictures], named.sentences, is_exact=precision == "fp32")
