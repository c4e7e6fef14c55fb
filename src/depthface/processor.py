"""What this machine's processor is quick at."""

from __future__ import annotations

from functools import cache
from pathlib import Path

__all__ = ["multiplies_bf16"]


@cache
def multiplies_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether it multiplies matrices in bf16 more quickly than in fp32.

    By AMX it does so two to five times as quickly, by AMD's AVX512-BF16 twice. By Intel's AVX512-BF16 alone, which is
    what is left where a virtual machine hides AMX, it takes twice as long as in fp32, in OpenVINO and in torch
    (docs/speed.md).
    """
    try:
        words = frozenset(cpuinfo.read_text().split())
    except OSError:  # not Linux
        return False
    return "amx_bf16" in words or ("avx512_bf16" in words and "AuthenticAMD" in words)
