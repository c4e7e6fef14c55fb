"""Embeddings of photos and of texts: by this project, by `transformers` in process and as a service, by OpenCLIP."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from tokenizers import Tokenizer
from transformers import CLIPImageProcessorPil, PreTrainedTokenizerFast

from depthface.contract import ONNX_FILE
from depthface.errors import DepthfaceError
from depthface.families.clip import processing
from depthface_bench import limits, photos
from depthface_bench.repositories import EMBEDDINGS, embedding_card
from depthface_bench.rounds import Way, in_turn
from depthface_bench.variants import FP32, Variant
from depthface_client import Client
from depthface_standins.clip import architectures

__all__ = ["AT_ONCE", "KINDS", "TASKS", "Kind", "Vector", "gflop", "library", "measure", "same_vector", "ways"]

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

_FP32 = FP32.name


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


def ways(kind: Kind, post: Callable[[bytes], Any], clients: Mapping[Variant, Client], threads: int) -> list[Way]:
    """A photo, or a text, to its vector. OpenCLIP is left out where what it needs is not installed.

    Args:
        post: sends a body to the service of `library`.
    """
    theirs = [Way("library", _FP32, library(kind, threads))]
    if all(importlib.util.find_spec(name) for name in ("open_clip", "torchvision", "timm")):
        theirs.append(Way("openclip", _FP32, open_clip(kind, threads)))
    return [
        *theirs,
        Way("service", _FP32, lambda body: np.array(post(body).json()["embedding"], np.float32)),
        *(Way("server", variant.name, _ours(kind, client)) for variant, client in clients.items()),
    ]


def same_vector(expected: Vector, got: Vector, *, most: float = 0.01) -> None:
    """Hold one answer against another; raises `DepthfaceError` if 1 − cosine is over `most`."""
    loss = 1 - float(expected @ got)
    if not loss <= most:
        raise DepthfaceError(f"Two answers of one item have 1 − cosine {loss:.3f}: not the same work.")


def measure(
    post: Mapping[Kind, Callable[[bytes], Any]],
    clients: Mapping[Variant, Client],
    threads: int,
    count: int,
    rounds: int,
) -> list[dict[str, Any]]:
    """Return the rounds of both kinds, as `run.measure` keeps them; of `count` photos each."""
    found = []
    for kind in KINDS:
        some = items(kind, count)
        compared = ways(kind, post[kind], clients, threads)
        for item in some:
            answers = [way.call(item) for way in compared if way.kind != "openclip"]  # its weights are its own
            for answer in answers:
                same_vector(np.asarray(answers[0]), np.asarray(answer))
        series = in_turn(compared, some, AT_ONCE, rounds)
        found += [asdict(one) | {"task": TASKS[kind], "photo": name_of(kind)} for one in series]
    return found


def items(kind: Kind, count: int) -> Sequence[bytes]:
    """What is sent: photos, or texts."""
    return TEXTS if kind == "text" else [photos.sized(*PHOTO_SIZE, index) for index in range(count)]


def name_of(kind: Kind) -> str:
    """What results call an item."""
    return "a few words" if kind == "text" else "{}×{}".format(*PHOTO_SIZE)


def gflop(repository: Path) -> dict[str, float]:
    """Operations of the exported networks, by the name of their item."""
    tokenizer = processing.tokenizer_from_bytes(architectures.byte_tokenizer())
    fed: dict[Kind, dict[str, npt.NDArray[Any]]] = {
        "image": {"pixels": np.zeros((1, 224, 224, 3), np.uint8)},
        "text": {"tokens": processing.read(tokenizer, TEXTS[0].decode()).tokens[None]},
    }
    return {
        name_of(kind): limits.gflop(repository / f"{EMBEDDINGS}_{kind}_network" / "1" / ONNX_FILE, fed[kind])
        for kind in KINDS
    }


def _ours(kind: Kind, client: Client) -> Callable[[bytes], Vector]:
    model = f"{EMBEDDINGS}_{kind}"
    if kind == "image":
        return lambda photo: client.embed(photo, model=model).vector
    return lambda text: client.embed_text(text.decode(), model=model).vector


def _unit(found: Any) -> Vector:
    features = found if isinstance(found, torch.Tensor) else found.pooler_output
    vector: Vector = torch.nn.functional.normalize(features, dim=-1)[0].numpy()
    return vector
