"""Which processors are quick at bf16, and which are exact at int8."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from depthface.processor import has_vnni, multiplies_bf16


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


@pytest.mark.parametrize("flag", ["avx512_vnni", "avx_vnni", "amx_int8"])
def test_int8_is_exact_by_one_of_three(tmp_path, flag):
    path = tmp_path / "cpuinfo"
    path.write_text(f"flags\t\t: fpu avx2 {flag} sse4_2\n")
    assert has_vnni(path)
    path.write_text("flags\t\t: fpu avx2 avx512f sse4_2\n")
    assert not has_vnni(path)


# Of 64 products of 255 and 127 each two are past the end of int16.
ADDED_UP = """
import numpy as np
from onnx import TensorProto, helper, numpy_helper
from depthface.openvino import openvino, options
from depthface.processor import has_vnni
held = {"one": np.float32(1), "nil": np.uint8(0), "w": np.full((64, 16), 127, np.int8), "nils": np.zeros(16, np.int8),
        "ones": np.ones(16, np.float32)}
nodes = [
    helper.make_node("QuantizeLinear", ["x", "one", "nil"], ["q"]),
    helper.make_node("DequantizeLinear", ["q", "one", "nil"], ["rounded"]),
    helper.make_node("DequantizeLinear", ["w", "ones", "nils"], ["weights"], axis=1),
    helper.make_node("MatMul", ["rounded", "weights"], ["y"]),
]
graph = helper.make_graph(
    nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 16])],
    [numpy_helper.from_array(np.asarray(value), name) for name, value in held.items()],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
core = openvino.Core()
compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", options(is_bf16=False))
y = compiled({"x": np.full((32, 64), 255, np.float32)})[0]
print(has_vnni(), bool((y == 64 * 255 * 127).all()))
"""


@pytest.mark.parametrize("cap", [None, "AVX2", "AVX512_CORE"])
def test_it_says_what_openvino_computes(cap):
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_MAX_CPU_ISA")}
    capped = {} if cap is None else {"DNNL_MAX_CPU_ISA": cap}
    done = subprocess.run(
        [sys.executable, "-c", ADDED_UP], env=environment | capped, capture_output=True, text=True, check=True
    )
    said, is_exact = done.stdout.split()
    assert said == is_exact
    assert cap is None or is_exact == "False"
