"""The facts of InsightFace's packs, and what a pack of any make-up serves."""

from __future__ import annotations

from dataclasses import dataclass

from depthface.contract import Precision
from depthface.limits import MAX_FACES
from depthface.spec import (
    HubFile,
    License,
    ModelCard,
    Network,
    Pipeline,
    Profile,
    PublishedPack,
    TensorSpec,
)

__all__ = ["CARDS", "PackFile", "pack_card"]

FAMILY = "insightface"

RESEARCH_ONLY = License(
    "non-commercial research only", False, "https://github.com/deepinsight/insightface/tree/master/model_zoo"
)

MAX_BATCH_SIZE = 32
"""Faces that go through a network at once; more are asked for in several requests."""

USUAL_BATCH_SIZE = 8
"""Faces that an engine is tuned for."""

MAX_PHOTOS = 8
"""Photos that go through a detector at once."""

DETECTOR_SIDE_PX = 640
"""Side of the square that the detector sees (scrfd.py:20 `DEFAULT_DET_SIZES`)."""

DETECTOR_SMALL_SIDE_PX = 128
"""Side of the second, smaller one, for faces that fill the photo (scrfd.py:20)."""

DETECTOR_STRIDE_PX = 32
"""Sides of what a detector sees are multiples of its coarsest stride."""

MAX_DETECTOR_SIDE_PX = 1920
"""The largest square that may be asked for."""


@dataclass(frozen=True)
class PackFile:
    """One ONNX file of a pack.

    Attributes:
        kind: `detector`, `recognizer`, `landmarks_106`, `landmarks_68` or `attributes`.
        mean, std: what InsightFace feeds it is `(pixels − mean) / std`, read once from the published file.
        columns: length of an embedding, of a recogniser.
        random: which architecture of `architectures.py` stands for it under random weights.
    """

    kind: str
    file: HubFile
    mean: float
    std: float
    columns: int = 512
    random: str = ""


DET_500M = PackFile(
    "detector",
    HubFile("det_500m.onnx", 2_524_817, "5e4447f50245bbd7966bd6c0fa52938c61474a04ec7def48753668a9d8b4ea3a"),
    127.5,
    128.0,
    random="det_500m",
)
DET_2_5G = PackFile(
    "detector",
    HubFile("det_2.5g.onnx", 3_292_009, "041f73f47371333d1d17a6fee6c8ab4e6aecabefe398ff32cca4e2d5eaee0af9"),
    127.5,
    128.0,
    random="det_500m",
)
DET_10G = PackFile(
    "detector",
    HubFile("det_10g.onnx", 16_923_827, "5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91"),
    127.5,
    128.0,
    random="det_10g",
)
# No public record of this one's sha256 was found; it is recorded in the manifest at the first download.
SCRFD_10G_BNKPS = PackFile("detector", HubFile("scrfd_10g_bnkps.onnx", None, None), 127.5, 128.0, random="det_10g")
W600K_R50 = PackFile(
    "recognizer",
    HubFile("w600k_r50.onnx", 174_383_860, "4c06341c33c2ca1f86781dab0e829f88ad5b64be9fba56e56bc9ebdefc619e43"),
    127.5,
    127.5,
    random="w600k_r50",
)
W600K_MBF = PackFile(
    "recognizer",
    HubFile("w600k_mbf.onnx", 13_616_099, "9cc6e4a75f0e2bf0b1aed94578f144d15175f357bdc05e815e5c4a02b319eb4f"),
    127.5,
    127.5,
    random="w600k_mbf",
)
GLINTR100 = PackFile(
    "recognizer",
    HubFile("glintr100.onnx", 260_665_334, "4ab1d6435d639628a6f3e5008dd4f929edf4c4124b1a7169e1048f9fef534cdf"),
    127.5,
    127.5,
    random="w600k_r50",
)
LANDMARKS_106 = PackFile(
    "landmarks_106",
    HubFile("2d106det.onnx", 5_030_888, "f001b856447c413801ef5c42091ed0cd516fcd21f2d6b79635b1e733a7109dbf"),
    0.0,
    1.0,
    random="2d106det",
)
LANDMARKS_68 = PackFile(
    "landmarks_68",
    HubFile("1k3d68.onnx", 143_607_619, "df5c06b8a0c12e422b2ed8947b8869faa4105387f199c477af038aa01f9a45cc"),
    0.0,
    1.0,
    random="1k3d68",
)
ATTRIBUTES = PackFile(
    "attributes",
    HubFile("genderage.onnx", 1_322_532, "4fde69b1c810857b88c64a335084f1c3fe8f01246c9a191b48c7bb756d6652fb"),
    0.0,
    1.0,
    random="genderage",
)
# No longer published: the user points at a file of their own.
INSWAPPER_128 = PackFile(
    "swapper",
    HubFile("inswapper_128.onnx", 554_253_681, "e4a3f08c753cb72d04e10aa0f7dbe3deebbf39567d4ead6dce08e98aa49e16af"),
    0.0,
    255.0,
    random="inswapper_128",
)
REST = (LANDMARKS_106, LANDMARKS_68, ATTRIBUTES)

