"""What the Python-based backends share: a network behind Triton, whatever runtime computes it.

A backend's `model.py` opens the file and runs it. All that Triton and its users see is here: requests are batched,
each answers for itself, and a config that does not fit the file is refused at load, as NVIDIA's backends do.

With `DEPTHFACE_IDLE_MINUTES` a network leaves memory when nobody has asked it for so long, and comes back with the
next request. The process stays, so that the models made of it stay ready, and the answers are the same: it is the file
that is held, and not its name, under which an export may have put another one, whose config is not this one's.
"""

from __future__ import annotations

import fcntl
import gc
import json
import os
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

from depthface import heap
from depthface.contract import MANIFEST_FILE, ONNX_FILE, texts_of
from depthface.errors import InvalidInput, encode
from depthface_server.failures import is_of_memory, is_of_shapes
from depthface_server.options import IDLE_MINUTES
from depthface_server.reporting import Report
from depthface_server.tensors import array_of, refuse_no_numbers

__all__ = ["NetworkBackend", "Tensor"]

Array = npt.NDArray[Any]

_REST_S = 10.0
"""After so many seconds without a request a network gives back what it has between its layers. The next request takes
2 to 10 % longer for it (depth, fp32 and bf16)."""

_LEAST_DESCRIPTOR = 256
"""Of the held file: so high that nothing else is there, and it has the same path at each start. ONNX Runtime's TensorRT
names its cached engines by the last part of that."""


@dataclass(frozen=True)
class Tensor:
    """A tensor as the file has it: `data_type` in Triton's names (`TYPE_FP32`), −1 for a dimension that varies."""

    name: str
    data_type: str
    shape: tuple[int, ...]


class NetworkBackend(ABC):
    """One instance of a network; a backend says how to `open`, to `run` and to `close` it."""

    _held: int | None = None
    _is_exported = False

    @abstractmethod
    def open(
        self, path: Path, config: dict[str, Any], parameters: Mapping[str, str], args: Mapping[str, str]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Load the file; return its inputs and outputs. May raise anything: the load fails, with its text."""

    @abstractmethod
    def run(self, wanted: Sequence[str], feed: Mapping[str, Array]) -> list[Array]:
        """Compute the outputs named, as they are until the next call.

        Whose fault it is what it raises, `depthface_server.failures` tells.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of all that `open` has loaded."""

    def rest(self) -> None:  # noqa: B027 — a runtime may have none
        """Let go of memory that the next call of `run` sets aside again."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the file and hold it against the config; raises `TritonModelException` where they differ."""
        config = json.loads(args["model_config"])
        name = config["name"]
        parameters = texts_of(config)
        file_name = config.get("default_model_filename") or ONNX_FILE
        path = Path(args["model_repository"], args["model_version"], file_name)
        self._is_exported = (path.parent / MANIFEST_FILE).is_file()
        self._report = Report(name)
        self._lock = threading.Lock()
        self._is_open = True
        self._used = time.monotonic()
        heap.keep()
        self._trimmer = heap.Trimmer(_REST_S, self._rest)
        held = path
        try:
            held = self._hold(path)
            self._open = partial(self.open, held, config, parameters, args)
            inputs, outputs = self._open()
        except pb_utils.TritonModelException:
            raise
        except Exception as error:  # runtimes raise a dozen classes without a common base
            reason = str(error).replace(str(held), str(path))
            raise pb_utils.TritonModelException(f"{name}: {file_name} cannot be loaded: {reason}") from error
        _check(name, file_name, config, inputs, outputs)
        self._inputs = [tensor["name"] for tensor in config["input"]]
        idle_s = 60 * float(os.environ.get(IDLE_MINUTES) or 0)
        if idle_s > 0:
            threading.Thread(target=self._leave_when_idle, args=(idle_s,), daemon=True).start()
        self._trimmer.touch()  # reading the file has taken more than what is kept of it

    def finalize(self) -> None:
        """Let go of the file, as the process ends; no thread reads it any more."""
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def execute(self, requests: list[Any]) -> list[Any]:
        """Run the requests of a batch together; each answers for itself."""
        self._trimmer.touch()
        answers = self._answers(requests)
        self._trimmer.touch()
        return answers

    def _hold(self, path: Path) -> Path:
        """Return a path that leads to the file as it is now, whatever is put in its place.

        One with other files beside it that no export has written may have its weights in them: it is left by its name.
        """
        beside = {entry.name for entry in path.parent.iterdir()}
        if MANIFEST_FILE not in beside and beside != {path.name}:
            return path
        with path.open("rb") as file:
            self._held = fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, _LEAST_DESCRIPTOR)
        return Path(f"/proc/self/fd/{self._held}")

    def _rest(self) -> None:
        with self._lock:
            if self._is_open:
                self.rest()
        heap.give_back()

    def _leave_when_idle(self, idle_s: float) -> None:
        while True:
            time.sleep(min(idle_s / 4, 10))
            with self._lock:
                if not self._is_open or time.monotonic() - self._used < idle_s:
                    continue
                self.close()
                self._is_open = False
                gc.collect()
                heap.give_back()
            self._report.log_event("idle", message="left memory; the next request loads it")

    def _answers(self, requests: list[Any]) -> list[Any]:
        with self._lock:
            try:
                if not self._is_open:
                    self._open()
                    self._is_open = True
            except Exception:  # gone from the disk, or no memory left for it
                for request in requests:
                    self._report.record_failure(request, traceback.format_exc())
                error = pb_utils.TritonError("The network cannot be loaded again; the server's log says why.")
                return [pb_utils.InferenceResponse([], error) for _ in requests]
            answers = self._compute(requests)
            self._used = time.monotonic()
            return [self._response(request, answer) for request, answer in zip(requests, answers, strict=True)]

    def _compute(self, requests: list[Any]) -> list[dict[str, Array] | Exception]:
        """All at once; if that fails, one by one, so that each answers for itself alone."""
        wanted = sorted({name for request in requests for name in request.requested_output_names()})
        feeds = [self._feed(request) for request in requests]
        sound = [feed for feed in feeds if not isinstance(feed, InvalidInput)]
        try:
            computed: list[dict[str, Array] | Exception] = [*self._run_together(wanted, sound)] if sound else []
        except Exception as error:
            computed = [error] if len(sound) == 1 else [self._run_alone(wanted, feed) for feed in sound]
        answers = iter(computed)
        return [feed if isinstance(feed, InvalidInput) else next(answers) for feed in feeds]

    def _feed(self, request: Any) -> dict[str, Array] | InvalidInput:
        """Return a request's tensors by name, or why they cannot be touched."""
        try:
            return {name: array_of(name, pb_utils.get_input_tensor_by_name(request, name)) for name in self._inputs}
        except InvalidInput as error:
            return error

    def _run_together(self, wanted: list[str], feeds: list[dict[str, Array]]) -> list[dict[str, Array]]:
        if len(feeds) == 1:
            return [self._run_sound(wanted, feeds[0])]
        # Triton batches requests of equal shapes alone.
        feed = {name: np.concatenate([one[name] for one in feeds]) for name in self._inputs}
        results = self._run_sound(wanted, feed)
        ends = np.cumsum([len(one[self._inputs[0]]) for one in feeds])[:-1]
        parts = [np.split(result, ends) for result in results.values()]
        return [dict(zip(wanted, part, strict=True)) for part in zip(*parts, strict=True)]

    def _run_alone(self, wanted: list[str], feed: dict[str, Array]) -> dict[str, Array] | Exception:
        try:
            # Copies: what `run` returns may lie in the runtime's memory, which the next feed writes over.
            return {name: np.array(value) for name, value in self._run_sound(wanted, feed).items()}
        except Exception as error:
            return error

    def _run_sound(self, wanted: list[str], feed: Mapping[str, Array]) -> dict[str, Array]:
        found = dict(zip(wanted, self.run(wanted, feed), strict=True))
        if self._is_exported:  # a user's own network may mean something by it
            refuse_no_numbers(found)
        return found

    def _response(self, request: Any, answer: dict[str, Array] | Exception) -> Any:
        if not isinstance(answer, Exception):
            return pb_utils.InferenceResponse(
                [pb_utils.Tensor(name, answer[name]) for name in request.requested_output_names()]
            )
        if isinstance(answer, InvalidInput):
            self._report.record_refusal(request, answer)
            return _refusal(encode(answer))
        if is_of_shapes(answer):
            # Its text names the runtime's own sources.
            self._report.record_refusal(request, InvalidInput(str(answer)))
            return _refusal(encode(InvalidInput("The network cannot run on tensors of these shapes.", "Send others.")))
        self._report.record_failure(request, repr(answer))
        if is_of_memory(answer):
            text = "There is not enough memory for this request. Send fewer or smaller photos."
        else:
            text = "The network failed on this request; the server's log says why."
        return pb_utils.InferenceResponse([], pb_utils.TritonError(text))


