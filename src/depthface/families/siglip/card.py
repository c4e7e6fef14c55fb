"""The facts of the SigLIP models."""

from __future__ import annotations

from depthface.contract import Parameters
from depthface.families.clip import card as clip
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
from depthface.tasks import embedding

__all__ = ["CARDS", "MAKERS", "PHOTO_SIDE_PX", "TEXT_TOKENS"]

FAMILY = "siglip"

PHOTO_SIDE_PX = 224
"""The square that a photo is squashed to (preprocessor_config.json, `size`)."""

TEXT_TOKENS = 64
"""The tokens of every text: what is shorter is filled up, since each token sees all others, and the last is the answer
(config.json, `max_position_embeddings`; arXiv:2502.14786, section 2.1)."""

MAX_BATCH_SIZE = 16

NAME = "clip_siglip2_b_16"
"""By immich's name for the whole kind, a model of photos and words is a `clip`."""

MAKERS = Makers(
    modules=(
        *(f"depthface.families.{FAMILY}.{name}" for name in ("card", "network", "processing")),
        *clip.MAKERS.modules,
        "depthface.families.clip.parity",
    ),
    packages=clip.MAKERS.packages,
)
"""What has a hand in its networks, before anything is made of them."""

# config.json of the hub's repository, and what `SiglipConfig` says of what that leaves out.
ARCHITECTURE: dict[str, object] = {
    "width": 768,
    "intermediate_size": 3072,
    "layers": 12,
    "heads": 12,
    "patch_size": 16,
    "vocab_size": 256_000,
    "hidden_act": "gelu_pytorch_tanh",
}

_VECTOR = TensorSpec("embedding", "FP32", (768,))
_PRIVATE = {
    "image": TensorSpec("pixels", "UINT8", (PHOTO_SIDE_PX, PHOTO_SIDE_PX, 3)),
    "text": TensorSpec("tokens", "INT32", (TEXT_TOKENS,)),
}
_LINES = {
    "image": Line(f"depthface.families.{FAMILY}.pipeline:prepare_image", prepared=(_PRIVATE["image"],)),
    "text": None,  # as CLIP's
}
_MORE = {"image": (), "text": (TensorSpec(embedding.CUT_TOKENS, "INT32", (1,)),)}


def _network(kind: str) -> Network:
    private = _PRIVATE[kind]
    shapes = Profile((1, *private.dims), (1, *private.dims), (MAX_BATCH_SIZE, *private.dims))
    return Network(
        name=f"{NAME}_{kind}_network",
        inputs=(private,),
        outputs=(_VECTOR,),
        max_batch_size=MAX_BATCH_SIZE,
        profiles=({private.name: shapes},),
        by_openvino=True,
    )


def _pipeline(kind: str) -> Pipeline:
    return Pipeline(
        name=f"{NAME}_{kind}",
        function=f"depthface.families.{FAMILY}.pipeline:embed_{kind}",
        inputs=(TensorSpec(kind, "BYTES", (1,)),),
        outputs=(_VECTOR, *_MORE[kind]),
        max_batch_size=MAX_BATCH_SIZE,
        parameters=Parameters(
            task=embedding.NAME,
            networks={kind: f"{NAME}_{kind}_network"},
            rank=2,
            gathers=True,
            facts={embedding.SPACE: NAME},
        ),
        takes_together=clip.TAKEN_TOGETHER[kind],
        line=_LINES[kind],
    )


# Revision, sizes and sha256: the hub's public record.
CARDS = (
    ModelCard(
        name=NAME,
        family=FAMILY,
        title="SigLIP 2 ViT-B/16 (Google)",
        license=License("Apache-2.0", True, "https://www.apache.org/licenses/LICENSE-2.0"),
        weights=HubWeights(
            "google/siglip2-base-patch16-224",
            "75de2d55ec2d0b4efc50b3e9ad70dba96a7b2fa2",
            (
                HubFile("config.json", None, None),
                HubFile(clip.TOKENIZER_FILE, None, None),
                HubFile(
                    "model.safetensors",
                    1_500_800_904,
                    "612923381c76ec5a9bed335d1c48827e3f2e506ac31b044b63b2031fadee6a0b",
                ),
            ),
        ),
        networks=tuple(map(_network, _PRIVATE)),
        pipelines=tuple(map(_pipeline, _PRIVATE)),
        tolerances=clip.TOLERANCES,
        is_committed=False,
        architecture=ARCHITECTURE,
    ),
)