# The model's own limits are the network's: see `parity.py` for the units.
TOLERANCES: dict[Precision, dict[str, float]] = {
    "fp32": {
        "faces_differ": 0.0,
        "box_error_px": 0.01,
        "keypoint_error_px": 0.01,
        "score_error": 1e-5,
        "cosine_loss": 1e-5,
        "landmark_error_px": 0.01,
        "attribute_error": 1e-3,
    },
    "bf16": {
        "faces_differ": 0.0,
        "box_error_px": 3.0,
        "keypoint_error_px": 2.0,
        "score_error": 1e-2,
        "cosine_loss": 5e-3,
    },
}

IMAGE = TensorSpec("image", "BYTES", (1,))
OPTIONS = (
    TensorSpec("min_score", "FP32", (1,), optional=True),
    TensorSpec("max_faces", "INT32", (1,), optional=True),
    TensorSpec("det_size", "INT32", (1,), optional=True),
)
SIZE = TensorSpec("size", "INT32", (2,))
BOXES = TensorSpec("boxes", "FP32", (-1, 4))
SCORES = TensorSpec("scores", "FP32", (-1,))
KEYPOINTS = TensorSpec("keypoints", "FP32", (-1, 5, 2))

DETECTOR_INPUTS = (
    TensorSpec("pixels", "UINT8", (-1, -1, 3)),
    TensorSpec("scale", "FP32", (1,)),
    TensorSpec("pixels_small", "UINT8", (-1, -1, 3)),
    TensorSpec("scale_small", "FP32", (1,)),
    TensorSpec("min_score", "FP32", (1,)),
)
DETECTOR_OUTPUTS = (
    TensorSpec("boxes", "FP32", (MAX_FACES, 4)),
    TensorSpec("scores", "FP32", (MAX_FACES,)),
    TensorSpec("keypoints", "FP32", (MAX_FACES, 5, 2)),
    TensorSpec("count", "INT32", (1,)),
)
SWAPPER_INPUTS = (TensorSpec("faces", "UINT8", (128, 128, 3)), TensorSpec("embedding", "FP32", (512,)))

# What each kind of network adds to a pack's analysis: its own tensors (faces in, answer out) and the public ones.
_ADDS: dict[str, tuple[int, TensorSpec, tuple[TensorSpec, ...]]] = {
    "recognizer": (112, TensorSpec("embeddings", "FP32", (512,)), (TensorSpec("embeddings", "FP32", (-1, 512)),)),
    "landmarks_106": (
        192,
        TensorSpec("landmarks", "FP32", (212,)),
        (TensorSpec("landmarks_106", "FP32", (-1, 106, 2)),),
    ),
    "landmarks_68": (
        192,
        TensorSpec("landmarks", "FP32", (3309,)),
        (TensorSpec("landmarks_68", "FP32", (-1, 68, 3)), TensorSpec("pose", "FP32", (-1, 3))),
    ),
    "attributes": (
        96,
        TensorSpec("attributes", "FP32", (3,)),
        (TensorSpec("gender", "INT32", (-1,)), TensorSpec("age", "INT32", (-1,))),
    ),
}


def pack_card(name: str, files: tuple[PackFile, ...]) -> ModelCard:
    """The card of a pack: a detector and whatever else it holds, at most one file of each kind."""
    networks = {file.kind: _network(f"face_{name}_{file.kind}", file) for file in files}
    detector = networks["detector"]
    detection, analysis = f"face_detection_{name}", f"face_analysis_{name}"
    answers = tuple(tensor for file in files if file.kind in _ADDS for tensor in _public(file))
    pipelines = (
        Pipeline(
            name=detection,
            task="faces",
            function=f"depthface.families.{FAMILY}.analysis:analyse",
            inputs=(IMAGE, *OPTIONS),
            outputs=(BOXES, SCORES, KEYPOINTS, SIZE),
            max_batch_size=1,
            networks={"detector": detector.name},
            counted=BOXES.name,
        ),
        Pipeline(
            name=analysis,
            task="faces",
            function=f"depthface.families.{FAMILY}.analysis:analyse",
            inputs=(IMAGE, *OPTIONS),
            outputs=(BOXES, SCORES, KEYPOINTS, SIZE, *answers, TensorSpec("crops", "UINT8", (-1, 112, 112, 3))),
            max_batch_size=1,
            networks={kind: network.name for kind, network in networks.items()},
            counted=BOXES.name,
            facts=_embedding_size(files),
        ),
    )
    return ModelCard(
        name=name,
        family=FAMILY,
        title=f"InsightFace {name}",
        license=RESEARCH_ONLY,
        weights=PublishedPack(name, tuple(file.file for file in files)),
        networks=tuple(networks.values()),
        pipelines=pipelines,
        tolerances=TOLERANCES,
        stand_ins=("random", "synthetic"),
        is_committed=name == "buffalo_l",
        architecture={file.kind: file for file in files},
    )


