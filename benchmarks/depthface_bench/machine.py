"""The machine that figures are of, and what ran on it: no host name and no path, only what the speed depends on."""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import get_args

import psutil

from depthface import machine
from depthface.contract import Precision
from depthface.cores import Cores
from depthface.spec import ModelCard

__all__ = ["Machine", "precisions", "revision", "this_machine", "versions"]

_SPEED_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8")

_NEEDS: dict[str, str] = {"bf16": "avx512_bf16", "int8": "avx512_vnni"}
"""What a CPU needs for a precision to be worth measuring; those that are not here run anywhere."""

_FOR_GPUS = ("fp16",)
"""On a CPU slower than fp32 (README): not measured unless it is asked for."""

_MEASURED = (
    *("depthface", "nvidia-pytriton", "onnxruntime", "openvino", "torch", "transformers", "insightface", "numpy"),
    *("opencv-python-headless", "pillow", "simplejpeg", "onnxruntime-gpu", "fastapi", "uvicorn"),
)


@dataclass(frozen=True)
class Machine:
    """What a figure depends on.

    Attributes:
        cores: that this process may use, its container's share of them.
        memory_gb: of the whole machine, 10⁹ bytes.
        flags: the vector instructions it has, of those that matter here.
        gpus: NVIDIA's names of them; often none.
    """

    cpu: str
    cores: int
    memory_gb: float
    flags: tuple[str, ...]
    is_virtual: bool
    system: str
    gpus: tuple[str, ...] = ()

    @property
    def slug(self) -> str:
        """The name of its results file."""
        name = " ".join([self.cpu, f"{self.cores} cores", *self.gpus])
        return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")

    @property
    def title(self) -> str:
        """How a table or a plot names it."""
        virtual = ["virtual"] if self.is_virtual else []
        return ", ".join([self.cpu, f"{self.cores} cores", f"{self.memory_gb:.0f} GB", *virtual, *self.gpus])


def this_machine() -> Machine:
    """Read it from Linux's /proc, and from nvidia-smi."""
    facts = dict(_facts(Path("/proc/cpuinfo").read_text()))
    flags = facts.get("flags", "").split()
    libc, libc_version = platform.libc_ver()
    return Machine(
        cpu=_plain(facts.get("model name", platform.machine()), facts) + _lack(facts),
        cores=Cores.found().count,
        memory_gb=round(psutil.virtual_memory().total / 1e9, 1),
        flags=tuple(flag for flag in _SPEED_FLAGS if flag in flags),
        is_virtual="hypervisor" in flags,
        system=f"{platform.system()} {libc} {libc_version}, Python {platform.python_version()}",
        gpus=tuple(gpu.name for gpu in machine.read().gpus),
    )


def versions() -> dict[str, str]:
    """Of all that is measured or has a hand in it."""
    found = {}
    for name in _MEASURED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    here = machine.read()
    if here.gpus:
        found |= {"TensorRT": here.tensorrt or "none", "NVIDIA's driver": here.gpus[0].driver}
    return found


def revision() -> str:
    """The git commit of this checkout, with `+changes` if it is not all that was run; `unknown` outside of git."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        # What the benchmark writes itself does not change what was run.
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)benchmarks/results")
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def precisions(cards: Collection[ModelCard], here: Machine) -> tuple[Precision, ...]:
    """Those that a card can be exported in, and that this machine is the place to measure."""
    return tuple(
        precision
        for precision in get_args(Precision)
        if any(precision in card.tolerances for card in cards)
        and precision not in _FOR_GPUS
        and _NEEDS.get(precision, "") in ("", *here.flags)
    )


def _plain(name: str, facts: dict[str, str]) -> str:
    """The model's name; where a virtual machine hides it, with what the processor says of its make."""
    name = re.sub(r"\(R\)|\(TM\)|CPU|Processor|@.*", "", name)
    name = " ".join(name.split())
    if re.search(r"\d", name):
        return name
    return f"{name} (family {facts.get('cpu family', '?')}, model {facts.get('model', '?')})"


def _lack(facts: dict[str, str]) -> str:
    """What a virtual machine hides of an Intel: for what is measured here, that is another processor."""
    flags = facts.get("flags", "").split()
    has_lost_amx = facts.get("vendor_id") == "GenuineIntel" and "avx512_fp16" in flags and "amx_bf16" not in flags
    return " without AMX" if has_lost_amx else ""


def _facts(text: str) -> Iterable[tuple[str, str]]:
    """`key: value` of the first processor."""
    for line in text.split("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        yield key.strip(), value.strip()
