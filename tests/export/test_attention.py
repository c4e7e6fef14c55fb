"""Attention as one node: the same numbers, where it is attention and nothing else, and TensorRT gets none of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from fixtures import engines
from fixtures.clip import TINY as CLIP
from fixtures.exporting import random_sources
from onnx import helper

from depthface.spec import EngineOptions
from depthface_export import attention
from depthface_export import onnx as onnx_stage
from depthface_export.job import Engines

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 112, 140, 3), np.uint8)


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def depth_of(model: onnx.ModelProto) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["depth"], {"pixels": PIXELS})[0]


@pytest.fixture(scope="module")
def in_operators(tiny, tmp_path_factory) -> onnx.ModelProto:
    """A tiny depth network in fp16."""
    path = tmp_path_factory.mktemp("half") / "model.onnx"
    onnx_stage.onnx_from_source(random_sources(tiny, "fp16")[tiny.networks[0].name], tiny.networks[0], path)
    return onnx.load(path)


def test_each_attention_becomes_one_node_that_computes_the_same(in_operators):
    before = operators(in_operators)
    fused = attention.fused(in_operators)
    onnx.checker.check_model(fused)
    after = operators(fused)
    assert before["Softmax"] == after["MultiHeadAttention"] > 0
    assert after["Softmax"] == 0
    assert before["MatMul"] - after["MatMul"] == 2 * before["Softmax"]
    expected, got = depth_of(in_operators), depth_of(fused)
    assert np.abs(expected - got).max() < 0.01 * expected.std()
    assert operators(in_operators) == before  # a copy was changed


def test_what_is_fused_already_stays_as_it_is(in_operators):
    once = attention.fused(in_operators)
    assert attention.fused(once) == once


@pytest.mark.parametrize("kind", ["Add", "Mul"])
def test_with_a_mask_or_a_scale_of_its_own_it_stays_as_it_is(kind, in_operators):
    model = onnx.ModelProto()
    model.CopyFrom(in_operators)
    nodes = list(model.graph.node)
    places = [index for index, node in enumerate(nodes) if node.op_type == "Softmax"]
    for place in reversed(places):
        softmax = nodes[place]
        model.graph.node.insert(
            place, helper.make_node(kind, [softmax.input[0], softmax.input[0]], [f"{softmax.name}/other"])
        )
        softmax.input[0] = f"{softmax.name}/other"
    assert attention.fused(model) == model


def test_a_file_in_fp16_is_served_so_and_one_in_fp32_is_not(tiny, tmp_path, run):
    found = {}
    for precision in ("fp16", "fp32"):
        run(tiny, tmp_path / precision, precision=precision)
        model = onnx.load(tmp_path / precision / tiny.networks[0].name / "1" / "model.onnx")
        found[precision] = operators(model)["MultiHeadAttention"] > 0
    assert found == {"fp16": True, "fp32": False}


def test_tensorrt_is_given_what_onnx_knows(tiny, tmp_path, run, monkeypatch):
    engines.replace_tensorrt(monkeypatch)
    run(tiny, tmp_path, precision="fp16", engines=Engines(EngineOptions(), phases=engines.NoPhases()))
    model = onnx.load(tmp_path / tiny.networks[0].name / "1" / "model.onnx")
    assert {node.domain for node in model.graph.node} == {""}


def test_a_softmax_in_fp32_between_products_in_fp16_is_one_too(tmp_path: Path):
    """As `transformers` has CLIP's."""
    network = next(one for one in CLIP.networks if "image" in one.name)
    onnx_stage.onnx_from_source(random_sources(CLIP, "fp16")[network.name], network, tmp_path / "model.onnx")
    found = operators(attention.fused(onnx.load(tmp_path / "model.onnx", load_external_data=False)))
    assert (found["MultiHeadAttention"], found["Softmax"]) == (2, 0)
