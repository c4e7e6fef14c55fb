"""The task `swap`: the looks of one photo's face for the faces of another."""

from __future__ import annotations

from contextlib import suppress

from depthface.asking import Asker, Description, Infer, Steps, bytes_tensor, operation
from depthface.errors import ClientError, InvalidInput
from depthface.operations import UNUSABLE, naming
from depthface.photos import Photo
from depthface.tasks import faces

__all__ = ["NAME", "PACK", "SwapMethods", "probe"]

NAME = "swap"

PACK = "pack"
"""The input that names the pack whose analysis finds the faces, and the fact by which an analysis tells its pack."""


class SwapMethods(Asker):
    """What a client asks about swapping faces."""

    @operation
    def swap(
        self,
        source: Photo,
        target: Photo,
        *,
        model: str | None = None,
        analysis: str | None = None,
        request_id: str | None = None,
    ) -> Steps[bytes]:
        """Return a PNG of the target photo in which every face has the looks of the source's largest.

        The server loads the network when it is first asked, which takes a while; `unload` gives the memory back.

        Args:
            source: the photo that gives the face: a path, bytes, a PIL picture, or an array as for `faces`.
            target: the photo that gets it.
            model: None for the one that the server serves.
            analysis: the model that finds the faces; None for the one that the server serves.
            request_id: what the server's log and an error name the request by; None for one made up.

        Raises:
            NoFaceFound: one of the photos has no face.
            InvalidInput: a photo cannot be used.
            ClientError: no answer.
        """
        given = {"The source photo": source, "The target photo": target}
        sent = []
        for which, photo in given.items():
            sent.append((yield from naming(self._read(photo), which, photo)))
        model = model or (yield from self._serving(NAME))
        analysis = analysis or (yield from self._serving(faces.NAME, faces.PARTS["embedding"]))
        pack = (yield from self._describe(analysis)).parameters.facts.get(PACK)
        if pack is None:
            raise InvalidInput(f"{analysis} finds no faces for a swap.", "Name a model that gives embeddings.")
        inputs = {"source": bytes_tensor(sent[0]), "target": bytes_tensor(sent[1]), PACK: bytes_tensor(pack.encode())}
        try:
            png: bytes = (yield from self._infer(model, inputs, ("image",), {}, request_id))["image"][0, 0]
        except UNUSABLE:  # the server does not say which
            with suppress(ClientError):  # that one of them cannot be used is known
                for (which, photo), data in zip(given.items(), sent, strict=True):
                    look = faces.FaceMethods.faces.way(self, data, model=analysis, parts=(), request_id=request_id)
                    yield from naming(look, which, photo)
            raise
        return png


def probe(description: Description) -> Infer | None:
    """Return None: to answer, a swapper would have to load half a gigabyte."""
    return None