def swapper_card(name: str, file: PackFile) -> ModelCard:
    """The card of a face swapper. It comes from the user's own file, and uses a served pack to find the faces."""
    network = Network(
        f"face_{name}_swapper",
        inputs=SWAPPER_INPUTS,
        outputs=(TensorSpec("faces_out", "UINT8", (128, 128, 3)),),
        max_batch_size=MAX_BATCH_SIZE,
        profiles=({tensor.name: _faces_profile(tensor) for tensor in SWAPPER_INPUTS},),
    )
    public = f"face_swap_{name}"
    pipeline = Pipeline(
        name=public,
        task="swap",
        function=f"depthface.families.{FAMILY}.swap:swap",
        inputs=(
            TensorSpec("source", "BYTES", (1,)),
            TensorSpec("target", "BYTES", (1,)),
            TensorSpec("pack", "BYTES", (1,), optional=True),
        ),
        outputs=(IMAGE,),
        max_batch_size=1,
        networks={"swapper": network.name},
        is_lazy=True,
    )
    return ModelCard(
        name=name,
        family=FAMILY,
        title=f"InsightFace {name}",
        license=RESEARCH_ONLY,
        weights=PublishedPack(name, (file.file,)),
        networks=(network,),
        pipelines=(pipeline,),
        tolerances={"fp32": {"swap_error_levels": 2.0}},
        is_published=False,
        is_committed=False,
        architecture={file.kind: file},
    )


def _network(name: str, file: PackFile) -> Network:
    if file.kind == "detector":
        return Network(name, DETECTOR_INPUTS, DETECTOR_OUTPUTS, MAX_PHOTOS, profiles=(_detector_profile(),))
    side_px, output, _ = _ADDS[file.kind]
    if file.kind == "recognizer":
        output = TensorSpec(output.name, output.dtype, (file.columns,))
    faces = TensorSpec("faces", "UINT8", (side_px, side_px, 3))
    # A bf16 number near 1 is off by up to 1/512, which at the edge of a crop is 0.2 px before anything else.
    only_fp32 = file.kind != "recognizer"
    return Network(name, (faces,), (output,), MAX_BATCH_SIZE, only_fp32, ({"faces": _faces_profile(faces)},))


def _detector_profile() -> dict[str, Profile]:
    """A photo at a time is usual. The small square is the stride's where one size is asked for."""

    def square(least: int, usual: int, most: int) -> Profile:
        return Profile((1, least, least, 3), (1, usual, usual, 3), (MAX_PHOTOS, most, most, 3))

    number = Profile((1, 1), (1, 1), (MAX_PHOTOS, 1))
    return {tensor.name: number for tensor in DETECTOR_INPUTS} | {
        "pixels": square(DETECTOR_STRIDE_PX, DETECTOR_SIDE_PX, MAX_DETECTOR_SIDE_PX),
        "pixels_small": square(DETECTOR_STRIDE_PX, DETECTOR_SMALL_SIDE_PX, DETECTOR_SMALL_SIDE_PX),
    }


def _faces_profile(tensor: TensorSpec) -> Profile:
    return Profile((1, *tensor.dims), (USUAL_BATCH_SIZE, *tensor.dims), (MAX_BATCH_SIZE, *tensor.dims))


def _embedding_size(files: tuple[PackFile, ...]) -> dict[str, str]:
    sizes = [str(file.columns) for file in files if file.kind == "recognizer"]
    return {"embedding_size": sizes[0]} if sizes else {}


def _public(file: PackFile) -> tuple[TensorSpec, ...]:
    if file.kind == "recognizer":
        return (TensorSpec("embeddings", "FP32", (-1, file.columns)),)
    return _ADDS[file.kind][2]


CARDS = (
    pack_card("buffalo_l", (DET_10G, W600K_R50, *REST)),
    pack_card("buffalo_m", (DET_2_5G, W600K_R50, *REST)),
    pack_card("buffalo_s", (DET_500M, W600K_MBF, *REST)),
    pack_card("buffalo_sc", (DET_500M, W600K_MBF)),
    pack_card("antelopev2", (SCRFD_10G_BNKPS, GLINTR100, *REST)),
    swapper_card("inswapper_128", INSWAPPER_128),
)
