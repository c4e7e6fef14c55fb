"""What the three tasks ask of the models, and how their answers become results and files.

A result is what the contract says: coordinates are pixels of the upright photo, x to the right, y down; `bbox` may
reach beyond the photo's edge, and the crop ends there. `embedding.bin` and `faces/<n>.bin` are NumPy files.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from depthface.photos import upright
from depthface_client import Face
from depthface_gateway.answers import finite
from depthface_gateway.jobs.claims import Claim
from depthface_gateway.jobs.results import write_vector
from depthface_gateway.triton import Triton

__all__ = ["TASKS", "Models", "Task", "TritonModels", "Try", "face_tasks"]

Vector = npt.NDArray[np.float32]

_LANDMARKS = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
_CROP_QUALITY = 92

TASKS = ("image_embedding", "face_detection", "face_embedding")


class Models(Protocol):
    """What is asked; `TritonModels` asks a server."""

    async def embed(self, photo: bytes, request_id: str) -> Vector:
        """Return a photo's vector, `(D,) float32` of unit length."""

    async def faces(self, photo: bytes, request_id: str, *, with_embeddings: bool) -> list[Face]:
        """Return the faces in a photo, the surest first."""


@dataclass(frozen=True)
class Try:
    """One try of a job, for the task that does it.

    Attributes:
        job: what is asked.
        photo: the encoded photo.
        folder: where its files go; empty.
        report: tells how far it is, 0 to 1.
    """

    job: Claim
    photo: bytes
    folder: Path
    report: Callable[[float], None]


Task = Callable[[Try], Awaitable[Mapping[str, Any]]]
"""Does one try, writes its files, and returns the result: the same for the same photo, but for the time it took."""


class TritonModels:
    """Asks the servers behind the gateway.

    Args:
        triton: open already.
        face_model: None for the one that is served.
        embedding_model: None for the one that is served.
    """

    def __init__(self, triton: Triton, face_model: str | None = None, embedding_model: str | None = None) -> None:
        self._triton = triton
        self._face_model = face_model
        self._embedding_model = embedding_model

    async def embed(self, photo: bytes, request_id: str) -> Vector:
        """Return a photo's vector.

        Raises:
            ModelUnavailable: the server has no model for it.
        """
        model = self._embedding_model
        answer = await self._triton.ask(lambda client: client.embed(photo, model=model, request_id=request_id))
        return np.asarray(answer.vector, np.float32)

    async def faces(self, photo: bytes, request_id: str, *, with_embeddings: bool) -> list[Face]:
        """Return the faces in a photo."""
        parts = ("embedding",) if with_embeddings else ()
        model = self._face_model
        return await self._triton.ask(
            lambda client: client.faces(photo, model=model, parts=parts, request_id=request_id)
        )


def face_tasks(models: Models) -> dict[str, Task]:
    """Return what does each of `TASKS`."""

    async def image_embedding(attempt: Try) -> Mapping[str, Any]:
        vector = finite(await models.embed(attempt.photo, attempt.job.job_id))
        attempt.report(0.8)
        await asyncio.to_thread(write_vector, attempt.folder / "embedding.bin", vector)
        return {"embedding_dimension": vector.size, "embedding_path": f"jobs/{attempt.job.job_id}/embedding.bin"}

    async def face_detection(attempt: Try) -> Mapping[str, Any]:
        return await _face_task(attempt, with_embeddings=False)

    async def face_embedding(attempt: Try) -> Mapping[str, Any]:
        return await _face_task(attempt, with_embeddings=True)

    async def _face_task(attempt: Try, *, with_embeddings: bool) -> Mapping[str, Any]:
        faces = await models.faces(attempt.photo, attempt.job.job_id, with_embeddings=with_embeddings)
        attempt.report(0.8)
        if faces:
            await asyncio.to_thread(_write_faces, attempt, faces)
        return {"faces": [_fields(attempt.job.job_id, index, face) for index, face in enumerate(faces)]}

    return {"image_embedding": image_embedding, "face_detection": face_detection, "face_embedding": face_embedding}


def _write_faces(attempt: Try, faces: Iterable[Face]) -> None:
    folder = attempt.folder / "faces"
    folder.mkdir()
    picture = upright(attempt.photo)
    for index, face in enumerate(faces):
        crop = BytesIO()  # Pillow itself does not see that a full disk has taken a part alone
        picture.crop(_corners(face, picture.size)).save(crop, "JPEG", quality=_CROP_QUALITY)
        (folder / f"{index}.jpg").write_bytes(crop.getvalue())
        if face.embedding is not None:
            write_vector(folder / f"{index}.bin", finite(face.embedding))


def _fields(job_id: str, index: int, face: Face) -> dict[str, Any]:
    x1, y1, x2, y2 = (float(side) for side in finite(face.box))
    fields: dict[str, Any] = {
        "face_index": index,
        "bbox": {"x": round(x1, 2), "y": round(y1, 2), "width": round(x2 - x1, 2), "height": round(y2 - y1, 2)},
        "confidence": round(face.score, 4),
        "landmarks": {
            name: [round(float(x), 2), round(float(y), 2)]
            for name, (x, y) in zip(_LANDMARKS, finite(face.keypoints), strict=True)
        },
        "crop_path": f"jobs/{job_id}/faces/{index}.jpg",
    }
    if face.embedding is not None:
        fields |= {"embedding_dimension": face.embedding.size, "embedding_path": f"jobs/{job_id}/faces/{index}.bin"}
    return fields


def _corners(face: Face, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the box in whole pixels inside the picture, one pixel at least."""
    width, height = size
    x1, y1 = max(0, min(int(face.box[0]), width - 1)), max(0, min(int(face.box[1]), height - 1))
    x2, y2 = max(x1 + 1, min(round(float(face.box[2])), width)), max(y1 + 1, min(round(float(face.box[3])), height))
    return x1, y1, x2, y2
