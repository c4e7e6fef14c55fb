"""The published InsightFace networks with seeded random weights: right for plumbing, sizes and speed, blind as faces.

Written straight as ONNX, in the form of the published files: opset 11, batch normalisation folded into convolutions
where PyTorch's exporter folds it, the published inputs and outputs. `insightface` loads each and takes it for the
task, and the input range, that it takes the published one for.

How close they are. Parameters are counted in float32 values, of the published files as file size / 4.

| kind | parameters | published | |
|---|---|---|---|
| det_500m | 626 k | 626 k | exact: MobileNet 16 to 288, PAFPN 16, towers of two separable convolutions of 64 |
| det_10g | 4.23 M | 4.23 M | to 0.1 %: ResNet-e (3, 4, 2, 3) × (56, 88, 88, 224), PAFPN 56, towers of three of 80 |
| w600k_r50 | 43.6 M | 43.6 M | exact: IResNet-50 of insightface's arcface_torch |
| w600k_mbf | 3.33 M | 3.40 M | MobileFaceNet of arcface_torch; blocks (2, 8, 12, 4), scale 2 inferred from the size |
| 2d106det | 0.9 M | 1.26 M | approximate: MobileNet × 0.5, average, fully connected |
| genderage | 0.2 M | 0.33 M | approximate: MobileNet × 0.25, average, fully connected |
| 1k3d68 | 32.4 M | 35.9 M | approximate: IResNet-50, average, fully connected |
| inswapper_128 | 138.5 M | 138.6 M | approximate: six AdaIN blocks of 1024 channels at 32×32 |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, get_args

import numpy as np
import onnx

from depthface.families.insightface import facts
from depthface_standins.insightface.layers import Layers
from depthface_standins.insightface.scenes import KEYPOINTS

__all__ = ["KINDS", "Kind", "random_model"]

Kind = Literal["1k3d68", "2d106det", "det_10g", "det_500m", "genderage", "inswapper_128", "w600k_mbf", "w600k_r50"]

KINDS: tuple[Kind, ...] = get_args(Kind)

_BRANCH_GAIN = 0.1  # of the variance that a residual branch adds: without, fifty layers overflow


def random_model(kind: Kind, seed: int = 0) -> onnx.ModelProto:
    """One network with random weights; the same `seed` gives the same file.

    Returns:
        det_*: `input.1` `[1, 3, H, W]` to nine outputs (scores, boxes, keypoints at strides 8, 16, 32);
        w600k_*: `input.1` `[N, 3, 112, 112]` to `[N, 512]`; 1k3d68, 2d106det: `data` `[N, 3, 192, 192]` to `[N, 3309]`
        and `[N, 212]`; genderage: `data` `[N, 3, 96, 96]` to `[N, 3]`; inswapper_128: `target` `[1, 3, 128, 128]` and
        `source` `[1, 512]` to `output` `[1, 3, 128, 128]`, with the unused `emap` `[512, 512]` as last initializer.

    Raises:
        ValueError: there is no such kind.
    """
    if kind not in _BUILDERS:
        raise ValueError(f"There is no architecture {kind!r}. Choose one of: {', '.join(KINDS)}.")
    return _BUILDERS[kind](Layers(seed))


# Recognition.


def _w600k_r50(net: Layers) -> onnx.ModelProto:
    x = _iresnet50(net, "input.1")
    flat = net.graph.node("Flatten", [net.norm(x, 512)], axis=1)
    net.norm(net.fully(flat, (512 * 7 * 7, 512)), 512, "683")
    return _recognizer(net)


def _iresnet50(net: Layers, x: str) -> str:
    """arcface_torch backbones/iresnet.py `iresnet50`, up to its last stage: 1/16 of the size, 512 channels."""
    x = net.prelu(net.conv(x, (3, 64)), 64)
    inside = 64
    for planes, blocks in zip((64, 128, 256, 512), (3, 4, 14, 3), strict=True):
        for block in range(blocks):
            stride = 2 if block == 0 else 1
            y = net.conv(net.norm(x, inside), (inside, planes))
            y = net.conv(net.prelu(y, planes), (planes, planes), stride=stride, gain=_BRANCH_GAIN)
            if block == 0:
                x = net.conv(x, (inside, planes), kernel=1, stride=2, gain=1.0)
            x, inside = net.add(y, x), planes
    return x


def _w600k_mbf(net: Layers) -> onnx.ModelProto:
    """arcface_torch backbones/mobilefacenet.py `MobileFaceNet`: blocks (2, 8, 12, 4), scale 2."""

    def block(x: str, channels: tuple[int, int], kernel: int = 1, stride: int = 1, groups: int = 1) -> str:
        return net.prelu(net.conv(x, channels, kernel, stride, groups=groups), channels[1])

    def bottleneck(x: str, channels: tuple[int, int], inner: int, stride: int = 1, gain: float = 1.0) -> str:
        x = block(x, (channels[0], inner))
        x = block(x, (inner, inner), 3, stride, groups=inner)
        return net.conv(x, (inner, channels[1]), 1, gain=gain)

    x = block("input.1", (3, 128), 3, 2)
    for _ in range(2):
        x = net.add(x, bottleneck(x, (128, 128), 128, gain=_BRANCH_GAIN))
    stages: Sequence[tuple[tuple[int, int], int, int, int]] = (
        ((128, 128), 128, 8, 128),
        ((128, 256), 256, 12, 256),
        ((256, 256), 512, 4, 256),
    )
    for channels, inner_down, repeats, inner in stages:
        x = bottleneck(x, channels, inner_down, stride=2)
        for _ in range(repeats):
            x = net.add(x, bottleneck(x, (channels[1], channels[1]), inner, gain=_BRANCH_GAIN))
    x = block(x, (256, 512))
    x = net.conv(x, (512, 512), 7, pad=0, groups=512, gain=1.0)
    flat = net.graph.node("Flatten", [x], axis=1)
    net.norm(net.fully(flat, (512, 512)), 512, "683")
    return _recognizer(net)


def _recognizer(net: Layers) -> onnx.ModelProto:
    # The published files say [1, 512], whatever N is.
    return net.graph.model("random_arcface", {"input.1": ("None", 3, 112, 112)}, {"683": (1, 512)})


# Detection.

_HEADS = {"score": ("cls", 1), "bbox": ("reg", 4), "kps": ("kps", 10)}


def _det_500m(net: Layers) -> onnx.ModelProto:
    x = net.relu(net.conv("input.1", (3, 16), stride=2))
    x = net.separable(x, (16, 16))
    levels = []
    inside = 16
    for planes, blocks in zip((40, 72, 152, 288), (2, 3, 2, 6), strict=True):
        for block in range(blocks):
            x = net.separable(x, (inside, planes), stride=2 if block == 0 else 1)
            inside = planes
        levels.append(x)

    def tower(x: str) -> str:
        return net.separable(net.separable(x, (16, 64)), (64, 64))

    maps = zip(levels[1:], (72, 152, 288), strict=True)
    return _scrfd(net, maps, neck=16, tower=tower, features=64, score_gain=60.0)


def _det_10g(net: Layers) -> onnx.ModelProto:
    x = "input.1"
    for channels, stride in (((3, 28), 2), ((28, 28), 1), ((28, 56), 1)):
        x = net.relu(net.conv(x, channels, stride=stride))
    x = net.graph.node("MaxPool", [x], kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2])
    levels = []
    inside = 56
    for stage, (planes, blocks) in enumerate(zip((56, 88, 88, 224), (3, 4, 2, 3), strict=True)):
        for block in range(blocks):
            stride = 2 if stage and block == 0 else 1
            y = net.relu(net.conv(x, (inside, planes), stride=stride))
            y = net.conv(y, (planes, planes), gain=_BRANCH_GAIN)
            if stride == 2:
                x = net.graph.node("AveragePool", [x], ceil_mode=1, kernel_shape=[2, 2], pads=[0] * 4, strides=[2, 2])
                x = net.conv(x, (inside, planes), kernel=1, gain=1.0)
            x, inside = net.relu(net.add(y, x)), planes
        levels.append(x)

    def tower(x: str) -> str:
        for channels in ((56, 80), (80, 80), (80, 80)):
            x = net.relu(net.conv(x, channels))
        return x

    maps = zip(levels[1:], (88, 88, 224), strict=True)
    return _scrfd(net, maps, neck=56, tower=tower, features=80, score_gain=20.0)


def _scrfd(
    net: Layers,
    levels: Iterable[tuple[str, int]],
    *,
    neck: int,
    tower: Callable[[str], str],
    features: int,
    score_gain: float,
) -> onnx.ModelProto:
    """Neck (PAFPN: top down, then bottom up) and heads of SCRFD, with a tower of their own for each stride.

    Args:
        levels: the backbone's maps of the three strides, and their channels.
    """
    names = [f"neck.lateral_convs.{i}.conv" for i in range(3)]
    merged = [net.conv(x, (c, neck), 1, gain=1.0, name=n) for (x, c), n in zip(levels, names, strict=True)]
    for i in (1, 0):
        merged[i] = net.add(merged[i], net.graph.upsample_like(merged[i + 1], merged[i]))
    paths = [net.conv(x, (neck, neck), gain=1.0, name=f"neck.fpn_convs.{i}.conv") for i, x in enumerate(merged)]
    for i in (0, 1):
        down = net.conv(paths[i], (neck, neck), stride=2, gain=1.0, name=f"neck.downsample_convs.{i}.conv")
        paths[i + 1] = net.add(paths[i + 1], down)
    for i in (0, 1):
        paths[i + 1] = net.conv(paths[i + 1], (neck, neck), gain=1.0, name=f"neck.pafpn_convs.{i}.conv")

    # Weak last layers over plausible answers: few anchors pass the threshold, and their boxes and keypoints are faces'.
    biases = {"score": [-3.0], "bbox": [2.0] * 4, "kps": (2.0 * KEYPOINTS).ravel().tolist()}
    outputs: dict[str, dict[str, Sequence[int | str]]] = {kind: {} for kind in _HEADS}
    for path, stride in zip(paths, (8, 16, 32), strict=True):
        x = tower(path)
        for kind, (layer, width) in _HEADS.items():
            name, final = f"bbox_head.stride_{layer}.({stride}, {stride})", f"{kind}_{stride}"
            gain = score_gain if kind == "score" else 0.02
            raw = net.conv(
                x, (features, 2 * width), gain=gain, bias=biases[kind] * 2, contrast=kind == "score", name=name
            )
            net.graph.scrfd_output(raw, width, final, sigmoid=kind == "score")
            outputs[kind][final] = (2 * (640 // stride) ** 2, width)
    declared = outputs["score"] | outputs["bbox"] | outputs["kps"]
    return net.graph.model("random_scrfd", {"input.1": (1, 3, "?", "?")}, declared)


# Landmarks and attributes.


def _mobilenet(net: Layers, x: str, width: float) -> tuple[str, int]:
    """MobileNet (Howard et al., 2017) of a width: 1/32 of the size, and its channels."""

    def scaled(channels: int) -> int:
        return int(channels * width)

    x = net.relu(net.conv(x, (3, scaled(32)), stride=2))
    inside = scaled(32)
    plan = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
    for planes, stride in plan:
        x = net.separable(x, (inside, scaled(planes)), stride)
        inside = scaled(planes)
    return x, inside


def _normalised(net: Layers) -> str:
    """Return the graph's own normalisation, by the names from which InsightFace concludes that the input is 0…255."""
    centred = net.graph.node("Sub", ["data", net.constant(127.5)], called="_minusscalar0")
    return net.graph.node("Mul", [centred, net.constant(1 / 128)], called="_mulscalar0")


