"""What is counted and measured of networks and machines."""

from __future__ import annotations

import re
import socket
from dataclasses import asdict

import numpy as np
import pytest

from depthface.families import card_named
from depthface_bench import limits, machine
from depthface_export import attention


@pytest.mark.parametrize(("width", "gflop"), [(518, 115.3), (784, 201.2)])
def test_operations_of_the_depth_network(true_repository, width, gflop):
    """As counted by others: docs of Depth Anything V2 Small at 518×518, and at 518×784."""
    model = true_repository / "depth_anything_v2_small_network" / "1" / "model.onnx"
    counted, outputs = limits.counted(model, {"pixels": np.zeros((1, 518, width, 3), np.uint8)}, ["depth"])
    assert counted == pytest.approx(gflop, rel=0.002)
    assert outputs["depth"].shape == (1, 518, width)


def test_attention_in_one_node_is_counted_as_its_operators_are(true_repository, tmp_path):
    model = true_repository / "depth_anything_v2_small_network" / "1" / "model.onnx"
    fused = tmp_path / "fused.onnx"
    fused.write_bytes(model.read_bytes())
    attention.fuse(fused)
    (expected, _), (counted, _) = (
        limits.counted(path, {"pixels": np.zeros((2, 140, 182, 3), np.uint8)}, ["depth"]) for path in (model, fused)
    )
    assert counted == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_library_s_matrix_product_is_a_rate(precision):
    rates = limits.gemm_gflop_s(precision, 1, 1)
    assert set(rates) == {"torch", "OpenVINO"}
    assert all(0.05 < rate < 1e5 for (rate,) in rates.values())  # of a busy machine too; only another unit is outside


def test_memory_has_a_rate():
    (bandwidth,) = limits.bandwidth_gb_s(1, 1)
    assert 0.05 < bandwidth < 1e4


def test_the_machines_own_tail_is_of_pieces_as_long_as_a_request(monkeypatch):
    """Of products that would take 2 s and, of half the side, 0.25 s, a second is four of the smaller."""
    product_s, multiplied = iter([2.0, 0.25]), []
    monkeypatch.setattr(limits, "_best_s", lambda _: next(product_s))
    monkeypatch.setattr(limits.torch, "mm", lambda a, b: multiplied.append((*a.shape, *b.shape)))
    times = limits.products_ms(1, 1.0, 3)
    assert len(times) == 3
    assert all(0 < one < 60_000 for one in times)
    assert multiplied == 3 * 4 * [4 * (limits._SIDE // 2,)]


def test_the_machine_is_named_by_what_matters():
    here = machine.this_machine()
    assert re.fullmatch(r"[a-z0-9-]+-\d+-cores(-nvidia-[a-z0-9-]+)?", here.slug)
    assert here.cores >= 1
    assert socket.gethostname() not in str(asdict(here))
    assert {"depthface", "onnxruntime", "torch"} <= set(machine.versions())


def test_precisions_are_those_this_cpu_is_for():
    cards = [card_named("depth_anything_v2_small"), card_named("buffalo_l")]
    bare = machine.Machine("x", 2, 8.0, (), False, "")
    assert machine.precisions(cards, bare)[0] == "fp32"
    assert "bf16" not in machine.precisions(cards, bare)
    assert "fp16" not in machine.precisions(cards[:1], bare)


def test_a_xeon_whose_amx_is_hidden_is_another_processor():
    flags = "avx512f avx512_bf16 avx512_fp16"
    assert machine._lack({"vendor_id": "GenuineIntel", "flags": flags}) == " without AMX"
    assert machine._lack({"vendor_id": "GenuineIntel", "flags": f"{flags} amx_bf16"}) == ""
    assert machine._lack({"vendor_id": "AuthenticAMD", "flags": flags}) == ""
