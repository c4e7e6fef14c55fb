"""A folder in the format of `transformers`, which anybody may have made: whose network it is, and its weights."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from logging import CRITICAL
from pathlib import Path
from typing import Any

import torch
from transformers import logging as transformers_logging

from depthface.errors import WeightsCorrupt
from depthface.spec import ModelCard

__all__ = ["check_config", "loaded", "tokenizer"]

MAX_CONFIG_BYTES = 2**20
MAX_TOKENIZER_BYTES = 64 * 2**20

_LAYERS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "hidden_act", "layer_norm_eps")

_FACTS: dict[str, tuple[str, ...]] = {
    "": (
        *("model_type", "projection_dim", "patch_size", "neck_hidden_sizes", "fusion_hidden_size"),
        *("reassemble_factors", "head_in_index", "head_hidden_size", "depth_estimation_type"),
    ),
    "vision_config": (*_LAYERS, "intermediate_size", "patch_size"),
    "text_config": (*_LAYERS, "intermediate_size", "vocab_size", "max_position_embeddings"),
    "backbone_config": ("model_type", *_LAYERS, "mlp_ratio", "patch_size", "out_indices", "apply_layernorm"),
}
"""What changes a network's numbers, by the part of config.json that says it. Heads, activation, epsilon and indices fit
weights of any shape: a wrong one gives plausible answers, and the reference, built of the same card, gives them too."""

_NEVER_USED = "mask_token"  # DINOv2's, which its training alone uses

_OF_A_LAYER = re.compile(r"\.layers?\.\d+\.")


def check_config(card: ModelCard, folder: Path, expected: Any) -> None:
    """Raise `WeightsCorrupt` if a folder's config.json speaks of another network than the card.

    Args:
        expected: the card's architecture as `transformers` describes it.
    """
    try:
        with (folder / "config.json").open("rb") as file:
            others = list(_differences(json.loads(file.read(MAX_CONFIG_BYTES)), expected))
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise WeightsCorrupt(
            f"config.json in {folder} does not describe {card.title}.", f"Fetch it anew from {card.weights.origin}."
        ) from error
    if others:
        name, value, wanted = others[0]
        raise WeightsCorrupt(
            f"{folder} holds a network with {name} {str(value)[:40]}; {card.title} has {wanted}.", _another(card)
        )


def loaded(kind: Any, card: ModelCard, folder: Path, config: Any) -> Any:
    """Return the card's own architecture with the weights of a folder; in fp32, for evaluation.

    Safetensors alone are read, which hold numbers and no code. The folder's config.json only says whether it is that
    architecture; nothing is built by its numbers.

    Args:
        kind: the model's class in `transformers`.
        config: the card's architecture, as that class takes it.

    Raises:
        WeightsCorrupt: they are another network's, or damaged, or lack a tensor.
    """
    check_config(card, folder, config)
    remedy = f"Fetch it anew from {card.weights.origin}."
    try:
        with _quietly():
            model, report = kind.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
    except Exception as error:  # safetensors', transformers', OSError
        first = str(error).partition("\n")[0].rstrip(".")
        raise WeightsCorrupt(f"model.safetensors in {folder} cannot be loaded ({first}).", remedy) from error
    missing = sorted(name for name in report["missing_keys"] if not name.endswith(_NEVER_USED))
    if missing:  # transformers fills them with random numbers, and goes on
        raise WeightsCorrupt(
            f"model.safetensors in {folder} lacks {len(missing)} of the network's tensors, {missing[0]} first.", remedy
        )
    left_over = sorted(name for name in report["unexpected_keys"] if _OF_A_LAYER.search(name))
    if left_over:  # and what it has no place for it leaves out
        raise WeightsCorrupt(
            f"model.safetensors in {folder} has more in its layers than {card.title}: {len(left_over)} tensors, "
            f"{left_over[0]} first.",
            _another(card),
        )
    return model.eval().requires_grad_(False)


def tokenizer(card: ModelCard, path: Path, is_right: Callable[[bytes], bool], told: str) -> bytes:
    """Return the bytes of a folder's tokenizer.

    Args:
        is_right: whether its tokens are those of the card's network; raises `ValueError` where it cannot be read.
        told: what the right one has.

    Raises:
        WeightsCorrupt: it cannot be read, or is another model's.
    """
    origin = card.weights.origin
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TOKENIZER_BYTES)
        is_so = is_right(data)
    except (OSError, ValueError) as error:
        raise WeightsCorrupt(
            f"{path.name} in {path.parent} cannot be read.", f"Fetch it anew from {origin}."
        ) from error
    if not is_so:
        raise WeightsCorrupt(
            f"{path.name} in {path.parent} is not that of {card.title}: {told}.", f"Give that of {origin}."
        )
    return data


def _differences(whole: Any, expected: Any) -> Iterator[tuple[str, object, object]]:
    """Yield each fact of a config.json that is not the expected one: its name, what is said, what is expected.

    A fact that is left out is what `transformers` takes then, its class's default; one that has no default there is not
    held against it.
    """
    for part, names in _FACTS.items():
        wanted = getattr(expected, part, None) if part else expected
        if wanted is None:
            continue
        said = {**(whole[part] if part else whole)}
        fields = dataclasses.fields(wanted)
        defaults = {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}
        for name in names:
            if not hasattr(wanted, name):
                continue
            right = getattr(wanted, name)
            value = said[name] if name == "model_type" else said.get(name, defaults.get(name, right))
            if _plain(value) != _plain(right):
                yield f"{part}.{name}" if part else name, value, right


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _another(card: ModelCard) -> str:
    return f"Give the folder of {card.weights.origin}, or export the model that these weights are of."


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Hide the progress bar of transformers, and the table of what it did not find; that is answered with an error."""
    level = transformers_logging.get_verbosity()
    had_bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if had_bar:
            transformers_logging.enable_progress_bar()
