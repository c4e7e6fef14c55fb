"""The facts of InsightFace's packs, and what a pack of any make-up serves."""

from __future__ import annotations

from dataclasses import dataclass

from depthface.contract import Parameters, Precision
from depthface.families.insightface.facts import (
    ATTRIBUTE_COLUMNS,
    ATTRIBUTE_CROP_PX,
    DETECTOR_MEAN,
    DETECTOR_SIDE_PX,
    DETECTOR_SMALL_SIDE_PX,
    DETECTOR_STD,
    LANDMARK_CROP_PX,
    LANDMARKS_68_COLUMNS,
    LANDMARKS_106_COLUMNS,
    MAX_BATCH_SIZE,
    MAX_PHOTOS,
    RECOGNITION_CROP_PX,
    SWAP_CROP_PX,
    SWAP_EMBEDDING_COLUMNS,
    USUAL_BATCH_SIZE,
)
from depthface.limits import MAX_FACES
from depthface.spec import (
    HubFile,
    License,
    Line,
    Makers,
    ModelCard,
    Network,
    Pipeline,
    Profile,
    PublishedPack,
    TensorSpec,
)
from depthface.tasks import faces, swap
from depthface.tasks.faces import DET_SIZE_STRIDE_PX, MAX_DET_SIZE_PX

__all__ = ["CARDS", "MAKERS", "READS_FOLDERS", "PackFile", "pack_card", "swapper_card"]

FAMILY = "insightface"

MAKERS = Makers(
    modules=tuple(
        f"depthface.families.{FAMILY}.{name}"
        for name in ("facts", "network", *map("graphs.{}".format, ("crops", "kinds", "reading", "scrfd", "surgery")))
    ),
    packages=("insightface",),
)
"""What has a hand in its networks, before anything is made of them."""

READS_FOLDERS = True

RESEARCH_ONLY = License(
    "non-commercial research only", False, "https://github.com/deepinsight/insightface/tree/master/model_zoo"
)


@dataclass(frozen=True)
class PackFile:
    """One ONNX file of a pack.

    Attributes:
        kind: `detector`, `recognizer`, `landmarks_106`, `landmarks_68` or `attributes`.
        mean, std: what InsightFace feeds it is `(pixels − mean) / std`, read once from the published file.
        columns: length of an embedding, of a recogniser.
        side_px: of the one square that it takes, of a detector; None for any size.
        random: which architecture of `depthface_standins` stands for it under random weights.
    """

    kind: str
    file: HubFile
    mean: float
    std: float
    columns: int = 512
    side_px: int | None = None
    random: str = ""


DET_500M = PackFile(
    "detector",
    HubFile("det_500m.onnx", 2_524_817, "5e4447f50245bbd7966bd6c0fa52938c61474a04ec7def48753668a9d8b4ea3a"),
    DETECTOR_MEAN,
    DETECTOR_STD,
    random="det_500m",
)
DET_2_5G = PackFile(
    "detector",
    HubFile("det_2.5g.onnx", 3_292_009, "041f73f47371333d1d17a6fee6c8ab4e6aecabefe398ff32cca4e2d5eaee0af9"),
    DETECTOR_MEAN,
    DETECTOR_STD,
    random="det_500m",
)
DET_10G = PackFile(
    "detector",
    HubFile("det_10g.onnx", 16_923_827, "5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91"),
    DETECTOR_MEAN,
    DETECTOR_STD,
    random="det_10g",
)
# No public record of this one's sha256 was found; it is recorded in the manifest at the first download.
SCRFD_10G_BNKPS = PackFile(
    "detector", HubFile("scrfd_10g_bnkps.onnx", None, None), DETECTOR_MEAN, DETECTOR_STD, random="det_10g"
)
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
DET_SIZE = TensorSpec("det_size", "INT32", (1,), optional=True)
OPTIONS = (
    TensorSpec("min_score", "FP32", (1,), optional=True),
    TensorSpec("max_faces", "INT32", (1,), optional=True),
    DET_SIZE,
)
SIZE = TensorSpec("size", "INT32", (2,))
PHOTO_SIZE = TensorSpec("photo_size", "INT32", (2,))
MAX_FACES_ASKED = TensorSpec("max_faces", "INT32", (1,))
BOXES = TensorSpec("boxes", "FP32", (-1, 4))
SCORES = TensorSpec("scores", "FP32", (-1,))
KEYPOINTS = TensorSpec("keypoints", "FP32", (-1, 5, 2))

