"""Small seeded networks with the inputs, outputs and node names of InsightFace's files, and where the genuine ones are.

Genuine weights are for research only and never part of the project: `DEPTHFACE_WEIGHTS` names a folder of them, and
`DEPTHFACE_PHOTOS` (or `photos` in its parent) photographs. Tests that need either are skipped without.
"""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from skimage import data

PHOTO = data.astronaut()
"""A portrait, `(512, 512, 3) uint8 RGB`."""

FACE_BOX = np.array([176.3, 64.2, 271.8, 186.4], np.float32)
FACE_KEYPOINTS = np.array([[201.5, 113.2], [246.1, 109.4], [225.7, 135.9], [208.3, 156.8], [247.9, 153.1]], np.float32)


def weights(name: str) -> Path:
    """A genuine file, or the test is skipped."""
    folder = os.environ.get("DEPTHFACE_WEIGHTS")
    if not folder:
        pytest.skip("DEPTHFACE_WEIGHTS names no folder with InsightFace's files")
    for path in (Path(folder) / name, Path(folder) / "insightface" / name):
        if path.is_file():
            return path
    pytest.skip(f"DEPTHFACE_WEIGHTS has no {name}")


def photos() -> list[np.ndarray]:
    """All photographs that there are, `(H, W, 3) uint8 RGB`."""
    found = os.environ.get("DEPTHFACE_PHOTOS")
    weights_folder = Path(os.environ.get("DEPTHFACE_WEIGHTS", "."))
    nearby = [folder / "photos" for folder in (weights_folder.parent, weights_folder.parent.parent)]
    folders = [Path(found)] if found else nearby
    paths = [path for folder in folders for path in sorted(folder.glob("*")) if path.suffix in (".jpg", ".png")]
    return [PHOTO, *(np.ascontiguousarray(cv2.imread(str(path))[..., ::-1]) for path in paths)]


def bgr(photo: np.ndarray) -> np.ndarray:
    """What insightface reads: `cv2.imread`'s order."""
    return np.ascontiguousarray(photo[..., ::-1])


