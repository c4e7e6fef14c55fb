"""Embeddings of photos and of texts: by this project, by `transformers` in process and as a service, by OpenCLIP."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from tokenizers import Tokenizer
from transformers import CLIPImageProcessorPil, PreTrainedTokenizerFast

from depthface.errors import DepthfaceError
from depthface.families.clip import processing
from depthface_bench import photos
from depthface_bench.peers import LIBRARY, OPENCLIP, Peer
from depthface_bench.repositories import EMBEDDINGS, embedding_card
from depthface_client import Client
from depthface_standins.clip import architectures

__all__ = [
    "AT_ONCE",
    "KINDS",
    "TASKS",
    "Kind",
    "Vector",
    "asked",
    "items",
    "library",
    "model_of",
    "name_of",
    "peers_of",
    "same_vector",
]

Vector = npt.NDArray[np.float32]
Kind = Literal["image", "text"]

KINDS: tuple[Kind, ...] = ("image", "text")
TASKS: Mapping[Kind, str] = {"image": "photo embedding", "text": "text embedding"}
"""What results call them."""

AT_ONCE = (1, 16)

PHOTO_SIZE = (1280, 960)
"""Width and height: what a photo library keeps for its screens."""

TEXTS = (b"a red car", b"two dogs", b"my house", b"a sunset")
"""As people search. Random weights have a tokenizer that knows no words, only signs: these are 9 to 11 tokens."""


def library(kind: Kind, threads: int) -> Callable[[bytes], Vector]:
    """`transformers`, as its documentation does it: a photo, or a text in UTF-8, to `(D,) float32` of unit length."""
    torch.set_num_threads(threads)
    model = architectures.random_model(embedding_card())
    processor = CLIPImageProcessorPil()
    end = {"eos_token": processing.END, "pad_token": processing.END}
    backend = Tokenizer.from_str(architectures.byte_tokenizer().decode())
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=77, **end)

    def embed_image(photo: bytes) -> Vector:
        inputs = processor(Image.open(BytesIO(photo)).convert("RGB"), return_tensors="pt")
        with torch.inference_mode():
            return _unit(model.get_image_features(**inputs))

    def embed_text(text: bytes) -> Vector:
        inputs = tokenizer([text.decode()], padding=True, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            return _unit(model.get_text_features(**inputs))

    return embed_image if kind == "image" else embed_text


def open_clip(kind: Kind, threads: int) -> Callable[[bytes], Vector]:
    """OpenCLIP with random weights of its own."""
    import open_clip as library

    torch.set_num_threads(threads)
    model, _, preprocess = library.create_model_and_transforms("ViT-B-32-quickgelu")
    tokenize = library.get_tokenizer("ViT-B-32-quickgelu")
    model.eval()

    def embed_image(photo: bytes) -> Vector:
        with torch.inference_mode():
            return _unit(model.encode_image(preprocess(Image.open(BytesIO(photo)))[None]))

    def embed_text(text: bytes) -> Vector:
        with torch.inference_mode():
            return _unit(model.encode_text(tokenize([text.decode()])))

    return embed_image if kind == "image" else embed_text


def peers_of(kind: Kind, threads: int) -> list[Peer]:
    """Every way to the vector of a photo, or of a text. OpenCLIP's own packages are asked for in no extra of ours."""
    return [
        Peer(LIBRARY, "fp32", lambda: library(kind, threads)),
        Peer(OPENCLIP, "fp32", lambda: open_clip(kind, threads), is_same_weights=False),
    ]


def same_vector(expected: Vector, got: Vector, *, most: float = 0.01) -> None:
    """Hold one answer against another; raises `DepthfaceError` if 1 − cosine is over `most`."""
    loss = 1 - float(expected @ got)
    if not loss <= most:
        raise DepthfaceError(f"Two answers of one item have 1 − cosine {loss:.3f}: not the same work.")


def items(kind: Kind, count: int) -> Sequence[bytes]:
    """What is sent: photos, or texts."""
    return TEXTS if kind == "text" else [photos.sized(*PHOTO_SIZE, index) for index in range(count)]


def name_of(kind: Kind) -> str:
    """What results call an item."""
    return "a few words" if kind == "text" else "{}×{}".format(*PHOTO_SIZE)


def model_of(kind: Kind) -> str:
    """The public model that answers."""
    return f"{EMBEDDINGS}_{kind}"


def asked(kind: Kind, client: Client) -> Callable[[bytes], Vector]:
    """A photo, or a text, to its vector, by this project's own client."""
    model = model_of(kind)
    if kind == "image":
        return lambda photo: client.embed(photo, model=model).vector
    return lambda text: client.embed_text(text.decode(), model=model).vector


def _unit(found: Any) -> Vector:
    features = found if isinstance(found, torch.Tensor) else found.pooler_output
    vector: Vector = torch.nn.functional.normalize(features, dim=-1)[0].numpy()
    return vector
