"""What served models are, by what their configs say of them and not by their names."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from depthface.families import all_cards
from depthface.spec import HubWeights
from depthface.tasks import embedding, faces, swap
from depthface_client import ModelInfo

__all__ = ["analyses", "det_size_of", "embedding_models", "embedding_pair", "exportable", "hub_id", "swappers"]


_DETECTOR_SIDE_PX = 640
"""The square in which InsightFace 0.7 looks for faces."""


def analyses(models: Mapping[str, ModelInfo]) -> dict[str, str]:
    """Return the models that tell all of a photo's faces, by their packs; of one pack the model that tells most."""
    found = [model for model in models.values() if model.task == faces.NAME and swap.PACK in model.facts]
    found.sort(key=lambda model: (model.rank, -len(model.outputs), -len(model.inputs), model.name), reverse=True)
    return {model.facts[swap.PACK]: model.name for model in found}  # the last of a pack, which is the first in rank


def embedding_models(models: Mapping[str, ModelInfo], taking: str) -> dict[str, str]:
    """Return the models that turn an `image`, or a `text`, into a vector, by their spaces; the first rank first."""
    found = (model for model in models.values() if model.task == embedding.NAME and taking in model.inputs)
    ranked = sorted(found, key=lambda model: (model.rank, model.name))
    return {model.facts.get(embedding.SPACE, model.name): model.name for model in reversed(ranked)}


def embedding_pair(models: Mapping[str, ModelInfo]) -> tuple[str, str] | None:
    """Return the model of photos and the one of texts of the first space that has both; None if none has."""
    eyes, words = embedding_models(models, "image"), embedding_models(models, "text")
    pairs = [(eyes[space], words[space]) for space in eyes.keys() & words.keys()]
    return min(pairs, key=lambda pair: (models[pair[0]].rank, pair[0]), default=None)


def det_size_of(model: ModelInfo | None) -> int | None:
    """Return the `det_size` of the services before this one; None for a pack whose detector takes one square alone."""
    return None if model is not None and faces.DETECTOR_SIDE in model.facts else _DETECTOR_SIDE_PX


def swappers(models: Iterable[ModelInfo]) -> list[ModelInfo]:
    """Return the models that swap faces."""
    return [model for model in models if model.task == swap.NAME]


@functools.cache
def exportable() -> Mapping[str, ModelInfo]:
    """Return the public models that `depthface export` makes by name, as a server would tell of them if it had them."""
    models = {
        pipeline.name: ModelInfo(
            name=pipeline.name,
            ready=False,
            weights=card.weights.repo_id if isinstance(card.weights, HubWeights) else card.name,
            task=pipeline.parameters.task or "",
            precision="",
            is_lazy=pipeline.parameters.is_lazy,
            rank=pipeline.parameters.rank,
            inputs=tuple(tensor.name for tensor in pipeline.inputs),
            outputs=tuple(tensor.name for tensor in pipeline.outputs),
            facts=pipeline.parameters.facts,
        )
        for card in all_cards().values()
        for pipeline in card.pipelines
    }
    return MappingProxyType(models)


def hub_id(model: ModelInfo) -> str:
    """Return the hub's name of a model's weights, without the revision."""
    return model.weights.partition("@")[0]
