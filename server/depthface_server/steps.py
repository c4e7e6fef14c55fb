"""The glue between Triton's Python backend and a pure function that handles one photo.

A generated `1/model.py` names the function; everything else is here. A bad photo answers its own request with a 400
and touches no other one.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

from depthface import image
from depthface.errors import InvalidInput, encode

__all__ = ["Step"]

Value = npt.NDArray[Any] | bytes


class Step:
    """A Triton model made of `run(wanted, *inputs) -> outputs`.

    `run` gets the names of the outputs asked for and, in the order of the config, each input of **one** photo: an
    array without batch dimension, or `bytes`. It returns arrays or `bytes` by output name, and raises `InvalidInput`.
    """

    run: Callable[..., Mapping[str, Value]]

    def initialize(self, args: dict[str, str]) -> None:
        """Called by Triton once, when the model loads."""
        config = json.loads(args["model_config"])
        self._name: str = config["name"]
        self._inputs: dict[str, str] = {tensor["name"]: tensor["data_type"] for tensor in config["input"]}
        image.use_one_thread()  # the cores belong to the network

    def execute(self, requests: list[Any]) -> list[Any]:
        """Called by Triton with the requests of one batch; each gets an answer of its own."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        try:
            wanted = frozenset(request.requested_output_names())
            batch = [
                _items(pb_utils.get_input_tensor_by_name(request, name), data_type)
                for name, data_type in self._inputs.items()
            ]
            photos = [type(self).run(wanted, *inputs) for inputs in zip(*batch, strict=True)]
            return pb_utils.InferenceResponse([_tensor(name, [photo[name] for photo in photos]) for name in wanted])
        except InvalidInput as error:
            return _failure(encode(error), pb_utils.TritonError.INVALID_ARG)
        except Exception:
            pb_utils.Logger.log_error(traceback.format_exc())
            return _failure(f"{self._name} failed; the server's log says why", pb_utils.TritonError.INTERNAL)


def _items(tensor: Any, data_type: str) -> list[Value]:
    """The photos of a batched tensor, one by one; arrays are read-only views into shared memory."""
    if data_type == "TYPE_STRING":
        return [item[0] for item in tensor.as_numpy()]
    return list(np.from_dlpack(tensor))


def _tensor(name: str, values: list[Value]) -> Any:
    """The photos' values as one batched tensor."""
    arrays = [value for value in values if isinstance(value, np.ndarray)]
    if not arrays:
        return pb_utils.Tensor(name, np.array([[value] for value in values], np.object_))
    if any(array.shape != arrays[0].shape for array in arrays):
        raise InvalidInput(
            "The photos of one request need the same shape on the network's grid. Send photos of different shapes in "
            "requests of their own; the server batches them."
        )
    return pb_utils.Tensor(name, np.stack(arrays))


def _failure(text: str, code: int) -> Any:
    return pb_utils.InferenceResponse([], pb_utils.TritonError(text, code))
