"""The facts of Depth Anything V2 Small, Base and Large."""

from __future__ import annotations

from depthface.contract import Parameters, Precision
from depthface.spec import (
    HubFile,
    HubWeights,
    License,
    Line,
    Makers,
    ModelCard,
    Network,
    Pipeline,
    Profile,
    TensorSpec,
)
from depthface.tasks import depth

__all__ = ["CARDS", "MAKERS", "MAX_GRID_SIDE_PX", "PATCH_PX", "PHOTO_SIDE_PX"]

PATCH_PX = 14
"""Side of a DINOv2 patch: the network's grid is a multiple of it."""

PHOTO_SIDE_PX = 518
"""The side a photo is scaled to (preprocessor_config.json, `size`): 37 patches."""

MAX_GRID_SIDE_PX = 3 * PHOTO_SIDE_PX
"""The grid's longest side. The reference has no limit: a 300×4000 photo becomes 518×6902 and takes gigabytes. Photos
of up to 3:1 are not touched by it, longer ones are scaled to fit, their aspect kept."""

USUAL_SIDE_PX = 49 * PATCH_PX
"""The grid's longer side for a photo of 4:3, the shape that most cameras give: 518×686."""

FAMILY = "depth_anything_v2"

MAKERS = Makers(
    modules=(*(f"depthface.families.{FAMILY}.{name}" for name in ("card", "network")), "depthface.families.pretrained"),
    packages=("torch", "transformers", "onnxscript"),
)
"""What has a hand in its networks, before anything is made of them."""

MAX_BATCH_SIZE = 8

APACHE_2 = License("Apache-2.0", True, "https://www.apache.org/licenses/LICENSE-2.0")
CC_BY_NC_4 = License("CC-BY-NC-4.0", False, "https://creativecommons.org/licenses/by-nc/4.0/")

IMAGE = TensorSpec("image", "BYTES", (1,))
PIXELS = TensorSpec("pixels", "UINT8", (-1, -1, 3))
SIZE = TensorSpec("size", "INT32", (2,))
PHOTO_SIZE = TensorSpec("photo_size", "INT32", (2,))
DEPTH = TensorSpec("depth", "FP32", (-1, -1))
PNG16 = TensorSpec("png16", "BYTES", (1,))
PNG8 = TensorSpec("png8", "BYTES", (1,))

# The shorter side of a grid never exceeds PHOTO_SIDE_PX. One profile for both ways round would be a square of the
# longest side, and TensorRT would set three times the memory aside, nine times for attention.
PROFILES = tuple(
    {PIXELS.name: Profile(min=(1, PATCH_PX, PATCH_PX, 3), opt=(1, *usual, 3), max=(MAX_BATCH_SIZE, *longest, 3))}
    for usual, longest in (
        ((PHOTO_SIDE_PX, USUAL_SIDE_PX), (PHOTO_SIDE_PX, MAX_GRID_SIDE_PX)),
        ((USUAL_SIDE_PX, PHOTO_SIDE_PX), (MAX_GRID_SIDE_PX, PHOTO_SIDE_PX)),
    )
)

TOLERANCES: dict[Precision, dict[str, float]] = {
    "fp32": {"max_error": 5e-5, "mean_error": 2e-6, "delta1_loss": 0.0},
    "fp16": {"max_error": 5e-3, "mean_error": 1e-3, "delta1_loss": 1e-3},
    "bf16": {"max_error": 3e-2, "mean_error": 4e-3, "delta1_loss": 1e-3},
    "int8": {"max_error": 1e-1, "mean_error": 1e-2, "delta1_loss": 1e-3},
}


def _card(
    size: str,
    *,
    rank: int,
    license: License,
    revision: str,
    files: tuple[HubFile, HubFile],
    architecture: dict[str, object],
) -> ModelCard:
    name = f"{FAMILY}_{size}"
    network = Network(
        name=f"{name}_network",
        inputs=(PIXELS,),
        outputs=(DEPTH,),
        max_batch_size=MAX_BATCH_SIZE,
        profiles=PROFILES,
        by_openvino=True,  # 1.09 times as quick
    )
    return ModelCard(
        name=name,
        family=FAMILY,
        title=f"Depth Anything V2 {size.capitalize()}",
        license=license,
        weights=HubWeights(
            repo_id=f"depth-anything/Depth-Anything-V2-{size.capitalize()}-hf",
            revision=revision,
            files=files,
        ),
        networks=(network,),
        pipelines=(
            Pipeline(
                name=name,
                function=f"depthface.families.{FAMILY}.pipeline:estimate",
                inputs=(IMAGE,),
                outputs=(DEPTH, SIZE, PNG16, PNG8),
                max_batch_size=MAX_BATCH_SIZE,
                parameters=Parameters(task=depth.NAME, networks={"network": network.name}, rank=rank),
                line=Line(
                    before=f"depthface.families.{FAMILY}.pipeline:prepare",
                    prepared=(PIXELS, SIZE, PHOTO_SIZE),
                    after=f"depthface.families.{FAMILY}.pipeline:finish",
                    taken=(DEPTH, PHOTO_SIZE),
                    is_apart=True,
                ),
            ),
        ),
        tolerances=TOLERANCES,
        architecture=architecture,
    )


# Architectures: config.json of each hub repository. Revisions, sizes and sha256: the hub's public record.
CARDS = (
    _card(
        "small",
        rank=0,
        license=APACHE_2,
        revision="5426e4f0f36572d16453bbda7a8389317b1bef99",
        files=(
            HubFile("config.json", None, "c56698d3643dde1f83ea2212759e6b31a22b8f827246a36dd007ee8a22b3ff75"),
            HubFile(
                "model.safetensors",
                99_173_660,
                "3152477ce0d8d6978d76b995120de97cb5b928701fd0f817769f59e249a16b70",
            ),
        ),
        architecture={
            "hidden_size": 384,
            "num_hidden_layers": 12,
            "num_attention_heads": 6,
            "out_indices": (3, 6, 9, 12),
            "neck_hidden_sizes": (48, 96, 192, 384),
            "fusion_hidden_size": 64,
        },
    ),
    _card(
        "base",
        rank=1,
        license=CC_BY_NC_4,
        revision="b1958afc87fb45a9e3746cb387596094de553ed8",
        files=(HubFile("config.json", None, None), HubFile("model.safetensors", None, None)),
        architecture={
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "out_indices": (3, 6, 9, 12),
            "neck_hidden_sizes": (96, 192, 384, 768),
            "fusion_hidden_size": 128,
        },
    ),
    _card(
        "large",
        rank=2,
        license=CC_BY_NC_4,
        revision="7581137eff8d4e94f6e796d3baea0e9fa79b22d2",
        files=(
            HubFile("config.json", None, None),
            HubFile(
                "model.safetensors",
                1_341_322_868,
                "4e01e34ed5549b529b70b92d53226bc370f03041977b390d3dde45d47f516cf9",
            ),
        ),
        architecture={
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "out_indices": (5, 12, 18, 24),
            "neck_hidden_sizes": (256, 512, 1024, 1024),
            "fusion_hidden_size": 256,
        },
    ),
)
