"""InsightFace packs whose weights are set by hand: they see the people that `scenes` draws, and mean it.

`pack()` gives ONNX files in InsightFace's own format, down to its quirks (fixed output shapes, batch 1, the heads' and
the neck's operators), so that `insightface` loads and runs them and an export treats them as it treats genuine ones.
No weight is learned or taken from anybody; each is computed here from the drawing in `scenes`.

How the networks see. Three soft masks say where a pixel is yellow, magenta and red. The mass, the centre and the
spread of yellow and of magenta in a window are sums over its pixels, hence convolutions. One blob of each colour, of
the size that goes with their distance, is a pair of eyes, and everything else of a face follows from its eyes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from depthface_standins.insightface import scenes
from depthface_standins.insightface.sight import (
    CELL_PX,
    EYE_DISTANCE,
    cell_moments,
    eyes,
    gathering,
    in_face,
    masks_of,
    merge_cells,
)
from depthface_standins.insightface.writer import GraphWriter, Row, Tensor

__all__ = ["attributes", "detector", "landmarks_68", "landmarks_106", "pack", "recognizer"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Anchor:
    """Which faces one anchor of a level looks for.

    Attributes:
        cells: half the window's width, in cells of the level's stride: holds both eyes, wherever in the cell they are.
        radius_px: smallest and largest radius.
    """

    cells: int
    radius_px: tuple[float, float]


# Stride → its two anchors. The window reaches 0.6 radii (an eye's far edge) and half a stride.
LEVELS = {
    8: (Anchor(2, (8.8, 17.0)), Anchor(3, (16.0, 29.5))),
    16: (Anchor(3, (28.0, 53.5)), Anchor(5, (51.0, 96.0))),
    32: (Anchor(4, (92.0, 172.0)), Anchor(7, (165.0, 315.0))),
}


def detector() -> onnx.ModelProto:
    """Return an SCRFD with five keypoints: input `input.1` `[1, 3, H, W]`, RGB, (x − 127.5) / 128.

    Nine outputs, for strides 8, 16, 32: scores `[A, 1]`, then box distances `[A, 4]`, then keypoint offsets `[A, 10]`,
    both in strides, A = 2·(H/stride)·(W/stride). As in the published files the shapes are declared for 640×640.

    Finds faces of 9…315 px radius in the picture it is given, turned by up to 30°, a quarter of the radii apart.
    """
    g = GraphWriter()
    cells = {8: cell_moments(g, masks_of(g, Tensor("input.1", ("R", "G", "B"))))}
    for stride in (16, 32):
        cells[stride] = merge_cells(g, cells[stride // 2])
    red = _red_around(g, cells)
    heads = {stride: _eye_pairs(g, cells[stride], red[stride], stride) for stride in LEVELS}
    outputs: dict[str, dict[str, tuple[int, int]]] = {"score": {}, "bbox": {}, "kps": {}}
    for stride, (pairs, faults) in heads.items():
        features, rows = g.concat(pairs, faults), _head_rows(stride, faults.channels)
        for kind, width in (("score", 1), ("bbox", 4), ("kps", 10)):
            layer = {"score": "cls", "bbox": "reg", "kps": "kps"}[kind]
            name = f"bbox_head.stride_{layer}.({stride}, {stride})"
            raw = g.linear(features, rows[kind], name=name, kernel=3)
            final = f"{kind}_{stride}"
            g.scrfd_output(raw.name, width, final, sigmoid=kind == "score")
            outputs[kind][final] = (2 * (640 // stride) ** 2, width)
    declared = outputs["score"] | outputs["bbox"] | outputs["kps"]
    return g.model("synthetic_scrfd", {"input.1": (1, 3, "?", "?")}, declared)


def _red_around(g: GraphWriter, cells: dict[int, Tensor]) -> dict[int, Tensor]:
    """How red it is at each place, at the stride's scale and all coarser ones: the neck, top down."""
    lateral = {s: g.linear(cells[s], {"red": {"red.m": 1}}, name=f"neck.lateral_{s}") for s in cells}
    merged = {32: lateral[32]}
    for stride in (16, 8):
        coarser = g.upsample_like(merged[stride * 2].name, lateral[stride].name)
        merged[stride] = Tensor(g.node("Add", [lateral[stride].name, coarser]), ("red",))
    return merged


