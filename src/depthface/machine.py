"""What of this machine an export depends on: its packages, its GPUs, and for an engine its TensorRT."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["CUDA_OPTIONS", "CUDA_PROVIDER", "TENSORRT_MAJORS", "Gpu", "Machine", "gpus", "installed", "read"]

TENSORRT_MAJORS = (11, 10)
"""The major versions of TensorRT that depthface builds with, the newest first."""

CUDA_PROVIDER = "CUDAExecutionProvider"
CUDA_OPTIONS = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
"""ONNX Runtime's name of CUDA, and how every session of ours has it. By itself it multiplies fp32 in TF32, whose ten
bits of fraction no fp32 of a card holds; and it searches for convolutions, and finds slower ones than cuDNN's
heuristics do."""

_REPLACED_BY = {"onnxruntime": "onnxruntime-gpu"}
"""A package that another may stand for, with the same files: there is one of the two at a time."""

_TIMEOUT_S = 60.0
"""The first call after a boot wakes the driver, which can take half a minute on a machine with many GPUs."""


@dataclass(frozen=True)
class Gpu:
    """One GPU, as `nvidia-smi` names it: `NVIDIA H200`, `9.0`, `570.124.06`."""

    name: str
    compute_capability: str
    driver: str


@dataclass(frozen=True)
class Machine:
    """A machine's TensorRT, `major.minor.patch`, None where there is none; and its GPUs, often none."""

    tensorrt: str | None
    gpus: tuple[Gpu, ...]


def installed(package: str) -> str | None:
    """Return the version of a package, or of the one that stands for it here; None if there is neither."""
    for name in (package, _REPLACED_BY.get(package, package)):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def read() -> Machine:
    """Return this machine, as far as this process may see it; loads TensorRT's library, if there is one."""
    return Machine(_tensorrt(), gpus())


def gpus() -> tuple[Gpu, ...]:
    """Return the GPUs that CUDA_VISIBLE_DEVICES allows. NVIDIA's container toolkit brings `nvidia-smi` with each."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible == "":
        return ()
    command = ["nvidia-smi", "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader"]
    if visible is not None:
        command.append(f"--id={visible}")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines()]
    return tuple(Gpu(*row) for row in rows if len(row) == 3)


def _tensorrt() -> str | None:
    """Return the version of the library that will run engines, asked of the library: Triton has no Python package."""
    wheel = importlib.util.find_spec("tensorrt_libs")
    folders = [None, *(wheel.submodule_search_locations or [] if wheel else [])]
    for major in TENSORRT_MAJORS:
        name = f"libnvinfer.so.{major}"
        for folder in folders:
            try:
                library = ctypes.CDLL(str(Path(folder, name)) if folder else name)
            except OSError:
                continue
            # NvInferVersion.h since 10.0: NV_TENSORRT_VERSION = major · 10000 + minor · 100 + patch.
            number = int(library.getInferLibVersion())
            return f"{number // 10000}.{number // 100 % 100}.{number % 100}"
    return None
