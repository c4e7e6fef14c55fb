"""InsightFace-RestAPI (Raghucharan16's), and its InspireFace example. Errors are `{"detail": …}`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, File, HTTPException, Request, Response, UploadFile
from fastapi.responses import JSONResponse

from depthface.errors import ClientError, NoFaceFound
from depthface.together import together
from depthface_gateway.answers import Json, finite
from depthface_gateway.faces.asking import Faces
from depthface_gateway.forms import new_router
from depthface_gateway.frame import request_id
from depthface_gateway.photos import upright_size

__all__ = ["router"]

_SERVICE = "InsightFace REST API"


def router(faces: Faces) -> APIRouter:
    """Return its routes."""
    routes = new_router(tags=["InsightFace-RestAPI"])

    @routes.get("/")
    async def root() -> dict[str, Any]:
        """Say what this is."""
        endpoints = {"/health": "Health check", "/api/detect-faces": "Detect faces in image"}
        return {"message": _SERVICE, "status": "running", "endpoints": endpoints}

    @routes.get("/health", responses={503: {}})
    async def health() -> JSONResponse:
        """Say which models are there, from memory: the swapper is loaded when it is first used."""
        triton = faces.context.triton
        try:
            model = triton.models[faces.model]
            state = "loaded" if model.ready else "lazy-loaded"
        except (KeyError, ClientError):
            state = "unavailable"
        models = {"detector": state, "recognizer": state, "swapper": faces.swapper}
        status = "healthy" if triton.is_alive else "unhealthy"
        return JSONResponse({"status": status, "service": _SERVICE, "models": models}, 200 if triton.is_alive else 503)

    @routes.post("/recognition/embedding")
    async def embedding(request: Request, file: Annotated[UploadFile, File()]) -> JSONResponse:
        """Return the embedding of the surest face, of unit length; its word for nobody comes with 200."""
        found = await faces.find(await file.read(), request_id(request), ("embedding",))
        if not found:
            return JSONResponse({"error": "No face detected"})
        if found[0].embedding is None:
            raise HTTPException(503, "The served face pack has no recogniser.")
        return Json({"embedding": finite(found[0].embedding)})

    @routes.post("/swap", response_class=Response, responses={200: {"content": {"image/png": {}}}})
    async def swap(
        request: Request, source: Annotated[UploadFile, File()], target: Annotated[UploadFile, File()]
    ) -> Response:
        """Return the target as PNG, its surest face swapped for the surest of the source."""
        if faces.swapper == "unavailable" and faces.context.triton.is_alive:
            raise HTTPException(503, "No face swapper is served. Export one: depthface export SWAPPER.")
        photos = await source.read(), await target.read()
        id = request_id(request)
        try:
            png = await faces.swap(*photos, id)
        except NoFaceFound as error:
            is_source = not await faces.find(photos[0], id)
            raise HTTPException(400, "No source face" if is_source else "No target face") from error
        return Response(png, media_type="image/png")

    @routes.post("/api/detect-faces")
    async def detect(request: Request, file: Annotated[UploadFile, File()]) -> dict[str, Any]:
        """Return the faces of a photo, the surest first."""
        photo = await file.read()
        found, (width, height) = await together(faces.find(photo, request_id(request)), upright_size(photo))
        rows = []
        for index, face in enumerate(found):
            x1, y1, x2, y2 = (round(float(side)) for side in face.box)
            rows.append({"id": index, "x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1, "confidence": face.score})
        return {
            "success": True,
            "faces_count": len(rows),
            "faces": rows,
            "image_size": {"width": width, "height": height},
        }

    return routes