def _refusal(text: str) -> Any:
    return pb_utils.InferenceResponse([], pb_utils.TritonError(text, pb_utils.TritonError.INVALID_ARG))


def _check(name: str, file_name: str, config: dict[str, Any], inputs: list[Tensor], outputs: list[Tensor]) -> None:
    """Refuse what NVIDIA's backends refuse: other names, datatypes or shapes than the file has."""
    is_batched = int(config.get("max_batch_size", 0)) > 0
    configured = [tensor["name"] for tensor in config["input"]]
    if len(configured) != len(inputs):
        raise pb_utils.TritonModelException(
            f"{name}: the config has {len(configured)} inputs ({', '.join(configured)}), {file_name} has {len(inputs)} "
            f"({', '.join(tensor.name for tensor in inputs)})"
        )
    for kind, tensors in (("input", inputs), ("output", outputs)):
        found = {tensor.name: tensor for tensor in tensors}
        for tensor in config[kind]:
            if tensor["name"] not in found:
                raise pb_utils.TritonModelException(
                    f"{name}: {file_name} has no {kind} {tensor['name']!r}; it has {', '.join(found)}"
                )
            label = f"{name}: {kind} {tensor['name']!r}"
            _check_tensor(label, file_name, tensor, found[tensor["name"]], is_batched)


def _check_tensor(label: str, file_name: str, tensor: dict[str, Any], found: Tensor, is_batched: bool) -> None:
    if tensor["data_type"] != found.data_type:
        raise pb_utils.TritonModelException(
            f"{label} is {tensor['data_type']} in the config and {found.data_type} in {file_name}"
        )
    dims = [int(dim) for dim in tensor["dims"]]
    shape = list(found.shape)
    if is_batched:
        if not shape or shape[0] != -1:
            raise pb_utils.TritonModelException(
                f"{label} has a fixed first dimension in {file_name} ({shape}), so max_batch_size must be 0"
            )
        shape = shape[1:]
    if len(dims) != len(shape) or any(fixed not in (-1, dim) for dim, fixed in zip(dims, shape, strict=True)):
        raise pb_utils.TritonModelException(f"{label} has dims {dims} in the config and {shape} in {file_name}")
