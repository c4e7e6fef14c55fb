"""The task `embedding`: a photo or a sentence in, a vector out; what belongs together points the same way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from depthface.asking import Asker, Description, Infer, Steps, Together, bytes_tensor, operation
from depthface.errors import InvalidInput
from depthface.operations import UNUSABLE, naming, operation_on_many
from depthface.photos import Photo, encoded, probe_picture

__all__ = [
    "CUT_TOKENS",
    "MAX_TEXT_BYTES",
    "NAME",
    "TEMPLATE",
    "Classification",
    "Embedding",
    "EmbeddingMethods",
    "probe",
    "text_from_bytes",
]

NAME = "embedding"

MAX_TEXT_BYTES = 64 * 2**10
"""The longest text that is taken; a model reads some dozens of words of it, as its reference does."""

TEMPLATE = "a photo of a {}."
"""The sentence that a label is put into, as in CLIP's own examples (arXiv:2103.00020, section 3.1.4)."""

SPACE, SCALE, BIAS = "space", "scale", "bias"
"""The facts of a model: which vectors can be compared with its own; and, for labels, by what a cosine is multiplied,
and what is added where each label is judged by itself."""

CUT_TOKENS = "cut_tokens"
"""The output that says how many of a text's tokens, its last, were cut off; a model of photos has none."""

_BATCH = 16
"""Items of one request, where the model takes as many."""

_AT_ONCE = 8
"""Requests under way for one list: more would only fill the server's queue, which others wait in too."""

_IN_MEMORY = _BATCH * _AT_ONCE
"""Photos of one list that are read before they are sent: the most that can be under way."""


@dataclass(frozen=True, eq=False)
class Embedding:
    """What a model sees in a photo, or reads in a text.

    Attributes:
        vector: `(D,) float32`, read-only, of unit length.
        model: that gave it.
        weights: what the server says it serves; random ones mean nothing.
        space: the name that models share whose vectors can be compared: one of photos and one of texts.
        cut_tokens: how many of a text's tokens, its last, were cut off before the model read it; 0 of a photo.
    """

    vector: npt.NDArray[np.float32]
    model: str
    weights: str
    space: str
    cut_tokens: int = 0

    @property
    def is_cut(self) -> bool:
        """Whether the model has read only the start of a text."""
        return self.cut_tokens > 0

    def similarity(self, other: Embedding) -> float:
        """Return the cosine of two vectors, −1…1.

        Raises:
            InvalidInput: they are of models that differ, or one is not of finite numbers.
        """
        if (self.space, self.weights) != (other.space, other.weights):
            raise InvalidInput(
                f"A vector of {self.model} ({self.weights}) and one of {other.model} ({other.weights}) cannot be "
                "compared.",
                "Take both from models of one space and the same weights.",
            )
        if not (np.isfinite(self.vector).all() and np.isfinite(other.vector).all()):
            raise InvalidInput("A vector is not of finite numbers.", "Ask for it anew.")
        return float(np.clip(self.vector.astype(np.float64) @ other.vector.astype(np.float64), -1.0, 1.0))


@dataclass(frozen=True)
class Classification:
    """How well a label fits a photo.

    Attributes:
        label: as it was given.
        probability: 0…1; of all labels together 1, or, with a model that judges each by itself, any sum.
        similarity: the cosine behind it.
        cut_tokens: as of the `Embedding` of the label's sentence.
    """

    label: str
    probability: float
    similarity: float
    cut_tokens: int = 0


