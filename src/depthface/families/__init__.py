"""The model families, each a folder found by its name; adding a family is adding a folder.

A family `f` offers

- `f.card`: `CARDS`, the `ModelCard`s of its models; `MAKERS`, what has a hand in its networks; `READS_FOLDERS`, true
  where a folder of files can be a model;
- `f.network`: `load(card, folder, precision)`, a `Source` for each network: what to export and its reference; and,
  where the card reads folders, `card_of_folder(folder)`;
- `f.parity`: `measurements(source, run, samples)`, the export and its reference compared in the task's own units;
- `f.processing`: pure functions round the network;
- `f.pipeline`: the coroutines that the server runs, which the cards name;
- in a package that no client imports, `depthface_standins.f`: weights that are nobody's.

`pretrained` is no family: it reads what those of `transformers` have in common.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from depthface.cache import expanded
from depthface.errors import DepthfaceError
from depthface.spec import ModelCard

__all__ = ["all_cards", "card_named", "module_of"]


def all_cards() -> dict[str, ModelCard]:
    """Every model of every family, by name, in the order of families and cards."""
    return {card.name: card for family in _families() for card in _module(family, "card").CARDS}


def card_named(name: str) -> ModelCard:
    """Return the card of a model, or of a folder of a family's files; raise `DepthfaceError` naming those there are."""
    cards = all_cards()
    if name in cards:
        return cards[name]
    folder = expanded(name)
    if name and folder.is_dir():
        for family in _families():
            if getattr(_module(family, "card"), "READS_FOLDERS", False):
                card: ModelCard = _module(family, "network").card_of_folder(folder)
                return card
    raise DepthfaceError(f"There is no model {name!r}.", f"Choose one of: {', '.join(cards)}; or give a pack's folder.")


def module_of(card: ModelCard, room: str) -> ModuleType:
    """Return a module of the card's family, such as its `network`; imported only now, since it may need torch."""
    return _module(card.family, room)


def _families() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(__path__) if module.ispkg]


def _module(family: str, room: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{family}.{room}")
