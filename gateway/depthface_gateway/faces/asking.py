"""What the four contracts about faces ask of Triton, and which model they ask."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from depthface.errors import ModelUnavailable, ServerUnavailable
from depthface.tasks.faces import PARTS
from depthface_client import Face
from depthface_gateway.context import Context
from depthface_gateway.meanings import analyses, det_size_of, swappers
from depthface_gateway.settings import text

__all__ = ["Faces", "by_area"]

_LEAST_SCORE = 1e-6
"""What stands for a threshold of 0, which those services take: Triton's models want one above it."""

_USUAL_PACK = "buffalo_l"
"""Which of several those services take if nobody chooses."""


@dataclass
class Faces:
    """The faces in photos, by one pack.

    Attributes:
        pack: its name, or that of its analysis; empty for buffalo_l or else the only one that is served.
    """

    context: Context
    pack: str

    @classmethod
    def of(cls, context: Context) -> Faces:
        """Make it with the pack that the environment names in FACES_PACK."""
        name = text(context.environment, "FACES_PACK")
        return cls(context, context.settings.aliases.get(name, name))

    @property
    def model(self) -> str:
        """The model that is asked.

        Raises:
            ServerUnavailable: no server is known to answer.
            ModelUnavailable: none serves faces, or several packs are served and none was chosen.
        """
        if not self.context.triton.is_alive:
            raise ServerUnavailable("No Triton answers.", "Start one with `depthface serve`.")
        served = analyses(self.context.triton.models)
        if not served:
            raise ModelUnavailable("No face pack is served.", "Export one: `depthface export PACK`.")
        wanted = self.pack or _USUAL_PACK
        if wanted in served.values():
            return wanted
        if wanted in served:
            return served[wanted]
        if len(served) == 1 and not self.pack:
            return next(iter(served.values()))
        packs = ", ".join(sorted(served))
        if self.pack:
            raise ModelUnavailable(
                f"The face pack {self.pack!r} is not served; what is: {packs}.", "Choose one of them."
            )
        raise ModelUnavailable(f"Several face packs are served: {packs}.", "Choose one by the variable FACES_PACK.")

    @property
    def swapper(self) -> str:
        """`loaded`; `lazy-loaded`, which is to say that it will be when it is first used; or `unavailable`."""
        served = swappers(self.context.triton.models.values())
        if not served:
            return "unavailable"
        return "loaded" if any(model.ready for model in served) else "lazy-loaded"

    async def find(
        self,
        photo: bytes,
        id: str,
        parts: Iterable[str] = (),
        *,
        min_score: float | None = None,
        largest: int | None = None,
        at_usual_size: bool = True,
    ) -> list[Face]:
        """Return the faces, the surest first, with these parts as far as the pack has networks for them.

        Args:
            min_score: the least of a face; below 0 it counts as 0, above 1 as 1.
            largest: only as many of them; None or 0 for all. Where there are more, those of the largest boxes, the
                largest first, as InsightFace-REST has it. (The server's own `max_faces` prefers those near the middle,
                which none of these services does.)
            at_usual_size: look at the photo as those services do, and not as the server does by itself.
        """
        model = self.model
        served = self.context.triton.models[model]
        offered = [part for part in parts if set(PARTS[part]) <= set(served.outputs)]
        found = await self.context.triton.ask(
            lambda client: client.faces(
                photo,
                model=model,
                parts=offered,
                min_score=None if min_score is None else min(max(min_score, _LEAST_SCORE), 1.0),
                det_size=det_size_of(served) if at_usual_size else None,
                request_id=id,
            )
        )
        if not largest or len(found) <= largest:
            return found
        return by_area(found)[:largest]

    async def swap(self, source: bytes, target: bytes, id: str) -> bytes:
        """Return a PNG of the target whose surest face has the looks of the source's surest; see `Client.swap`."""
        model = self.model
        det_size = det_size_of(self.context.triton.models[model])
        png = await self.context.triton.ask(
            lambda client: client.swap(
                source,
                target,
                analysis=model,
                source_face="surest",
                target_faces="surest",
                det_size=det_size,
                request_id=id,
            )
        )
        if self.swapper != "loaded":  # this has loaded it
            await self.context.triton.look()
        return png


def by_area(faces: Iterable[Face]) -> list[Face]:
    """Return the faces, the largest first."""
    return sorted(faces, key=lambda face: -face.area)
