"""What can be asked of a model, each task a module: its tensors and options, its result, its methods of a client.

A task knows *what*, a family (`depthface.families`) knows *how*. A public model's config names its task, so that
whoever meets a server can go over what it serves without knowing a model by name. A task's module is pure (numpy,
Pillow), and offers

- `NAME`: as configs have it;
- `Options`, where a request can ask for more than its inputs: what that is, checked by the same code in the client and
  in the server;
- `probe(description)`: the smallest request that proves that a model answers, or None where that would cost too much;
- a class of methods, which both clients inherit.
"""

from __future__ import annotations

import importlib
import pkgutil

from depthface.asking import Description, Infer
from depthface.tasks.depth import DepthMethods
from depthface.tasks.embedding import EmbeddingMethods
from depthface.tasks.faces import FaceMethods
from depthface.tasks.swap import SwapMethods

__all__ = ["TaskMethods", "probe"]


class TaskMethods(DepthMethods, FaceMethods, SwapMethods, EmbeddingMethods):
    """The methods of every task."""


def probe(description: Description) -> Infer | None:
    """Return the smallest request that proves that a public model answers; None where there is none."""
    task = description.parameters.task
    if task not in {module.name for module in pkgutil.iter_modules(__path__)}:  # of a server newer than this client
        return None
    request: Infer | None = importlib.import_module(f"{__name__}.{task}").probe(description)
    return request