class EmbeddingMethods(Asker):
    """What a client asks about embeddings."""

    @operation_on_many
    def embed(
        self, photo: list[Photo], *, model: str | None = None, request_id: str | None = None
    ) -> Steps[list[Embedding]]:
        """Return the `Embedding` of a photo; of a list of photos a list of them, in its order.

        Args:
            photo: a path, the bytes of a file, a PIL picture, or an array as for `depth`; or a list of such.
            model: None for the one that the server serves.
            request_id: what the server's log and an error name the request by; None for one made up.

        Raises:
            InvalidInput: a photo cannot be used.
            ClientError: no answer.
        """
        found: list[Embedding] = []
        for start in range(0, len(photo), _IN_MEMORY):
            some = photo[start : start + _IN_MEMORY]
            names = [f"Photo {start + place} of {len(photo)}" for place in range(1, len(some) + 1)]
            items = []
            for one, name in zip(some, names, strict=True):
                items.append((yield from naming(self._read(one), name, one) if len(photo) > 1 else self._read(one)))
            model = model or (yield from self._serving(NAME, taking=["image"]))
            try:
                found += yield from self._embed(model, "image", items, request_id)
            except UNUSABLE:  # the server does not say which of a request's; or the request itself was too large
                if len(photo) == 1:
                    raise
                for one, name, item in zip(some, names, items, strict=True):
                    found += yield from naming(self._embed(model, "image", [item], request_id), name, one)
        return found

    @operation_on_many
    def embed_text(
        self, text: list[str], *, model: str | None = None, request_id: str | None = None
    ) -> Steps[list[Embedding]]:
        """Return the `Embedding` of a text; of a list of texts a list of them, in its order.

        Args:
            text: words of any language that the model was taught; what is too long for it is cut off at its end, and
                the answer's `cut_tokens` says so.
            model: None for the one that the server serves.
            request_id: what the server's log and an error name the request by; None for one made up.

        Raises:
            InvalidInput: a text is empty, or longer than `MAX_TEXT_BYTES`.
            ClientError: no answer.
        """
        items = [_bytes_from_text(one) for one in text]
        model = model or (yield from self._serving(NAME, taking=["text"]))
        return (yield from self._embed(model, "text", items, request_id))

    @operation
    def classify(
        self,
        photo: Photo,
        labels: Sequence[str],
        *,
        template: str = TEMPLATE,
        model: str | None = None,
    ) -> Steps[list[Classification]]:
        """Return how well each label fits a photo, the best first, by the rule that the model was taught with.

        CLIP chooses one of the labels: a softmax of the cosines, times its scale. SigLIP judges each by itself: a
        sigmoid of the cosine times the scale, plus the bias; so says its model card, and `transformers` does so.

        Args:
            photo: as for `embed`.
            labels: such as `["cat", "dog"]`; with a model that chooses one of them (CLIP), one label alone always has
                probability 1.
            template: the sentence that each is put into, in the place of `{}`.
            model: the one of photos, None for the one that the server serves; that of texts is its counterpart.

        Raises:
            InvalidInput: the photo or a label cannot be used, or the template has no place for it.
            ClientError: no answer.
        """
        if isinstance(labels, str) or len(labels) < 1 or not all(isinstance(one, str) for one in labels):
            raise InvalidInput(f"labels is {labels!r}.", "Give a list of words, such as ['cat', 'dog'].")
        if "{}" not in template:
            raise InvalidInput(f"template is {template!r}.", "Write {} where the label belongs.")
        model = model or (yield from self._serving(NAME, taking=["image"]))
        image = yield from self._describe(model)
        space = image.parameters.facts.get(SPACE)
        texts = [
            one.name
            for one in (yield from self._served())
            if "text" in one.inputs and one.parameters.facts.get(SPACE) == space
        ]
        if not texts:
            raise InvalidInput(f"The server has no model of texts beside {model}.", "Load it, or export it.")
        sentences = [template.replace("{}", label) for label in labels]
        (seen,), read = yield Together(
            [
                EmbeddingMethods.embed.way(self, [photo], model=model),
                EmbeddingMethods.embed_text.way(self, sentences, model=texts[0]),
            ]
        )
        cosines = [seen.similarity(one) for one in read]
        chances = _probabilities(cosines, image.parameters.facts)
        cut = [one.cut_tokens for one in read]
        found = [Classification(*one) for one in zip(labels, chances, cosines, cut, strict=True)]
        return sorted(found, key=lambda one: -one.similarity)

    def _embed(self, model: str, name: str, items: list[bytes], request_id: str | None) -> Steps[list[Embedding]]:
        known = yield from self._describe(model)
        outputs = [output for output in ("embedding", CUT_TOKENS) if output in known.outputs]
        size = min(max(known.max_batch_size, 1), _BATCH)
        batches = [items[start : start + size] for start in range(0, len(items), size)]
        answers: list[dict[str, Any]] = []
        for start in range(0, len(batches), _AT_ONCE):
            answers += yield Together(
                [
                    self._infer(model, {name: bytes_tensor(*batch)}, outputs, {}, request_id)
                    for batch in batches[start : start + _AT_ONCE]
                ]
            )
        vectors = [vector for answer in answers for vector in answer["embedding"]]
        for vector in vectors:
            vector.setflags(write=False)
        cut = [int(row[0]) for answer in answers for row in answer.get(CUT_TOKENS, ())] or [0] * len(vectors)
        space = known.parameters.facts.get(SPACE, model)
        return [
            Embedding(vector, model, known.parameters.weights, space, count)
            for vector, count in zip(vectors, cut, strict=True)
        ]


def text_from_bytes(data: bytes) -> str:
    """Return the text that a request holds; raise `InvalidInput` if it is empty, too long, or not UTF-8.

    Blanks are a text: the references read a start and an end in them, and immich sends such a search on.
    """
    if len(data) > MAX_TEXT_BYTES:
        raise InvalidInput(f"The text has {len(data)} bytes.", f"Send one of up to {MAX_TEXT_BYTES}.")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"The text is not UTF-8 ({error.reason} at byte {error.start}).", "Encode it so.") from error
    if not text:
        raise InvalidInput("The text is empty.", "Send one or more words.")
    return text


def probe(description: Description) -> Infer:
    """Return the smallest request that proves that a model answers."""
    if "text" in description.inputs:
        return Infer(description.name, {"text": bytes_tensor(b"a photo")}, ("embedding",))
    return Infer(description.name, {"image": bytes_tensor(encoded(probe_picture()))}, ("embedding",))


def _bytes_from_text(text: str) -> bytes:
    if not isinstance(text, str):
        raise InvalidInput(f"{type(text).__name__} is not a text.", "Give a str.")
    data = text.encode("utf-8", "surrogatepass")
    text_from_bytes(data)
    return data


def _probabilities(cosines: Sequence[float], facts: Any) -> list[float]:
    """Softmax of the scaled cosines (arXiv:2103.00020, figure 3), or a sigmoid of each (arXiv:2303.15343, eq. 1)."""
    scale = float(facts.get(SCALE, 1.0))
    if BIAS in facts:
        return [1 / (1 + math.exp(-(scale * cosine + float(facts[BIAS])))) for cosine in cosines]
    most = max(cosines)
    weights = [math.exp(scale * (cosine - most)) for cosine in cosines]
    total = sum(weights)
    return [weight / total for weight in weights]