SCALE = TensorSpec("scale", "FP32", (1,))
MIN_SCORE = TensorSpec("min_score", "FP32", (1,))
DETECTOR_INPUTS = (
    TensorSpec("pixels", "UINT8", (-1, -1, 3)),
    SCALE,
    TensorSpec("pixels_small", "UINT8", (-1, -1, 3)),
    TensorSpec("scale_small", "FP32", (1,)),
    MIN_SCORE,
)
DETECTOR_OUTPUTS = (
    TensorSpec("boxes", "FP32", (MAX_FACES, 4)),
    TensorSpec("scores", "FP32", (MAX_FACES,)),
    TensorSpec("keypoints", "FP32", (MAX_FACES, 5, 2)),
    TensorSpec("count", "INT32", (1,)),
)
SWAPPER_INPUTS = (
    TensorSpec("faces", "UINT8", (SWAP_CROP_PX, SWAP_CROP_PX, 3)),
    TensorSpec("embedding", "FP32", (SWAP_EMBEDDING_COLUMNS,)),
)
CROPS = TensorSpec("crops", "UINT8", (-1, RECOGNITION_CROP_PX, RECOGNITION_CROP_PX, 3))


@dataclass(frozen=True)
class _Addition:
    """What a kind of network adds to a pack's analysis: the side of its crops, its own answer, and the public ones."""

    crop_px: int
    answer: TensorSpec
    public: tuple[TensorSpec, ...]


def _additions(file: PackFile) -> _Addition:
    return {
        "recognizer": _Addition(
            RECOGNITION_CROP_PX,
            TensorSpec("embeddings", "FP32", (file.columns,)),
            (TensorSpec("embeddings", "FP32", (-1, file.columns)),),
        ),
        "landmarks_106": _Addition(
            LANDMARK_CROP_PX,
            TensorSpec("landmarks", "FP32", (LANDMARKS_106_COLUMNS,)),
            (TensorSpec("landmarks_106", "FP32", (-1, 106, 2)),),
        ),
        "landmarks_68": _Addition(
            LANDMARK_CROP_PX,
            TensorSpec("landmarks", "FP32", (LANDMARKS_68_COLUMNS,)),
            (TensorSpec("landmarks_68", "FP32", (-1, 68, 3)), TensorSpec("pose", "FP32", (-1, 3))),
        ),
        "attributes": _Addition(
            ATTRIBUTE_CROP_PX,
            TensorSpec("attributes", "FP32", (ATTRIBUTE_COLUMNS,)),
            (TensorSpec("gender", "INT32", (-1,)), TensorSpec("age", "INT32", (-1,))),
        ),
    }[file.kind]


