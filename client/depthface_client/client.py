"""The client: one object, usable from several threads."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from types import TracebackType

from tritonclient.http import InferenceServerClient

from depthface.errors import ModelUnavailable
from depthface.families import all_cards, card_named
from depthface.families.depth_anything_v2.result import Depth
from depthface_client import _protocol
from depthface_client._protocol import DEFAULT_MODEL, Photo
from depthface_client.errors import translated

__all__ = ["Client", "ModelInfo"]


@dataclass(frozen=True)
class ModelInfo:
    """A model and what a server says of it.

    Attributes:
        name: as in `Client.depth(model=…)`.
        ready: whether the server serves it.
        weights: which weights it serves; empty if it does not.
    """

    name: str
    ready: bool
    weights: str


class Client:
    """Talks to a depthface server over HTTP.

        with Client("127.0.0.1:8000") as client:
            depth = client.depth("photo.jpg")

    Every method raises the errors of `depthface_client.errors`: `InvalidInput` if the request is wrong, `ClientError`
    for the rest.

    Args:
        url: `host:port`, `http://host:port` or `https://host:port`.
        timeout_s: the longest wait for a connection, and again for an answer.
    """

    def __init__(self, url: str = "127.0.0.1:8000", *, timeout_s: float = 60.0) -> None:
        self._host, self._tls = _protocol.host_of(url)
        self._timeout_s = timeout_s
        self._local = threading.local()
        self._lock = threading.Lock()
        self._opened: list[InferenceServerClient] = []
        self._weights: dict[str, str] = {}

    def depth(self, photo: Photo, *, model: str = DEFAULT_MODEL) -> Depth:
        """The depth map of a photo, at the network's grid."""
        with translated(self._host, model, self._timeout_s):
            response = self._connection().infer(
                model, [_protocol.image_input(photo)], outputs=_protocol.outputs("depth", "size")
            )
        return _protocol.depth_from(response, self.weights(model))

    def depth_png(self, photo: Photo, *, bits: int = 16, model: str = DEFAULT_MODEL) -> bytes:
        """A grey PNG of the depth at the photo's size, made by the server; the nearest is white.

        Equal to `depth(photo).png16()` to one level, without the work on this side.
        """
        name = _protocol.png_output(bits)
        with translated(self._host, model, self._timeout_s):
            response = self._connection().infer(model, [_protocol.image_input(photo)], outputs=_protocol.outputs(name))
        png: bytes = response.as_numpy(name)[0, 0]
        return png

    def weights(self, model: str = DEFAULT_MODEL) -> str:
        """Which weights the server serves: `<hub id>@<revision>`, `folder <name>`, `random, seed 0`, or `unknown`."""
        if model not in self._weights:
            with translated(self._host, model, self._timeout_s):
                config = self._connection().get_model_config(card_named(model).networks[0].name)
            self._weights[model] = _protocol.weights_from(config)
        return self._weights[model]

    def models(self) -> list[ModelInfo]:
        """Every model that depthface knows, and whether this server serves it."""
        found = []
        for name in all_cards():
            with translated(self._host, name, self._timeout_s):
                ready = self._connection().is_model_ready(name)
            found.append(ModelInfo(name, ready, self.weights(name) if ready else ""))
        return found

    def check(self) -> list[str]:
        """Send a small photo through every model that is served; return their names.

        A server's own ready endpoint says 200 even when a step of it has died: only an answer proves that it answers.
        """
        ready = [model.name for model in self.models() if model.ready]
        if not ready:
            raise ModelUnavailable(f"{self._host} answers but serves no model. Export one: `depthface export`.")
        for name in ready:
            self.depth(_protocol.TEST_PHOTO, model=name)
        return ready

    def close(self) -> None:
        """Close every thread's connection."""
        with self._lock:
            opened, self._opened = self._opened, []
        for connection in opened:
            connection.close()
        self._local = threading.local()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _connection(self) -> InferenceServerClient:
        """This thread's own: tritonclient's is built on gevent and belongs to one thread (server #6650)."""
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = InferenceServerClient(
                self._host, ssl=self._tls, connection_timeout=self._timeout_s, network_timeout=self._timeout_s
            )
            self._local.connection = connection
            with self._lock:
                self._opened.append(connection)
        return connection
