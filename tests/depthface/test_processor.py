"""Which processors are quick at bf16."""

from __future__ import annotations

import pytest

from depthface.processor import multiplies_bf16


@pytest.mark.parametrize(
    ("vendor", "flags", "is_quick"),
    [
        ("GenuineIntel", "avx512f avx512_bf16 amx_bf16 amx_tile amx_int8", True),
        ("GenuineIntel", "avx512f avx512_bf16 avx512_fp16", False),
        ("AuthenticAMD", "avx512f avx512_bf16", True),
        ("AuthenticAMD", "avx2", False),
    ],
)
def test_it_goes_by_amx_or_by_amds_own(tmp_path, vendor, flags, is_quick):
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: fpu {flags} sse4_2\n")
    assert multiplies_bf16(path) == is_quick


def test_where_there_is_no_list_it_is_not(tmp_path):
    assert not multiplies_bf16(tmp_path / "cpuinfo")
