"""The task `swap`: the looks of one photo's face for the faces of another."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from depthface.asking import Asker, Description, Infer, Steps, bytes_tensor, operation
from depthface.errors import ClientError, InvalidInput
from depthface.operations import UNUSABLE, naming
from depthface.photos import Photo
from depthface.tasks import faces

__all__ = ["NAME", "PACK", "Options", "SwapMethods", "probe"]

SourceFace = Literal["largest", "surest"]
TargetFaces = Literal["all", "largest", "surest"]

NAME = "swap"

PACK = "pack"
"""The input that names the pack whose analysis finds the faces, and the fact by which an analysis tells its pack."""


@dataclass(frozen=True)
class Options:
    """What a request may ask, each an input of its own.

    Attributes:
        source_face: which face of the source gives its looks: the largest, or the surest.
        target_faces: which faces of the target get them: all, the largest, or the surest.
        det_size: as for `faces`, for both photos.

    Raises:
        InvalidInput: a value is none of these.
    """

    source_face: str = "largest"
    target_faces: str = "all"
    det_size: int = faces.DET_SIZE_AUTO

    def __post_init__(self) -> None:
        for name, choices in (("source_face", get_args(SourceFace)), ("target_faces", get_args(TargetFaces))):
            value = getattr(self, name)
            if value not in choices:
                raise InvalidInput(f"{name} is {value!r:.60}.", f"Choose from: {', '.join(choices)}.")
        faces.Options(det_size=self.det_size)

    @classmethod
    def of_tensors(
        cls,
        source_face: bytes | None = None,
        target_faces: bytes | None = None,
        det_size: npt.NDArray[Any] | None = None,
    ) -> Options:
        """Return the options of a request's tensors; None where one was left out."""
        return cls(
            cls.source_face if source_face is None else source_face.decode("utf-8", "replace"),
            cls.target_faces if target_faces is None else target_faces.decode("utf-8", "replace"),
            cls.det_size if det_size is None else det_size[0].item(),
        )

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """Return the inputs of a request: `(1, 1)` bytes and int32; those that are as the defaults are left out."""
        default = Options()
        values = {name: value for name, value in vars(self).items() if value != getattr(default, name)}
        return {
            name: bytes_tensor(value.encode()) if isinstance(value, str) else np.array([[value]], np.int32)
            for name, value in values.items()
        }


class SwapMethods(Asker):
    """What a client asks about swapping faces."""

    @operation
    def swap(  # noqa: PLR0913  most by keyword
        self,
        source: Photo,
        target: Photo,
        *,
        model: str | None = None,
        analysis: str | None = None,
        source_face: SourceFace = "largest",
        target_faces: TargetFaces = "all",
        det_size: int | None = None,
        request_id: str | None = None,
    ) -> Steps[bytes]:
        """Return a PNG of the target photo in which faces have the looks of the source's: every face, by default.

        The server loads the network when it is first asked, which takes a while; `unload` gives the memory back.

        Args:
            source: the photo that gives the face: a path, bytes, a PIL picture, or an array as for `faces`.
            target: the photo that gets it.
            model: None for the one that the server serves.
            analysis: the model that finds the faces; None for the one that the server serves.
            source_face: which face of the source: the `largest`, or the `surest` by the detector's score.
            target_faces: which faces of the target change: `all`, the `largest`, or the `surest`.
            det_size: the side in pixels of the square in which faces are looked for, as for `faces`.
            request_id: what the server's log and an error name the request by; None for one made up.

        Raises:
            NoFaceFound: one of the photos has no face.
            InvalidInput: a photo or an option cannot be used, or the model was exported before there were options.
            ClientError: no answer.
        """
        options = Options(source_face, target_faces, faces.DET_SIZE_AUTO if det_size is None else det_size).tensors()
        given = {"The source photo": source, "The target photo": target}
        sent = []
        for which, photo in given.items():
            sent.append((yield from naming(self._read(photo), which, photo)))
        model = model or (yield from self._serving(NAME))
        analysis = analysis or (yield from self._serving(faces.NAME, faces.PARTS["embedding"]))
        pack = (yield from self._describe(analysis)).parameters.facts.get(PACK)
        if pack is None:
            raise InvalidInput(f"{analysis} finds no faces for a swap.", "Name a model that gives embeddings.")
        if options:
            unknown = sorted(options.keys() - set((yield from self._describe(model)).inputs))
            if unknown:
                raise InvalidInput(f"{model} does not take {', '.join(unknown)}.", "Export it with this version.")
        inputs = {"source": bytes_tensor(sent[0]), "target": bytes_tensor(sent[1]), PACK: bytes_tensor(pack.encode())}
        inputs |= options
        try:
            png: bytes = (yield from self._infer(model, inputs, ("image",), {}, request_id))["image"][0, 0]
        except UNUSABLE:  # the server does not say which
            with suppress(ClientError):  # that one of them cannot be used is known
                for (which, photo), data in zip(given.items(), sent, strict=True):
                    look = faces.FaceMethods.faces.way(
                        self, data, model=analysis, parts=(), det_size=det_size, request_id=request_id
                    )
                    yield from naming(look, which, photo)
            raise
        return png


def probe(description: Description) -> Infer | None:
    """Return None: to answer, a swapper would have to load half a gigabyte."""
    return None
