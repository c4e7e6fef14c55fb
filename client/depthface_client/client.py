"""The client: one object, usable from several threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from tritonclient.http import InferenceServerClient, InferInput

from depthface import admin
from depthface.errors import ModelUnavailable
from depthface.families.depth_anything_v2.card import CARDS as DEPTH_CARDS
from depthface.families.depth_anything_v2.result import Depth
from depthface.families.insightface.result import SAME_PERSON_SIMILARITY, Comparison, Face
from depthface_client import _calls, _faces, _protocol
from depthface_client._protocol import DEFAULT_MODEL, Photo
from depthface_client.errors import translated

__all__ = ["LOAD_TIMEOUT_S", "Client", "ModelInfo"]

LOAD_TIMEOUT_S = 300.0
"""The longest wait for a model to load: a face swapper is half a gigabyte."""


@dataclass(frozen=True)
class ModelInfo:
    """A model and what a server says of it.

    Attributes:
        name: as in `Client.depth(model=…)` or `Client.faces(model=…)`.
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
            faces = client.faces("photo.jpg")

    Every method raises the errors of `depthface_client.errors`: `InvalidInput` if the request is wrong, `ClientError`
    for the rest. A request has an id, `request_id` or one made up, which its error and the server's log name.

    Args:
        url: `host:port`, `http://host:port` or `https://host:port`.
        timeout_s: the longest wait for a connection, and again for an answer.
        retries: how often an inference is sent again that was turned away (`ServerOverloaded`) or found nobody
            (`ServerUnavailable`), each time after a longer pause.
        admin_key: for `load` and `unload`; without it that in DEPTHFACE_ADMIN_KEY or, on the server's own machine, the
            one that the server keeps for its user.
    """

    def __init__(
        self,
        url: str = "127.0.0.1:8000",
        *,
        timeout_s: float = 60.0,
        retries: int = 0,
        admin_key: str | None = None,
    ) -> None:
        self._host, self._tls = _protocol.host_of(url)
        self._timeout_s = timeout_s
        self._retries = _calls.checked_retries(retries)
        self._admin_key = admin_key
        self._local = threading.local()
        self._lock = threading.Lock()
        self._opened: list[InferenceServerClient] = []
        self._weights: dict[str, str] = {}
        self._outputs: dict[str, frozenset[str]] = {}

    def depth(
        self,
        photo: Photo,
        *,
        model: str = DEFAULT_MODEL,
        fast_decode: bool = False,
        request_id: str | None = None,
    ) -> Depth:
        """The depth map of a photo, at the network's grid.

        Args:
            fast_decode: have a JPEG decoded only to what the grid needs: a photo of 12 megapixels is answered some
                0.1 s sooner, and the map is off by about half a level of 255 on average.
        """
        response = self._infer(
            model, [_protocol.image_input(photo)], ("depth", "size"), request_id, fast_decode=fast_decode
        )
        return _protocol.depth_from(response, self.weights(model))

    def depth_png(
        self,
        photo: Photo,
        *,
        bits: int = 16,
        model: str = DEFAULT_MODEL,
        fast_decode: bool = False,
        request_id: str | None = None,
    ) -> bytes:
        """A grey PNG of the depth at the photo's size, made by the server; the nearest is white.

        Equal to `depth(photo).png16()` to one level, without the work on this side. `fast_decode` as for `depth`.
        """
        name = _protocol.png_output(bits)
        tensors = [_protocol.image_input(photo)]
        response = self._infer(model, tensors, (name,), request_id, fast_decode=fast_decode)
        png: bytes = response.as_numpy(name)[0, 0]
        return png

    def faces(
        self,
        photo: Photo,
        *,
        model: str | None = None,
        parts: Iterable[str] | None = None,
        min_score: float | None = None,
        max_faces: int | None = None,
        det_size: int | None = None,
        request_id: str | None = None,
    ) -> list[Face]:
        """The faces in a photo, the surest first (with `max_faces` the largest); an empty list if there are none.

        Args:
            model: None for the one face model that the server serves.
            parts: what to find out besides box, score and keypoints, of `embedding`, `landmarks_106`, `landmarks_68`,
                `pose`, `attributes` (gender and age) and `crop`. None for all that the model offers but the crop,
                `()` for nothing more. What is not asked for is not computed.
            min_score: the least score of a face, 0…1; 0.5 if None.
            max_faces: the most faces to return, the largest and most central; 0 or None for all.
            det_size: the side in pixels of the square in which faces are looked for, a multiple of 32: 640 as
                insightface 0.7. 0 or None for insightface 2's way, 128 and 640 together.
        """
        model = model or self.face_model()
        asked = _faces.outputs_of(model, parts, self._offered(model))
        tensors = _faces.request(photo, min_score, max_faces, det_size)
        response = self._infer(model, tensors, tuple(asked), request_id)
        return _faces.faces_from(response, asked)

    def compare(
        self, a: Photo, b: Photo, *, model: str | None = None, threshold: float = SAME_PERSON_SIMILARITY
    ) -> Comparison:
        """Whether the largest face of one photo and that of another are the same person's.

        Args:
            model: None for the one face model that the server serves.
            threshold: the cosine from which they are; `SAME_PERSON_SIMILARITY` says what the default is worth.

        Raises:
            NoFaceFound: one of the photos has no face.
        """
        model = model or self.face_model()
        one, other = (
            _faces.largest(self.faces(photo, model=model, parts=(_faces.EMBEDDING,)), photo, which)
            for photo, which in ((a, "first"), (b, "second"))
        )
        return Comparison.of(one, other, threshold)

    def swap(
        self,
        source: Photo,
        target: Photo,
        *,
        model: str = _faces.SWAPPER,
        analysis: str | None = None,
        request_id: str | None = None,
    ) -> bytes:
        """A PNG of the target photo in which every face has the looks of the source's largest.

        The server loads the network when it is first asked, which takes a while; `unload` gives the memory back.

        Args:
            analysis: the `face_analysis_<pack>` that finds the faces; None for the one that the server serves.
        """
        pack = (analysis or self.face_model()).removeprefix(_faces.ANALYSIS)
        tensors = [
            _protocol.image_input(source, "source"),
            _protocol.image_input(target, "target"),
            _protocol.bytes_input("pack", pack.encode()),
        ]
        png: bytes = self._infer(model, tensors, ("image",), request_id).as_numpy("image")[0, 0]
        return png

    def load(self, model: str) -> None:
        """Have the server load a model of its repository, and wait until it is ready; needs the admin key."""
        headers = admin.headers(self._host, self._admin_key)
        with (
            translated(self._host, model, LOAD_TIMEOUT_S),
            closing(self._connected(max(self._timeout_s, LOAD_TIMEOUT_S))) as connection,
        ):
            connection.load_model(model, headers=headers)
            for network in _protocol.networks_of(connection.get_model_config(model)):
                connection.load_model(network, headers=headers)
        self._forget(model)

    def unload(self, model: str) -> None:
        """Have the server give back the memory of a model and of networks that it alone has; needs the admin key.

        A model that is loaded when it is first used will be so again. Any other one is gone until `load`.
        """
        headers = admin.headers(self._host, self._admin_key)
        with translated(self._host, model, self._timeout_s):
            connection = self._connection()
            index = connection.get_model_repository_index(headers=headers)
            if all(entry["name"] != model for entry in index):  # Triton itself would say that all went well
                raise ModelUnavailable(f"{self._host} has no model {model!r}. See `depthface models` for what it has.")
            loaded = [entry["name"] for entry in index if entry.get("state") == "READY"]
            for name in _protocol.leaving_with(model, {name: connection.get_model_config(name) for name in loaded}):
                connection.unload_model(name, headers=headers)
        self._forget(model)

    def face_model(self) -> str:
        """The one face model that the server serves: an analysis, or else a detection.

        Raises:
            ModelUnavailable: there is none.
            InvalidInput: there are several.
        """
        with translated(self._host, None, self._timeout_s):
            statistics = self._connection().get_inference_statistics()
        return _faces.only_served(self._host, statistics)

    def weights(self, model: str = DEFAULT_MODEL) -> str:
        """Which weights the server serves, such as `<hub id>@<revision>`, `buffalo_l@insightface`, `folder <name>`,
        `synthetic`, `random, seed 0`, or `unknown`.

        Said by the config of the model.
        """
        if model not in self._weights:
            with translated(self._host, model, self._timeout_s):
                self._weights[model] = _protocol.weights_from(self._connection().get_model_config(model))
        return self._weights[model]

    def models(self) -> list[ModelInfo]:
        """Every depth model there is and every face model that this server has, and whether it is loaded."""
        with translated(self._host, None, self._timeout_s):
            ready = {card.name: self._connection().is_model_ready(card.name) for card in DEPTH_CARDS}
            for name in _faces.served(self._connection().get_inference_statistics()):
                networks = _protocol.networks_of(self._connection().get_model_config(name))
                ready[name] = all(self._connection().is_model_ready(network) for network in networks)
        return [ModelInfo(name, is_ready, self.weights(name) if is_ready else "") for name, is_ready in ready.items()]

    def check(self) -> list[str]:
        """Send a small photo through every model that is served; return their names. Face swappers are left alone.

        There is no face in it: of a face model, the detector answers and the networks after it stay idle.

        A server's own ready endpoint says 200 even when a step of it has died: only an answer proves that it answers.
        """
        ready = [model.name for model in self.models() if model.ready and not model.name.startswith(_faces.SWAP)]
        if not ready:
            raise ModelUnavailable(f"{self._host} answers but serves no model. Export one: `depthface export`.")
        for name in ready:
            if _faces.is_public(name):
                self.faces(_protocol.TEST_PHOTO, model=name)
            else:
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
            connection = self._connected(self._timeout_s)
            self._local.connection = connection
            with self._lock:
                self._opened.append(connection)
        return connection

    def _connected(self, timeout_s: float) -> InferenceServerClient:
        return InferenceServerClient(
            self._host, ssl=self._tls, connection_timeout=self._timeout_s, network_timeout=timeout_s
        )

    def _offered(self, model: str) -> frozenset[str]:
        if model not in self._outputs:
            with translated(self._host, model, self._timeout_s):
                metadata = self._connection().get_model_metadata(model)
            self._outputs[model] = frozenset(output["name"] for output in metadata["outputs"])
        return self._outputs[model]

    def _infer(
        self,
        model: str,
        tensors: list[InferInput],
        outputs: tuple[str, ...],
        request_id: str | None,
        **parameters: bool,
    ) -> Any:
        """The one way of every inference."""
        request_id = request_id or _calls.new_id()
        options = _calls.options(outputs, request_id, self._timeout_s, parameters)
        for pause_s in _calls.pauses_s(self._retries):
            try:
                with translated(self._host, model, self._timeout_s, request_id):
                    return self._connection().infer(model, tensors, **options)
            except _calls.SAFE_TO_RETRY:
                if pause_s is None:
                    raise
                time.sleep(pause_s)
        raise AssertionError("the last attempt returns or raises")

    def _forget(self, model: str) -> None:
        """What was known of a model: it may come back as another one."""
        self._weights.pop(model, None)
        self._outputs.pop(model, None)
