"""An ONNX file to a TensorRT engine, and an engine to a function.

The only module that knows TensorRT; versions 10 and 11 by the same code. Networks are strongly typed, which is an
option in 10 and all there is in 11: precision is what the ONNX file says, and no builder flag speaks of it.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from depthface import cache, machine
from depthface.errors import EngineError
from depthface.spec import EngineOptions, Network
from depthface_export.interrupts import hold_signals

if TYPE_CHECKING:  # it brings ONNX Runtime, which takes seconds
    from depthface_export.validate import Arrays, Run

__all__ = ["Phases", "engine_from_onnx", "require", "runner", "timing_cache"]


class Phases(Protocol):
    """Who is told how far a build is. Phases nest; a build has thousands of steps and lasts minutes."""

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """Begin a phase."""

    def advance(self, name: str, step: int) -> bool:
        """Count a step of it as done; False to give the build up."""

    def finish(self, name: str) -> None:
        """End it."""


def require() -> machine.Machine:
    """Return this machine; raises `EngineError` if it cannot build engines, `ServeError` if it cannot keep timings."""
    here = machine.read()
    _tensorrt()
    if here.tensorrt is None:
        raise EngineError("TensorRT's Python package is here, its library libnvinfer is not.", _WHERE)
    if not here.gpus:
        raise EngineError(
            "There is no NVIDIA GPU here (nvidia-smi shows none), and TensorRT builds an engine by trying its parts "
            "out on the GPU that will run it.",
            _WHERE,
        )
    folder = cache.make_folder(_TIMINGS)
    with cache.writing(folder), tempfile.TemporaryFile(dir=folder):
        pass  # a folder that is there may be read-only
    return here


def engine_from_onnx(
    model: Path, plan: Path, network: Network, options: EngineOptions, phases: Phases | None = None
) -> None:
    """Build the engine of an ONNX file and write it to `plan`.

    TF32 is off, so that fp32 is fp32. What was learnt of this GPU's timings is kept for the next build.

    Raises:
        EngineError: TensorRT cannot build it; with TensorRT's first words on why.
    """
    trt = _tensorrt()
    from polygraphy.backend.trt import CreateConfig, EngineBytesFromNetwork, NetworkFromOnnxPath
    from polygraphy.exception import PolygraphyException

    kept = timing_cache(trt.__version__, require())
    workspace = options.workspace_mib
    with hold_signals() as waiting, _capture_output() as log:
        try:
            serialized = EngineBytesFromNetwork(
                NetworkFromOnnxPath(str(model), strongly_typed=True),
                config=CreateConfig(
                    tf32=False,
                    profiles=_profiles(network),
                    load_timing_cache=str(kept) if kept.is_file() else None,
                    memory_pool_limits={trt.MemoryPoolType.WORKSPACE: workspace << 20} if workspace else None,
                    builder_optimization_level=options.optimization_level,
                    hardware_compatibility_level={
                        "none": trt.HardwareCompatibilityLevel.NONE,
                        "same_compute_capability": trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY,
                        "ampere_plus": trt.HardwareCompatibilityLevel.AMPERE_PLUS,
                    }[options.hardware_compatible],
                    version_compatible=options.version_compatible,
                    progress_monitor=_monitor(trt, phases, waiting),
                ),
                save_timing_cache=str(kept),
            )()
        except PolygraphyException as error:
            if waiting:
                raise KeyboardInterrupt from error
            raise EngineError(
                f"TensorRT {trt.__version__} cannot build {network.name}: {_first_error(log, error)}.",
                f"Leave it to ONNX Runtime with --without-engine {network.name}, or report this.",
            ) from error
    plan.write_bytes(serialized)


@contextlib.contextmanager
def runner(plan: Path, network: Network) -> Iterator[Run]:
    """Yield an engine on the GPU, as a function from inputs by name to outputs by name."""
    trt = _tensorrt()
    from polygraphy.backend.trt import EngineFromBytes, TrtRunner
    from polygraphy.exception import PolygraphyException

    with contextlib.ExitStack() as stack:
        with _capture_output() as log:  # of the loading alone: who uses the engine may print
            try:
                active = stack.enter_context(TrtRunner(EngineFromBytes(plan.read_bytes())))
            except PolygraphyException as error:
                raise EngineError(
                    f"TensorRT {trt.__version__} cannot load its own {network.name}: {_first_error(log, error)}."
                ) from error

        def run(inputs: Arrays) -> Arrays:
            active.set_profile(_profile_for(network, inputs))
            # Its outputs lie in buffers that the next call writes over.
            return {name: np.array(value) for name, value in active.infer(inputs).items()}

        yield run


def timing_cache(tensorrt: str, here: machine.Machine) -> Path:
    """Where the timings of this version and GPU are kept; those of another are of no use."""
    gpu = here.gpus[0]
    name = f"{tensorrt}-{gpu.name}-{gpu.compute_capability}".lower()
    return cache.folder() / _TIMINGS / (re.sub(r"[^a-z0-9.]+", "-", name) + ".timings")


_TIMINGS = "tensorrt"
"""The folder of timings in the cache."""

_WHERE = "Build engines in the container that serves them (docker compose run export …), or export without --engine."


def _tensorrt() -> Any:
    """TensorRT's Python package. The bindings' wheel alone has it under another name; Polygraphy asks for this one."""
    import sys

    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # as nvidia-smi counts
    for name in ("tensorrt", "tensorrt_bindings"):
        try:
            trt = importlib.import_module(name)
        except ImportError:
            continue
        if int(trt.__version__.partition(".")[0]) not in machine.TENSORRT_MAJORS:
            raise EngineError(f"TensorRT {trt.__version__} is here; depthface builds engines with 10 and 11.", _WHERE)
        sys.modules.setdefault("tensorrt", trt)
        return trt
    raise EngineError("TensorRT's Python package is not here, or its libraries are not.", _WHERE)


def _profiles(network: Network) -> list[Any]:
    from polygraphy.backend.trt import Profile

    profiles = []
    for shapes in network.profiles:
        profile = Profile()
        for name, shape in shapes.items():
            profile.add(name, min=shape.min, opt=shape.opt, max=shape.max)
        profiles.append(profile)
    return profiles


def _profile_for(network: Network, inputs: Arrays) -> int:
    """Return the index of the first profile that these inputs fit."""
    for index, shapes in enumerate(network.profiles):
        if all(
            least <= side <= most
            for name, value in inputs.items()
            for least, side, most in zip(shapes[name].min, value.shape, shapes[name].max, strict=True)
        ):
            return index
    shapes_found = {name: value.shape for name, value in inputs.items()}
    raise EngineError(f"{network.name} has no profile for inputs of the shapes {shapes_found}.")


def _monitor(trt: Any, phases: Phases | None, waiting: Sequence[int]) -> Any:
    """TensorRT's progress, handed on; a build for which a signal is `waiting` is given up.

    It calls from within the build, which no exception may leave: a signal that is not held would be one.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if phases is not None:
                phases.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            goes_on = phases is None or phases.advance(phase_name, step)
            return goes_on and not waiting

        def phase_finish(self, phase_name: str) -> None:
            if phases is not None:
                phases.finish(phase_name)

    return Monitor()


@contextlib.contextmanager
def _capture_output() -> Iterator[io.StringIO]:
    """Keep what Polygraphy and TensorRT print, errors alone, in place of printing it."""
    from polygraphy.logger import G_LOGGER

    severity = G_LOGGER.module_severity
    G_LOGGER.module_severity = G_LOGGER.ERROR
    text = io.StringIO()
    try:
        with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
            yield text
    finally:
        G_LOGGER.module_severity = severity


def _first_error(log: io.StringIO, error: Exception) -> str:
    """TensorRT's own first error, which is the cause; Polygraphy's is only that there was one."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in log.getvalue().splitlines()]
    causes = [line.removeprefix("[E]").strip() for line in lines if line.startswith("[E]")]
    return (causes or [str(error).strip().partition("\n")[0]])[0].rstrip(".")