def _regression(net: Layers, x: str, channels: int, answers: int, side: int) -> onnx.ModelProto:
    pooled = net.graph.node("Flatten", [net.graph.node("GlobalAveragePool", [x])], axis=1)
    net.fully(pooled, (channels, answers), "fc1", gain=0.3, bias=0.3 if answers == facts.ATTRIBUTE_COLUMNS else 0.0)
    return net.graph.model("random_regression", {"data": ("None", 3, side, side)}, {"fc1": (1, answers)})


def _2d106det(net: Layers) -> onnx.ModelProto:
    return _regression(
        net, *_mobilenet(net, _normalised(net), 0.5), facts.LANDMARKS_106_COLUMNS, facts.LANDMARK_CROP_PX
    )


def _genderage(net: Layers) -> onnx.ModelProto:
    return _regression(net, *_mobilenet(net, _normalised(net), 0.25), facts.ATTRIBUTE_COLUMNS, facts.ATTRIBUTE_CROP_PX)


def _1k3d68(net: Layers) -> onnx.ModelProto:
    # The original begins with a batch normalisation of the data; mean and variance are those of (x − 127.5) / 128.
    parameters = [net.constant(np.full(3, value)) for value in (1.0, 0.0, 127.5, 128.0**2)]
    x = net.graph.node("BatchNormalization", ["data", *parameters], called="bn_data", epsilon=1e-5)
    return _regression(net, _iresnet50(net, x), 512, facts.LANDMARKS_68_COLUMNS, facts.LANDMARK_CROP_PX)