def pack_card(name: str, files: tuple[PackFile, ...]) -> ModelCard:
    """Return the card of a pack: a detector and whatever else it holds, at most one file of each kind."""
    networks = {file.kind: _network(f"face_{name}_{file.kind}", file) for file in files}
    detector = networks["detector"]
    detection, analysis = f"face_detection_{name}", f"face_analysis_{name}"
    answers = tuple(tensor for file in files if file.kind != "detector" for tensor in _additions(file).public)
    facts = _facts(files)
    pipelines = (
        Pipeline(
            name=detection,
            function=f"depthface.families.{FAMILY}.pipeline:analyse",
            inputs=(IMAGE, *OPTIONS),
            outputs=(BOXES, SCORES, KEYPOINTS, SIZE),
            max_batch_size=1,
            parameters=Parameters(
                task=faces.NAME,
                networks={"detector": detector.name},
                rank=1,  # an analysis tells more
                counted=BOXES.name,
                facts={name: fact for name, fact in facts.items() if name == faces.DETECTOR_SIDE},
            ),
            line=Line(
                before=f"depthface.families.{FAMILY}.pipeline:prepare_detection",
                prepared=(*detector.inputs, SIZE, PHOTO_SIZE, MAX_FACES_ASKED),
                after=f"depthface.families.{FAMILY}.pipeline:finish_detection",
                taken=(*DETECTOR_OUTPUTS, PHOTO_SIZE, MAX_FACES_ASKED),
            ),
        ),
        Pipeline(
            name=analysis,
            function=f"depthface.families.{FAMILY}.pipeline:analyse",
            inputs=(IMAGE, *OPTIONS),
            outputs=(BOXES, SCORES, KEYPOINTS, SIZE, *answers, CROPS),
            max_batch_size=1,
            parameters=Parameters(
                task=faces.NAME,
                networks={kind: network.name for kind, network in networks.items()},
                counted=BOXES.name,
                facts={swap.PACK: name, **facts},
            ),
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
    """Return the card of a face swapper: the user's own file, which uses a served pack to find the faces."""
    network = Network(
        f"face_{name}_swapper",
        inputs=SWAPPER_INPUTS,
        outputs=(TensorSpec("faces_out", "UINT8", SWAPPER_INPUTS[0].dims),),
        max_batch_size=MAX_BATCH_SIZE,
        profiles=({tensor.name: _faces_profile(tensor) for tensor in SWAPPER_INPUTS},),
    )
    pipeline = Pipeline(
        name=f"face_swap_{name}",
        function=f"depthface.families.{FAMILY}.pipeline:swap",
        inputs=(
            *(TensorSpec(name, "BYTES", (1,)) for name in ("source", "target")),
            *(TensorSpec(name, "BYTES", (1,), optional=True) for name in (swap.PACK, "source_face", "target_faces")),
            DET_SIZE,
        ),
        outputs=(IMAGE,),
        max_batch_size=1,
        parameters=Parameters(task=swap.NAME, networks={"swapper": network.name}, is_lazy=True),
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
    """Return the network of a file.

    On a Xeon without AMX, OpenVINO computes a recogniser 1.3 times as quickly as ONNX Runtime, a detector 1.1 times.
    But it has a detector's boxes 5e-4 px off, which moves landmarks by 0.02 px. ONNX Runtime's are InsightFace's own.
    """
    if file.kind == "detector":
        inputs = _detector_inputs(file.side_px)
        return Network(name, inputs, DETECTOR_OUTPUTS, MAX_PHOTOS, profiles=(_detector_profile(inputs),))
    addition = _additions(file)
    faces = TensorSpec("faces", "UINT8", (addition.crop_px, addition.crop_px, 3))
    profiles = ({"faces": _faces_profile(faces)},)
    # A bf16 number near 1 is off by up to 1/512, which at the edge of a crop is 0.2 px before anything else.
    if file.kind != "recognizer":
        return Network(name, (faces,), (addition.answer,), MAX_BATCH_SIZE, only_fp32=True, profiles=profiles)
    return Network(name, (faces,), (addition.answer,), MAX_BATCH_SIZE, profiles=profiles, by_openvino=True)


def _detector_inputs(side_px: int | None) -> tuple[TensorSpec, ...]:
    """Return those of a detector of any size, which sees a photo at two; or of one that takes a square of `side_px`."""
    if side_px is None:
        return DETECTOR_INPUTS
    return (TensorSpec("pixels", "UINT8", (side_px, side_px, 3)), SCALE, MIN_SCORE)


def _detector_profile(inputs: tuple[TensorSpec, ...]) -> dict[str, Profile]:
    """Return the shapes of an engine, by input: the small square has the stride's side where one size is asked for."""
    sides_px = {
        "pixels": (DET_SIZE_STRIDE_PX, DETECTOR_SIDE_PX, MAX_DET_SIZE_PX),
        "pixels_small": (DET_SIZE_STRIDE_PX, DETECTOR_SMALL_SIDE_PX, DETECTOR_SMALL_SIDE_PX),
    }

    def profile(tensor: TensorSpec) -> Profile:
        ranges = sides_px.get(tensor.name, (1, 1, 1))
        least, usual, most = (tuple(side if dim == -1 else dim for dim in tensor.dims) for side in ranges)
        return Profile((1, *least), (1, *usual), (MAX_PHOTOS, *most))

    return {tensor.name: profile(tensor) for tensor in inputs}


def _faces_profile(tensor: TensorSpec) -> Profile:
    return Profile((1, *tensor.dims), (USUAL_BATCH_SIZE, *tensor.dims), (MAX_BATCH_SIZE, *tensor.dims))


def _facts(files: tuple[PackFile, ...]) -> dict[str, str]:
    sides = [(faces.DETECTOR_SIDE, file.side_px) for file in files if file.side_px is not None]
    sizes = [(faces.EMBEDDING_SIZE, file.columns) for file in files if file.kind == "recognizer"]
    return {name: str(value) for name, value in sides + sizes}


CARDS = (
    pack_card("buffalo_l", (DET_10G, W600K_R50, *REST)),
    pack_card("buffalo_m", (DET_2_5G, W600K_R50, *REST)),
    pack_card("buffalo_s", (DET_500M, W600K_MBF, *REST)),
    pack_card("buffalo_sc", (DET_500M, W600K_MBF)),
    pack_card("antelopev2", (SCRFD_10G_BNKPS, GLINTR100, *REST)),
    swapper_card("inswapper_128", INSWAPPER_128),
)
