"""The glue between Triton's Python backend and a coroutine that handles one photo, asking the networks for its part.

A generated `1/model.py` names the coroutine; everything else is here. A bad photo answers its own request with a 400
and touches no other one. A step of an ensemble is the same, and asks no network.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import threading
import traceback
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

from depthface import heap, image
from depthface.contract import (
    MANIFEST_FILE,
    MODEL_VERSION,
    NO_ROOM,
    NOT_SERVED,
    QUEUE_FULL,
    WAITED_TOO_LONG,
    Parameters,
)
from depthface.errors import InvalidInput, decode, encode
from depthface.spec import AskNetwork
from depthface_server.gathering import Gathering
from depthface_server.photos import Value, mixed_shapes, run_together
from depthface_server.reporting import Report
from depthface_server.tensors import array_of, refuse_no_numbers

__all__ = ["Pipeline"]

_loading = threading.Lock()


class Pipeline:
    """A Triton model made of the coroutine `run(wanted, infer, parameters, *inputs) -> outputs`.

    `run` gets the names of the outputs asked for; `infer(model, inputs, outputs)`, which takes batched arrays by name
    and gives those asked for (Triton's BLS); the config's `Parameters`; and, in the order of the config, each input of
    **one** photo: an array without batch dimension, `bytes`, or None for an optional input that was left out. Its
    keyword-only arguments are the parameters of the request that it knows, of whatever type they came: it looks at them
    itself. It returns arrays or `bytes` by output name, those asked for among them, and raises `InvalidInput`.

    Of a request with several photos each runs up to its first question to a network; if these are of different shapes,
    so that the answers could not be one tensor, the request is refused before a network has computed.
    """

    run: Callable[..., Any]

    def initialize(self, args: dict[str, str]) -> None:
        """Make ready, when Triton loads the model; refuse to load before its networks are exported."""
        config = json.loads(args["model_config"])
        self._inputs: dict[str, str] = {tensor["name"]: tensor["data_type"] for tensor in config["input"]}
        self._required = [tensor["name"] for tensor in config["input"] if not tensor.get("optional")]
        self._outputs: tuple[str, ...] = tuple(tensor["name"] for tensor in config["output"])
        self._is_of_one_shape = all(int(dim) > 0 for tensor in config["output"] for dim in tensor["dims"])
        repository = Path(args["model_repository"]).parent
        self._parameters = replace(Parameters.of_config(config), repository=repository)
        self._model: str = config["name"]
        self._name = self._parameters.part_of or self._model
        if misfit := self._parameters.misfit:  # it came under a server that runs, or under a plain `tritonserver`
            raise pb_utils.TritonModelException(f"{self._name} {misfit}. Export it anew (depthface export).")
        _refuse_templates(self._name, repository, self._parameters.networks.values())
        self._options = inspect.getfullargspec(type(self).run).kwonlyargs
        counts_faces = self._parameters.counted is not None
        self._report = Report(self._model, part_of=self._parameters.part_of, counts_faces=counts_faces)
        heap.keep()
        self._trimmer = heap.Trimmer()
        image.use_one_thread()  # the cores belong to the network

    async def execute(self, requests: list[Any]) -> list[Any]:
        """Run the requests of one batch at once, for Triton; each gets an answer of its own."""
        self._trimmer.touch()
        infer = functools.partial(_infer, _asked_by(self._model, requests), self._parameters.networks.values())
        together = Gathering(infer).ask if self._parameters.gathers else None
        answers = await asyncio.gather(*(self._answer(request, together) for request in requests))
        self._trimmer.touch()
        return list(answers)

    async def _answer(self, request: Any, together: AskNetwork | None) -> Any:
        try:
            photos = self._photos(request)
            asked = set(request.requested_output_names())
            wanted = [name for name in self._outputs if name in asked]
            asked_by = _asked_by(self._model, [request])
            infer = together or functools.partial(_infer, asked_by, self._parameters.networks.values())
            infer = _sound(infer)
            given = json.loads(request.parameters() or "{}")
            options = {name: given[name] for name in self._options if name in given}

            def run(infer: AskNetwork, inputs: tuple[Value | None, ...]) -> Awaitable[Mapping[str, Value]]:
                return type(self).run(frozenset(wanted), infer, self._parameters, *inputs, **options)  # type: ignore[no-any-return]

            found = await run_together(run, infer, photos, of_any_shape=self._is_of_one_shape)
            return self._response(wanted, found)
        except Exception as error:
            return self._failure(request, error)

    def _response(self, wanted: Sequence[str], photos: list[Mapping[str, Value]]) -> Any:
        columns = {name: [photo[name] for photo in photos] for name in wanted}
        response = pb_utils.InferenceResponse([_tensor(name, column) for name, column in columns.items()])
        counted = self._parameters.counted
        if counted and counted in wanted:
            for photo in photos:
                self._report.record_faces(len(photo[counted]))
        return response

    def _photos(self, request: Any) -> list[tuple[Value | None, ...]]:
        """Return the inputs of a request, photo by photo."""
        columns: list[list[Value] | None] = []
        for name, data_type in self._inputs.items():
            tensor = pb_utils.get_input_tensor_by_name(request, name)
            if tensor is None and name in self._required:  # Triton lets it through: it counts inputs, and some may miss
                raise InvalidInput(f"The request has no {name!r}.", "Send that input too.")
            if self._parameters.part_of and name in self._required and data_type == "TYPE_FP32":  # what a network gave
                refuse_no_numbers({name: array_of(name, tensor)})
            columns.append(None if tensor is None else _items(name, tensor, data_type))
        counts = {len(column) for column in columns if column is not None}
        if len(counts) != 1 or counts == {0}:
            raise InvalidInput("The inputs hold different numbers of photos.", "Send one item of each for a photo.")
        missing: list[Value | None] = [None] * counts.pop()
        return list(zip(*(missing if column is None else column for column in columns), strict=True))

    def _failure(self, request: Any, error: Exception) -> Any:
        if isinstance(error, InvalidInput):
            self._report.record_refusal(request, error)
            return _error(encode(error), pb_utils.TritonError.INVALID_ARG)
        if isinstance(error, _Overloaded):
            self._report.record_overload(request, str(error))
            return _error(str(error), pb_utils.TritonError.UNAVAILABLE)
        self._report.record_failure(request, "".join(traceback.format_exception(error)))
        is_told = isinstance(error, _NotLoaded) or NO_ROOM in str(error)
        text = str(error) if is_told else f"{self._name} failed; the server's log says why"
        return _error(text, pb_utils.TritonError.INTERNAL)


def _refuse_templates(pipeline: str, repository: Path, networks: Collection[str]) -> None:
    """Refuse a pipeline that is laid out before its networks are exported, which Triton would count as ready."""
    for network in networks:
        folder = repository / network
        files = (path.name for path in (folder / MODEL_VERSION).glob("*"))
        if folder.is_dir() and all(name == MANIFEST_FILE for name in files):
            raise pb_utils.TritonModelException(
                f"{pipeline}: its network {network} is not exported. Export it (depthface export), or take the folder "
                f"{pipeline} out of the repository."
            )


def _sound(infer: AskNetwork) -> AskNetwork:
    """Have a network whose answer is no number fail, by whatever backend it is computed."""

    async def ask(model: str, inputs: Mapping[str, npt.NDArray[Any]], outputs: Collection[str]) -> dict[str, Any]:
        found = await infer(model, inputs, outputs)
        refuse_no_numbers(found)
        return found

    return ask


class _Overloaded(Exception):
    """A model that a pipeline asked has a full queue, or let the request wait too long."""


class _NotLoaded(Exception):
    """A network that is loaded when it is first used could not be."""


def _load(network: str, pipeline: str) -> None:
    """Load a network that the server has not loaded, once for however many requests of a pipeline ask for it.

    Not for those that still waited in the pipeline when it was unloaded: its networks are to leave with it.
    """
    with _loading:
        if pb_utils.is_model_ready(network):
            return
        if not pb_utils.is_model_ready(pipeline):
            raise _NotLoaded(f"{pipeline} is not ready any more: it is being unloaded.")
        try:
            pb_utils.load_model(network)
        except pb_utils.TritonModelException as error:
            pb_utils.Logger.log_error(f"{network}: {error}")
            raise _NotLoaded(
                f"{network} cannot be loaded; the server's log says why. A server that loads on demand runs with "
                "--model-control-mode=explicit."
            ) from error


@dataclass(frozen=True)
class _Asked:
    """On whose behalf a network is asked.

    Attributes:
        pipeline: the model that asks it.
        id: of the request, or the first of several.
        timeout_us: the longest of theirs; 0 for none.
    """

    pipeline: str
    id: str
    timeout_us: int


def _asked_by(pipeline: str, requests: Sequence[Any]) -> _Asked:
    timeouts = [request.timeout() for request in requests]
    return _Asked(pipeline, requests[0].request_id(), max(timeouts) if all(timeouts) else 0)


async def _infer(
    asked: _Asked,
    networks: Collection[str],
    model: str,
    inputs: Mapping[str, npt.NDArray[Any]],
    outputs: Collection[str],
) -> dict[str, Any]:
    """Ask a model on behalf of a request: under its id and, as far as it has one, its time limit.

    A pipeline that is asked heeds that limit. An exported network does not: its queue has none that a request could
    shorten (docs/operating.md, Queues).

    One of the pipeline's own `networks` that is not there is loaded: the swapper's, and, under a plain `tritonserver`
    that was told the pipeline's name alone, any.
    """

    async def ask() -> Any:
        request = pb_utils.InferenceRequest(
            request_id=asked.id,
            timeout=asked.timeout_us,
            model_name=model,
            requested_output_names=list(outputs),
            inputs=[pb_utils.Tensor(name, np.ascontiguousarray(array)) for name, array in inputs.items()],
        )
        return await request.async_exec()

    response = await ask()
    is_own = model in networks
    if is_own and response.has_error() and any(sign in response.error().message() for sign in NOT_SERVED):
        await asyncio.to_thread(_load, model, asked.pipeline)
        response = await ask()
    if response.has_error():
        raise _what_went_wrong(model, is_own, response.error().message())
    return {name: pb_utils.get_output_tensor_by_name(response, name).as_numpy() for name in outputs}


def _what_went_wrong(model: str, is_own: bool, message: str) -> Exception:
    """Return the error in what Triton says of a model's answer, which it hands to a pipeline as text.

    That a model is not there is the request's fault if the request named it, and the server's if it is one of the
    pipeline's own.
    """
    invalid = decode(message)
    if invalid is not None:
        return invalid
    if QUEUE_FULL in message or WAITED_TOO_LONG in message:
        return _Overloaded(message)
    if not is_own and any(sign in message for sign in NOT_SERVED):
        return InvalidInput(f"This needs {model}, which the server does not serve.", "Export it, or name another.")
    return RuntimeError(message)


def _items(name: str, tensor: Any, data_type: str) -> list[Value]:
    """Return the photos of a batched tensor, one by one; arrays are read-only views into shared memory."""
    if data_type != "TYPE_STRING":
        return list(array_of(name, tensor))
    items = [row[0] for row in tensor.as_numpy()]
    if not all(isinstance(item, bytes) for item in items):
        raise InvalidInput(f"{name} holds an item that is not bytes.", "Send the encoded photo, as it is in its file.")
    return items


def _tensor(name: str, values: list[Value]) -> Any:
    """Return the photos' values as one batched tensor."""
    arrays = [value for value in values if isinstance(value, np.ndarray)]
    if not arrays:
        return pb_utils.Tensor(name, np.array([[value] for value in values], np.object_))
    if len({array.shape for array in arrays}) > 1:
        raise mixed_shapes()
    return pb_utils.Tensor(name, np.stack(arrays))


def _error(text: str, code: int) -> Any:
    return pb_utils.InferenceResponse([], pb_utils.TritonError(text, code))
