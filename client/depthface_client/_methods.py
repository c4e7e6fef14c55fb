"""What both clients offer: the tasks' methods, and those about the server itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from depthface.asking import Asker, Description, Index, Load, Ready, Served, Steps, Unload, operation
from depthface.errors import ModelUnavailable
from depthface.tasks import TaskMethods, probe

__all__ = ["Methods", "ModelInfo"]


@dataclass(frozen=True)
class ModelInfo:
    """A model and what a server says of it.

    Attributes:
        name: as in `Client.depth(model=…)` or `Client.faces(model=…)`.
        ready: whether it can be asked at once; one that is loaded when it is first used may not be.
        weights: which weights it serves; `Client.models` leaves them empty while it is not ready.
        task: what it does: `depth`, `faces`, `swap`, ….
        precision: of its networks; empty if the server does not say.
        is_lazy: whether it is loaded when it is first used.
        rank: which one a request takes that names no model, of several that do the same: the lowest.
        inputs: their names.
        outputs: their names.
        facts: what its family says besides, such as the pack of an analysis, or the space of an embedding.
    """

    name: str
    ready: bool
    weights: str
    task: str
    precision: str
    is_lazy: bool
    rank: int = 0
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)


class Methods(TaskMethods, Asker):
    """Everything that can be asked of a server."""

    @operation
    def models(self) -> Steps[list[ModelInfo]]:
        """Return the public models that the server has loaded, and what it says of each now.

        Raises:
            ClientError: no answer.
        """
        self._forget()
        served = yield from self._served()
        infos = []
        for description in served:
            is_ready = yield from self._is_ready(description)
            known = description.parameters
            infos.append(
                ModelInfo(
                    name=description.name,
                    ready=is_ready,
                    weights=known.weights if is_ready else "",
                    task=known.task or "",
                    precision=known.precision or "",
                    is_lazy=known.is_lazy,
                    rank=known.rank,
                    inputs=description.inputs,
                    outputs=description.outputs,
                    facts=known.facts,
                )
            )
        return infos

    @operation
    def loaded(self) -> Steps[dict[str, int]]:
        """Return how many items each model has answered since it was loaded, by name; its parts are named too.

        This is one request, where `models()` is several for each model. As long as the names stay and no number falls,
        nothing was loaded or unloaded, and the server was not started anew. What this does not show is a model that
        was loaded again, and has answered as much since as it had before.

        Raises:
            ClientError: no answer.
        """
        counts: dict[str, int] = yield from self._ask(Served())
        return counts

    @operation
    def check(self) -> Steps[list[str]]:
        """Send a small request through every model that is ready; return their names.

        A server's own ready endpoint says 200 even when a process of a model has died: only an answer proves that it
        answers. Face swappers are left alone: they would have to load half a gigabyte.

        Raises:
            ModelUnavailable: no model is served.
            ClientError: one does not answer.
        """
        checked = []
        for description in (yield from self._served()):
            request = probe(description)
            if request is not None and (yield from self._is_ready(description)):
                yield from self._infer(request.model, request.inputs, request.outputs, request.parameters, None)
                checked.append(description.name)
        if not checked:
            raise ModelUnavailable(f"{self._server} answers but serves no model.", "Export one: `depthface export`.")
        return checked

    @operation
    def weights(self, model: str | None = None) -> Steps[str]:
        """Return which weights the server serves, as the model's config says.

        Args:
            model: None for the one that a request about depth takes.

        Returns:
            Such as `<hub id>@<revision>`, `<pack>@<publisher>`, `folder <name>`, `synthetic`, `random, seed 0`, or
            `unknown`.

        Raises:
            InvalidInput: none is named, and there are several of which none comes before the others.
            ModelUnavailable: there is none, or not this one.
            ClientError: no answer.
        """
        model = model or (yield from self._serving("depth"))
        return (yield from self._describe(model)).parameters.weights

    @operation
    def model_for(self, task: str) -> Steps[str]:
        """Return the model that a request takes which names none.

        Args:
            task: what is asked: `depth`, `faces`, `swap`, ….

        Raises:
            ModelUnavailable: there is none.
            InvalidInput: there are several, and none of them comes before the others.
            ClientError: no answer.
        """
        return (yield from self._serving(task))

    @operation
    def load(self, model: str) -> Steps[None]:
        """Have the server load a model of its repository, and wait until it is ready; needs the admin key.

        Raises:
            NotAllowed: the admin key is missing, or is not the server's.
            ModelUnavailable: the repository has no such model, it cannot be loaded, or the server loads none on demand.
            ClientError: no answer.
        """
        yield Load(model)
        self._forget(model)
        for part in (yield from self._describe(model)).parts:
            yield Load(part)

    @operation
    def unload(self, model: str) -> Steps[None]:
        """Have the server give back the memory of a model and of the parts that it alone has; needs the admin key.

        A model that is loaded when it is first used will be so again. Any other one is gone until `load`.

        Raises:
            NotAllowed: the admin key is missing, or is not the server's.
            ModelUnavailable: the repository has no such model, or the server unloads none on demand.
            ClientError: no answer.
        """
        states = yield Index()
        if model not in states:  # Triton itself would say that all went well
            raise ModelUnavailable(f"{self._server} has no model {model!r}.", "See `depthface models` for what it has.")
        ready = {name for name, state in states.items() if state == "READY"}
        loaded = yield from self._described(ready - {model})
        if model in ready:
            loaded.append((yield from self._describe(model)))
        for name in _leaving_with(model, loaded):
            yield Unload(name)
        self._forget(model)

    def _is_ready(self, description: Description) -> Steps[bool]:
        for name in (description.name, *description.parts):
            if not (yield from self._ask(Ready(name))):
                return False
        return True


def _leaving_with(model: str, loaded: list[Description]) -> list[str]:
    """Return what is to be unloaded, in this order, for a model to leave memory: itself, and its own parts alone.

    A pipeline that loads its networks when they are first used stays, to do so again.
    """
    parts = {one.name: set(one.parts) for one in loaded}
    own = parts.pop(model, set())
    shared = set().union(*(needed for name, needed in parts.items() if name not in own))
    stays = any(one.parameters.is_lazy for one in loaded if one.name == model)
    return [*([] if stays else [model]), *sorted(own - shared)]