# Swap.


def _inswapper_128(net: Layers) -> onnx.ModelProto:
    g = net.graph

    def padded(x: str, edge: int) -> str:
        pads = g.constant(f"reflect_{edge}", [0, 0, edge, edge, 0, 0, edge, edge], np.int64)
        return g.node("Pad", [x, pads], mode="reflect")

    def leaky(x: str) -> str:
        return g.node("LeakyRelu", [x], alpha=0.2)

    def adain(x: str) -> str:
        """Instance normalisation whose scale and shift (1024 each) come from the identity."""
        centred = g.node("Sub", [x, g.node("ReduceMean", [x], axes=[2, 3], keepdims=1)])
        square = g.node("ReduceMean", [g.node("Mul", [centred, centred])], axes=[2, 3], keepdims=1)
        spread = g.node("Sqrt", [net.add(square, g.constant("epsilon", 1e-8))])
        style = net.fully("source", (512, 2048))
        style = g.node("Unsqueeze", [style], axes=[2, 3])
        halves = [
            g.node("Slice", [style, *(g.constant(f"at_{n}", [n], np.int64) for n in (start, start + 1024, 1))])
            for start in (0, 1024)
        ]
        return net.add(g.node("Mul", [g.node("Div", [centred, spread]), halves[0]]), halves[1])

    x = leaky(net.conv(padded("target", 3), (3, 128), 7, pad=0))
    for channels, stride in (((128, 256), 1), ((256, 512), 2), ((512, 1024), 2)):
        x = leaky(net.conv(x, channels, stride=stride))
    for _ in range(6):
        y = net.relu(adain(net.conv(padded(x, 1), (1024, 1024), pad=0)))
        y = adain(net.conv(padded(y, 1), (1024, 1024), pad=0))
        x = net.add(x, y)
    for channels, doubled in (((1024, 512), True), ((512, 256), True), ((256, 128), False)):
        if doubled:
            scales = g.constant("doubled", [1, 1, 2, 2])
            x = g.node(
                "Resize",
                [x, g.constant("empty", []), scales],
                coordinate_transformation_mode="pytorch_half_pixel",
                mode="linear",
            )
        x = leaky(net.conv(x, channels))
    x = g.node("Tanh", [net.conv(padded(x, 3), (128, 3), 7, pad=0, gain=0.2)])
    g.node("Div", [net.add(x, g.constant("one", 1.0)), g.constant("two", 2.0)], "output")
    g.constant("emap", net.weights(512, 512, variance=1 / 512))
    shapes = {"target": (1, 3, 128, 128), "source": (1, 512)}
    return g.model("random_inswapper", shapes, {"output": (1, 3, 128, 128)})


_BUILDERS: dict[Kind, Callable[[Layers], onnx.ModelProto]] = {
    "1k3d68": _1k3d68,
    "2d106det": _2d106det,
    "det_10g": _det_10g,
    "det_500m": _det_500m,
    "genderage": _genderage,
    "inswapper_128": _inswapper_128,
    "w600k_mbf": _w600k_mbf,
    "w600k_r50": _w600k_r50,
}
