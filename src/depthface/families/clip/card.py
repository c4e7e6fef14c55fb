"""The facts of the CLIP models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
from depthface.tasks import embedding

__all__ = ["CARDS", "FEWEST_TOKENS", "MAKERS", "PHOTO_SIDE_PX", "TEXT_TOKENS", "TOKENIZER_FILE"]

FAMILY = "clip"

PHOTO_SIDE_PX = 224
"""The square that the network sees (preprocessor_config.json, `size` and `crop_size`)."""

TEXT_TOKENS = 77
"""The most tokens of a text, with those of its start and end (config.json, `max_position_embeddings`)."""

FEWEST_TOKENS = 8
"""The tokens of a short text: lengths are rounded up to multiples of this, so that few shapes are asked of a runtime,
and texts of about one length are one batch."""

TOKENIZER_FILE = "tokenizer.json"
"""Beside the network of texts: how a text becomes tokens."""

MAX_BATCH_SIZE = 16

TAKEN_TOGETHER = {"image": 4, "text": MAX_BATCH_SIZE}
"""Requests of one batch. On two cores four photos take a network 2.6 times as long as one in fp32, 2.1 times in bf16,
and 16 no less each; they are decoded in a fifth of that. Sixteen short texts take as long as five one by one."""

MIT = License("MIT", True, "https://github.com/openai/CLIP/blob/main/LICENSE")
OPEN_CLIP_MIT = License("MIT", True, "https://github.com/mlfoundations/open_clip/blob/main/LICENSE")

MAKERS = Makers(
    modules=(
        *(f"depthface.families.{FAMILY}.{name}" for name in ("card", "network", "processing")),
        "depthface.families.pretrained",
    ),
    packages=("torch", "transformers", "onnxscript", "tokenizers"),
)
"""What has a hand in its networks, before anything is made of them."""

PIXELS = TensorSpec("pixels", "UINT8", (PHOTO_SIDE_PX, PHOTO_SIDE_PX, 3))
TOKENS = TensorSpec("tokens", "INT32", (-1,))

_LINE = Line(f"depthface.families.{FAMILY}.pipeline:prepare_image", prepared=(PIXELS,))
"""A text has none: texts of several lengths in one request would be no tensor between the steps."""

CUT = TensorSpec(embedding.CUT_TOKENS, "INT32", (1,))

# Of 1 − cosine; `centred_loss` is that of vectors less their mean, since one dimension carries much of every vector.
TOLERANCES: dict[Precision, dict[str, float]] = {
    "fp32": {"cosine_loss": 1e-6, "centred_loss": 1e-5},
    "fp16": {"cosine_loss": 1e-4, "centred_loss": 1e-3},
    "bf16": {"cosine_loss": 1e-3, "centred_loss": 1e-2},
    "int8": {"cosine_loss": 1e-2, "centred_loss": 5e-2},
}

# config.json of the hub's repository.
_VIT_B_32: dict[str, object] = {
    "projection_dim": 512,
    "vision_hidden_size": 768,
    "vision_intermediate_size": 3072,
    "vision_layers": 12,
    "vision_heads": 12,
    "patch_size": 32,
    "text_hidden_size": 512,
    "text_intermediate_size": 2048,
    "text_layers": 12,
    "text_heads": 8,
    "vocab_size": 49408,
}


@dataclass(frozen=True)
class _Training:
    """One training of an architecture: what was published of it.

    Attributes:
        activation: of its MLPs; the other one gives plausible vectors, and wrong ones.
    """

    name: str
    title: str
    license: License
    weights: HubWeights
    activation: Literal["quick_gelu", "gelu"]


def _card(training: _Training, *, rank: int) -> ModelCard:
    name = training.name
    width = _VIT_B_32["projection_dim"]
    assert isinstance(width, int)
    out = TensorSpec("embedding", "FP32", (width,))
    networks, pipelines = [], []
    for kind, private, more in (("image", PIXELS, ()), ("text", TOKENS, (CUT,))):
        least, most = (_of_length(private.dims, length) for length in (FEWEST_TOKENS, TEXT_TOKENS))
        shapes = Profile((1, *least), (1, *least), (MAX_BATCH_SIZE, *most))
        network = Network(
            name=f"{name}_{kind}_network",
            inputs=(private,),
            outputs=(out,),
            max_batch_size=MAX_BATCH_SIZE,
            profiles=({private.name: shapes},),
            by_openvino=True,
        )
        networks.append(network)
        pipelines.append(
            Pipeline(
                name=f"{name}_{kind}",
                function=f"depthface.families.{FAMILY}.pipeline:embed_{kind}",
                inputs=(TensorSpec(kind, "BYTES", (1,)),),
                outputs=(out, *more),
                max_batch_size=MAX_BATCH_SIZE,
                parameters=Parameters(
                    task=embedding.NAME,
                    networks={kind: network.name},
                    rank=rank,
                    gathers=True,
                    facts={embedding.SPACE: name},
                ),
                takes_together=TAKEN_TOGETHER[kind],
                line=_LINE if kind == "image" else None,
            )
        )
    return ModelCard(
        name=name,
        family=FAMILY,
        title=training.title,
        license=training.license,
        weights=training.weights,
        networks=tuple(networks),
        pipelines=tuple(pipelines),
        tolerances=TOLERANCES,
        stand_ins=("random", "synthetic"),
        is_committed=rank == 0,  # the text of one is kept as the reference
        architecture={**_VIT_B_32, "hidden_act": training.activation},
    )


def _of_length(dims: tuple[int, ...], length: int) -> tuple[int, ...]:
    return tuple(length if dim == -1 else dim for dim in dims)


_FILES = (HubFile("config.json", None, None), HubFile(TOKENIZER_FILE, None, None))

# Revisions and sizes: the hub's public record. Of OpenAI's it is the commit that brought safetensors.
_TRAININGS = (
    _Training(
        "clip_vit_b_32",
        "CLIP ViT-B/32 (OpenAI)",
        MIT,
        HubWeights(
            "openai/clip-vit-base-patch32",
            "c237dc49a33fc61debc9276459120b7eac67e7ef",
            (*_FILES, HubFile("model.safetensors", 605_157_884, None)),
        ),
        "quick_gelu",
    ),
    _Training(
        "clip_vit_b_32_laion2b",
        "CLIP ViT-B/32 (LAION-2B)",
        OPEN_CLIP_MIT,
        HubWeights(
            "laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
            "1a25a446712ba5ee05982a381eed697ef9b435cf",
            (*_FILES, HubFile("model.safetensors", None, None)),
        ),
        "gelu",
    ),
)

CARDS = tuple(_card(training, rank=rank) for rank, training in enumerate(_TRAININGS))
