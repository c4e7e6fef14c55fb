"""Embeddings compared in their own units, as CLIP's are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from depthface.families.clip.card import TOKENIZER_FILE
from depthface.families.clip.parity import compared, views
from depthface.families.siglip.processing import read, squashed, tokenizer_from_bytes
from depthface.spec import Samples, Source

__all__ = ["measurements"]


def measurements(
    source: Source, run: Callable[[dict[str, Any]], dict[str, Any]], samples: Samples
) -> Iterator[tuple[str, dict[str, float]]]:
    """Compare an export with its reference: on photos, or on sentences.

    Args:
        source: of the network of photos, or of that of texts, whose files hold its tokenizer.
        run: the exported network, inputs by name to outputs by name.
        samples: of both.

    Yields:
        The name of each case and its metrics, as CLIP's `parity.measure` has them.
    """
    if TOKENIZER_FILE in source.files:
        tokenizer = tokenizer_from_bytes(source.files[TOKENIZER_FILE])
        tokens = [read(tokenizer, text).tokens for text in samples.sentences]
        yield compared("tokens", tokens, source.reference(np.stack(tokens)), run)
    else:
        shown = [np.ascontiguousarray(view) for photo in samples.photos for view in views(photo)]
        expected = source.reference(np.stack([squashed(view) for view in shown]))
        yield compared("pixels", [squashed(view, exact=samples.is_exact) for view in shown], expected, run)