def _eye_pairs(g: GraphWriter, cells: Tensor, red: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Return what one level's head is given: the pairs of eyes at each place, and their faults, near 0 for a face."""
    prefixes = ("a.", "b.")
    windows = []
    for prefix, anchor in zip(prefixes, LEVELS[stride], strict=True):
        weight = np.zeros((8, 9, 2 * anchor.cells, 2 * anchor.cells), np.float32)
        weight[0:4, 0:4] = weight[4:8, 4:8] = gathering(2 * anchor.cells, -anchor.cells, anchor.cells)
        channels = [f"{prefix}{channel}" for channel in cells.channels[:8]]
        pads = (anchor.cells, anchor.cells, anchor.cells - 1, anchor.cells - 1)
        windows.append(g.conv(cells, weight, np.zeros(8, np.float32), channels, pads=pads))
    pairs, checks = eyes(g, g.concat(*windows), prefixes)
    known = g.concat(pairs, checks, red)

    faults: dict[str, Row] = {}
    for p, anchor in zip(prefixes, LEVELS[stride], strict=True):
        smallest, largest = anchor.radius_px
        radius = anchor.cells * stride / EYE_DISTANCE  # px for each unit of d
        faults[f"{p}too small"] = {f"{p}d": -60 * radius / smallest, "": 60}
        faults[f"{p}too large"] = {f"{p}d": 60 * radius / largest, "": -60}
        faults[f"{p}slanted"] = {f"{p}cos": -40, "": 40 * 0.8}
        faults[f"{p}pale"] = {"red": -20, "": 20 * 0.3}
        for s in "lr":
            faults[f"{p}heavy {s}"] = {f"{p}m{s}": 8, "": -8 * 1.4}
            faults[f"{p}light {s}"] = {f"{p}m{s}": -10, "": 10 * 0.65}
            faults[f"{p}scattered {s}"] = {f"{p}v{s}": 8, "": -8 * 1.6}
        for a in "xy":  # the midpoint between the eyes, seen from the anchor, in strides
            half = 0.5 * anchor.cells
            middle = {f"{p}{a}l": half, f"{p}{a}r": half}
            faults[f"{p}{a} after"] = dict(middle)
            faults[f"{p}{a} before"] = {channel: -factor for channel, factor in middle.items()}
            faults[f"{p}{a} far after"] = {**{c: 20 * f for c, f in middle.items()}, "": -20 * 0.6}
            faults[f"{p}{a} far before"] = {**{c: -20 * f for c, f in middle.items()}, "": -20 * 0.6}
    return pairs, g.relu(g.linear(known, faults))


def _head_rows(stride: int, faults: tuple[str, ...]) -> dict[str, dict[str, Row]]:
    """Return what the three convolutions of a level's head compute, for both anchors."""
    rows: dict[str, dict[str, Row]] = {"score": {}, "bbox": {}, "kps": {}}
    for p, anchor in zip(("a.", "b."), LEVELS[stride], strict=True):
        rows["score"][f"{p}score"] = {fault: -1.0 for fault in faults if fault.startswith(p)} | {"": 5.0}
        centre = [in_face(p, axis, (0.0, 0.0), anchor.cells) for axis in "xy"]
        reach = anchor.cells / EYE_DISTANCE
        for edge, (axis, sign) in {"left": (0, -1), "top": (1, -1), "right": (0, 1), "bottom": (1, 1)}.items():
            rows["bbox"][f"{p}{edge}"] = {c: sign * f for c, f in centre[axis].items()} | {f"{p}d": reach}
        for index, point in enumerate(scenes.KEYPOINTS.tolist()):
            rows["kps"] |= {f"{p}{index}{a}": in_face(p, a, tuple(point), anchor.cells) for a in "xy"}
    return rows


def recognizer(dim: int = 512) -> onnx.ModelProto:
    """Return an ArcFace: input `input.1` `[N, 3, 112, 112]`, RGB, (x − 127.5) / 127.5; output `683` `[N, dim]`.

    As in the published files the output is declared `[1, dim]`, though N may be anything.

    Linear: reads the signs of the person's texture off the aligned crop by least squares, and turns them into `dim`
    numbers by a fixed orthonormal matrix. Skin, nose, mouth and light are fitted along and dropped.

    Raises:
        ValueError: `dim` is less than the texture has signs.
    """
    if dim < scenes.CODE_LENGTH:
        raise ValueError(f"An embedding needs at least {scenes.CODE_LENGTH} numbers, not {dim}.")
    g = GraphWriter()
    weight = np.zeros((2, 3, _POOL_PX, _POOL_PX), np.float32)
    weight[0, 0] = 1 / _POOL_PX**2  # the mean of red
    weight[1, 1:] = 0.5 / _POOL_PX**2  # the mean of green and blue
    image = Tensor("input.1", ("R", "G", "B"))
    pooled = g.conv(image, weight, np.zeros(2, np.float32), ("red", "green and blue"), name="pool", stride=_POOL_PX)
    flat = g.node("Flatten", [pooled.name], axis=1)
    spread, _ = np.linalg.qr(np.random.default_rng(512).standard_normal((dim, scenes.CODE_LENGTH)))
    inputs = [flat, g.constant("fc.weight", spread @ _code_reader()), g.constant("fc.bias", np.zeros(dim))]
    g.node("Gemm", inputs, "683", alpha=1.0, beta=1.0, transB=1)
    return g.model("synthetic_arcface", {"input.1": ("None", 3, 112, 112)}, {"683": (1, dim)})


_POOL_PX = 7


def _code_reader() -> Floats:
    """Return the matrix that reads a code from the pooled, normalised crop: `(CODE_LENGTH, 2·16·16)`."""
    axis = (np.arange(112, dtype=np.float32) + 0.5)[:, None]
    u = ((axis.T - scenes.CROP_CENTRE_PX[0]) / scenes.CROP_RADIUS_PX).repeat(112, axis=0)
    v = ((axis - scenes.CROP_CENTRE_PX[1]) / scenes.CROP_RADIUS_PX).repeat(112, axis=1)

    def view(image: npt.NDArray[np.float32]) -> Floats:
        pools = image.reshape(16, _POOL_PX, 16, _POOL_PX, 3).mean(axis=(1, 3), dtype=np.float64)
        planes: Floats = np.stack([pools[..., 0], pools[..., 1:].mean(axis=-1)])
        return planes.ravel() / 127.5

    blank = np.zeros(scenes.CODE_LENGTH, np.float32)

    def face(code: npt.NDArray[np.float32], gender: int = 0, age: float = 40) -> Floats:
        return view(scenes.paint(u, v, code, 1 / scenes.CROP_RADIUS_PX, gender, age)[0])

    plain = face(blank)
    signs = [face(sign) - plain for sign in np.eye(scenes.CODE_LENGTH, dtype=np.float32)]
    nuisances = [plain, np.ones_like(plain), face(blank, gender=1) - plain, face(blank, age=10) - plain]
    nuisances += [face(blank, age=80) - plain]
    # Only what lies well on the disc: the rim is background when the keypoints are a little off.
    rim = np.hypot(u, v)[..., None].repeat(3, axis=-1).astype(np.float32)
    seen = (view(rim) * 127.5 < 0.93).astype(np.float64)
    columns = np.stack(signs + nuisances, axis=1) * seen[:, None]
    ridge = np.diag([1e-2] * scenes.CODE_LENGTH + [1e-9] * len(nuisances))
    reader: Floats = np.linalg.solve(columns.T @ columns + ridge, columns.T)[: scenes.CODE_LENGTH] * seen
    return reader


def landmarks_106() -> onnx.ModelProto:
    """106 points in the picture: input `data` `[N, 3, 192, 192]`, RGB 0…255; output `fc1` `[N, 212]`, −1…1.

    The crop is that of InsightFace: the face's box in the middle two thirds. The graph normalises by itself.
    """
    g = GraphWriter()
    scale = g.node("Sub", ["data", g.constant("mean", 127.5)], called="_minusscalar0")
    image = g.node("Mul", [scale, g.constant("scale", 1 / 128)], called="_mulscalar0")
    pairs = _crop_eyes(g, Tensor(image, ("R", "G", "B")))
    rows = {
        f"{i}{axis}": in_face("", axis, tuple(p), 1)
        for i, p in enumerate(scenes.points_106().tolist())
        for axis in "xy"
    }
    g.node("Flatten", [g.linear(pairs, rows, name="fc1").name], "fc1", axis=1)
    return g.model("synthetic_2d106", {"data": ("None", 3, 192, 192)}, {"fc1": (1, 212)})


def landmarks_68() -> onnx.ModelProto:
    """68 points in space, the last of 1103: input `data` `[N, 3, 192, 192]`, RGB 0…255; output `fc1` `[N, 3309]`.

    As in `landmarks_106`, with depth as third coordinate. The first 1035 points, which InsightFace skips, are 0.
    """
    g = GraphWriter()
    variance = 128.0**2
    statistics = {"gamma": 1.0, "beta": 0.0, "mean": 127.5, "var": variance}
    parameters = [g.constant(f"bn_data_{name}", [value] * 3) for name, value in statistics.items()]
    image = g.node("BatchNormalization", ["data", *parameters], called="bn_data", epsilon=1e-5)
    pairs = _crop_eyes(g, Tensor(image, ("R", "G", "B")))
    rows: dict[str, Row] = {f"unused {index}": {} for index in range(3 * (1103 - 68))}
    for index, (x, y, z) in enumerate(scenes.points_68().tolist()):
        rows |= {f"{index}{axis}": in_face("", axis, (x, y), 1) for axis in "xy"}
        rows[f"{index}z"] = {"d": z / EYE_DISTANCE}
    g.node("Flatten", [g.linear(pairs, rows, name="fc1").name], "fc1", axis=1)
    return g.model("synthetic_3d68", {"data": ("None", 3, 192, 192)}, {"fc1": (1, 3309)})


def _crop_eyes(g: GraphWriter, crop: Tensor) -> Tensor:
    """Return the eyes of the face in the middle of a 192×192 crop, in half crops from its middle."""
    cells = cell_moments(g, masks_of(g, crop))
    half = 192 // CELL_PX // 2
    weight = np.zeros((8, 9, 2 * half, 2 * half), np.float32)
    weight[0:4, 0:4] = weight[4:8, 4:8] = gathering(2 * half, -half, half)
    margin = half // 3  # outside of the box there may be neighbours
    inside = np.zeros((2 * half, 2 * half), np.float32)
    inside[margin:-margin, margin:-margin] = 1
    window = g.conv(cells, weight * inside, np.zeros(8, np.float32), cells.channels[:8], name="window")
    pairs, _ = eyes(g, window, ("",))
    return pairs


def attributes() -> onnx.ModelProto:
    """Gender and age: input `data` `[N, 3, 96, 96]`, RGB 0…255; output `fc1` `[N, 3]`: 0, 1 (the larger wins), age/100.

    Age is the area of the nose, gender whether there is as much of its colour where the mouth is.
    """
    g = GraphWriter()
    scale = g.node("Sub", ["data", g.constant("mean", 127.5)], called="_minusscalar0")
    image = g.node("Mul", [scale, g.constant("scale", 1 / 128)], called="_mulscalar0")
    level = 128 / 255
    excess: dict[str, Row] = {"G": {"G": level, "": 0.5}, "R": {"R": level, "": 0.5}, "G-B": {"G": level, "B": -level}}
    colours = g.relu(g.linear(Tensor(image, ("R", "G", "B")), excess, name="colours"))
    start, end = -50 / 255, 75 / 255  # halfway between skin and nose
    slope: Row = {channel: sign / (end - start) for channel, sign in (("G", 1), ("G-B", -1), ("R", -1))}
    ramps = {"cyan": {**slope, "": -start / (end - start)}, "cyan+": {**slope, "": -end / (end - start)}}
    masks = g.relu(g.linear(colours, ramps, name="ramps"))
    radius = 96 / 3  # of the face in the crop, whose middle two thirds are the box
    middle = (np.arange(96) + 0.5 - 48) / radius
    distance = np.hypot(*np.meshgrid(middle, middle))
    nose, mouth = distance < 0.36, (distance > 0.44) & (distance < 0.74)
    weight = np.stack([np.stack([area, -1.0 * area]) for area in (nose, mouth)]).astype(np.float32) / radius**2
    areas = g.conv(masks, weight, np.zeros(2, np.float32), ("nose", "mouth"), name="areas")
    none, per_year = (np.pi * area for area in _nose_area())
    lips = 2 * scenes.MOUTH_RADIUS * float(scenes.KEYPOINTS[4, 0] - scenes.KEYPOINTS[3, 0])
    rows: dict[str, Row] = {
        "0": {"mouth": -10 / lips, "": 5},
        "1": {"mouth": 10 / lips, "": -5},
        "age": {"nose": 0.01 / per_year, "": -0.01 * none / per_year},
    }
    g.node("Flatten", [g.linear(areas, rows, name="fc1").name], "fc1", axis=1)
    return g.model("synthetic_genderage", {"data": ("None", 3, 96, 96)}, {"fc1": (1, 3)})


def _nose_area() -> tuple[float, float]:
    """Return the nose's squared radius at age 0 and what each year adds."""
    at_0, at_100 = scenes.nose_radius(0) ** 2, scenes.nose_radius(100) ** 2
    return at_0, (at_100 - at_0) / 100


def pack() -> dict[str, onnx.ModelProto]:
    """Return a whole pack, by file name; the names are made like those of the published packs."""
    return {
        "1k3d68.onnx": landmarks_68(),
        "2d106det.onnx": landmarks_106(),
        "det_synthetic.onnx": detector(),
        "genderage.onnx": attributes(),
        "w600k_synthetic.onnx": recognizer(),
    }