def crowd(photo: np.ndarray, box: np.ndarray, side: int, across: int) -> np.ndarray:
    """A picture of `across` × `across` copies of one face, each `side` pixels, with a little noise."""
    x1, y1, x2, y2 = box.astype(int)
    margin = (x2 - x1) // 12
    face = photo[max(y1 - margin, 0) : y2 + margin, max(x1 - margin, 0) : x2 + margin]
    tile = cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA)
    picture = np.tile(tile, (across, across, 1)).astype(int)
    noise = np.random.default_rng(0).integers(-8, 9, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


class Builder:
    """Nodes and seeded weights, one after the other."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def hold(self, array: np.ndarray) -> str:
        name = f"w{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def node(self, op: str, *inputs: str, name: str = "", output: str = "", **attributes: object) -> str:
        output = output or f"t{len(self.nodes)}"
        name = name or f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [output], name, **attributes))
        return output

    def conv(self, x: str, channels: int, out: int, kernel: int, stride: int = 1, gain: float = 1.0) -> str:
        scale = gain / np.sqrt(channels * kernel**2)
        weight = self.hold((self.random.normal(size=(out, channels, kernel, kernel)) * scale).astype(np.float32))
        bias = self.hold((self.random.normal(size=out) * 0.1).astype(np.float32))
        pad = kernel // 2
        return self.node("Conv", x, weight, bias, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4)

    def dense(self, x: str, columns: int, out: int, output: str = "", gain: float = 1.0) -> str:
        matrix = (self.random.normal(size=(out, columns)) * gain / np.sqrt(columns)).astype(np.float32)
        bias = (self.random.normal(size=out) * 0.1).astype(np.float32)
        return self.node("Gemm", x, self.hold(matrix), self.hold(bias), output=output, transB=1)

    def model(self, inputs: dict[str, list], outputs: dict[str, list], opset: int = 11, ir: int = 6) -> onnx.ModelProto:
        fed = [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in inputs.items()]
        if ir < 4:  # initializers are inputs too, as MXNet's exporter writes them
            fed += [helper.make_tensor_value_info(i.name, i.data_type, list(i.dims)) for i in self.initializers]
        given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in outputs.items()]
        graph = helper.make_graph(self.nodes, "seeded", fed, given, self.initializers)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


def regressor(side: int, columns: int, first: str, seed: int = 0, gain: float = 1.0) -> onnx.ModelProto:
    """A crop to a row of numbers: 2d106det, 1k3d68, genderage or ArcFace by side and columns.

    Args:
        first: `bn_data`, `minus` (both normalise in the graph, as files from MXNet do) or `conv`.
    """
    b = Builder(seed)
    x = "data"
    if first == "bn_data":
        ones, zeros = np.ones(3, np.float32), np.zeros(3, np.float32)
        half = np.full(3, 127.5, np.float32)
        held = [b.hold(each) for each in (ones, zeros, half, np.full(3, 128.0**2, np.float32))]
        x = b.node("BatchNormalization", x, *held, name="bn_data", epsilon=1e-5)
    elif first == "minus":
        x = b.node("Sub", x, b.hold(np.array([127.5], np.float32)), name="_minusscalar0")
        x = b.node("Mul", x, b.hold(np.array([1 / 128], np.float32)), name="_mulscalar0")
    x = b.node("Relu", b.conv(x, 3, 16, 3, 4))
    x = b.node("Relu", b.conv(x, 16, 16, 3, 4))
    cells = 16 * int(np.ceil(side / 16)) ** 2
    x = b.node("Reshape", x, b.hold(np.array([1, cells], np.int64)))  # a batch of one for good, unless it is rewritten
    b.dense(x, cells, columns, output="fc1", gain=gain)
    mxnet = first != "conv"
    batch = ["None" if mxnet else 1, 3, side, side]
    return b.model({"data": batch}, {"fc1": [1, columns]}, opset=9 if mxnet else 11, ir=3 if mxnet else 6)


def swapper(seed: int = 0) -> onnx.ModelProto:
    """A crop and a latent to a crop, with the map of embeddings as the last, unused initializer."""
    b = Builder(seed)
    x = b.node("Relu", b.conv("target", 3, 8, 3, 2))
    style = b.dense("source", 512, 8, gain=8)
    style = b.node("Reshape", style, b.hold(np.array([1, 8, 1, 1], np.int64)))
    x = b.node("Mul", x, style)
    scales = b.hold(np.array([1, 1, 2, 2], np.float32))
    x = b.node("Resize", x, b.hold(np.zeros(0, np.float32)), scales, mode="linear")
    x = b.conv(x, 8, 3, 3, gain=2)
    x = b.node("Add", x, b.hold(np.array([0.5], np.float32)), output="output")
    b.hold((b.random.normal(size=(512, 512)) / 20).astype(np.float32))
    return b.model({"target": [1, 3, 128, 128], "source": [1, 512]}, {"output": [1, 3, 128, 128]})


def scrfd(seed: int = 0, keypoints: bool = True, equal_scores: bool = False) -> onnx.ModelProto:
    """A detector that finds nonsense, in the shape of the genuine ones: heads for one photo, sizes through Shape."""
    b = Builder(seed)
    x = b.node("Relu", b.conv("input.1", 3, 8, 3, 4))
    maps = []
    for _ in range(3):
        x = b.node("Relu", b.conv(x, 8, 8, 3, 2, gain=2))
        maps.append(x)
    two, four = b.hold(np.array([2], np.int64)), b.hold(np.array([4], np.int64))
    zero = b.hold(np.array([0], np.int64))
    for level in (1, 0):
        hw = b.node("Slice", b.node("Shape", maps[level]), two, four, zero)
        nc = b.node("Slice", b.node("Shape", maps[level + 1]), zero, two, zero)
        size = b.node("Concat", nc, hw, axis=0)
        none = b.hold(np.zeros(0, np.float32))
        up = b.node(
            "Resize", maps[level + 1], none, none, size,
            mode="nearest", nearest_mode="floor", coordinate_transformation_mode="asymmetric",
        )  # fmt: skip
        maps[level] = b.node("Add", maps[level], up)
    outputs: dict[str, list] = {}
    for what, channels in (("score", 1), ("bbox", 4), ("kps", 10))[: 3 if keypoints else 2]:
        columns = b.hold(np.array([-1, channels], np.int64))
        for x, stride in zip(maps, (8, 16, 32), strict=True):
            head = b.conv(x, 8, 2 * channels, 3, gain=0.0 if equal_scores and what == "score" else 3)
            if what == "score" and equal_scores:  # 1 of sigmoid(0.5), at all anchors
                head = b.node("Mul", head, b.hold(np.zeros(1, np.float32)))
                head = b.node("Add", head, b.hold(np.array([0.5], np.float32)))
            if what == "bbox":
                head = b.node("Add", b.node("Relu", head), b.hold(np.array([1.25], np.float32)))
            head = b.node("Transpose", head, perm=[2, 3, 0, 1])
            name = f"{what}_{stride}"
            head = b.node("Reshape", head, columns, output="" if what == "score" else name)
            if what == "score":
                b.node("Sigmoid", head, output=name)
            outputs[name] = [2 * (640 // stride) ** 2, channels]
    return b.model({"input.1": [1, 3, "?", "?"]}, outputs)
