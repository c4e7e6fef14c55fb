"""What this machine's processor is quick at, and what it is exact at."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

__all__ = ["VNNI", "has_vnni", "multiplies_bf16"]

VNNI = frozenset(("avx512_vnni", "avx_vnni", "amx_int8"))
"""Flags of processors that add products of int8 up in int32."""

_CPUINFO = Path("/proc/cpuinfo")

_CAPS_WITHOUT = frozenset(("SSE41", "AVX", "AVX2", "AVX512_CORE"))
"""Values of oneDNN's variable for which it takes no VNNI (oneDNN developer guide, CPU dispatcher control)."""


def has_vnni(cpuinfo: Path = _CPUINFO) -> bool:
    """Return whether products of int8 are added up exactly.

    Other x86 processors add each two in int16 (VPMADDUBSW) and cut off what is past its ends: of Depth Anything V2
    Small, with random weights, the mean error is then 1.3e-2 in place of 5.9e-3. Weights of 7 bits would not be cut
    off, and are further off everywhere: 2.0e-2.
    """
    cap = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
    return cap.upper() not in _CAPS_WITHOUT and not VNNI.isdisjoint(_words(cpuinfo))


@cache
def multiplies_bf16(cpuinfo: Path = _CPUINFO) -> bool:
    """Return whether it multiplies matrices in bf16 more quickly than in fp32.

    By AMX it does so two to five times as quickly, by AMD's AVX512-BF16 twice. By Intel's AVX512-BF16 alone, which is
    what is left where a virtual machine hides AMX, it takes twice as long as in fp32, in OpenVINO and in torch
    (docs/speed.md).
    """
    words = _words(cpuinfo)
    return "amx_bf16" in words or ("avx512_bf16" in words and "AuthenticAMD" in words)


def _words(cpuinfo: Path) -> frozenset[str]:
    try:
        return frozenset(cpuinfo.read_text().split())
    except OSError:  # not Linux
        return frozenset()
