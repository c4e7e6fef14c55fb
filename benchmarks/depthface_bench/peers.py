"""What a user would take instead, as its own documentation uses it, in this process; and the floor.

Each way takes a JPEG and gives what the server gives for it: an 8-bit PNG for depth; boxes, scores, keypoints and
embeddings for faces. All use the same weights, and as many threads as there are cores.
"""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from insightface.app import FaceAnalysis
from PIL import Image
from transformers import DPTImageProcessorPil, pipeline

from depthface.contract import ENGINE_FILE, ONNX_FILE
from depthface.errors import DepthfaceError
from depthface.families.depth_anything_v2 import network, processing
from depthface.families.depth_anything_v2.card import PATCH_PX, PHOTO_SIDE_PX
from depthface.openvino import openvino
from depthface_bench.repositories import DEPTH, EVERYTHING, depth_card
from depthface_bench.variants import CUDA, Variant
from depthface_export import tensorrt
from depthface_standins.depth_anything_v2 import random_model

__all__ = ["Answer", "Network", "depth_pipeline", "depth_stages", "face_analysis", "plain_network"]

Answer = dict[str, npt.NDArray[Any]]
Network = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]

_FIELDS = {"boxes": "bbox", "scores": "det_score", "keypoints": "kps", "embeddings": "normed_embedding"}
"""What insightface calls the outputs of the server."""


def depth_pipeline(threads: int) -> Callable[[bytes], bytes]:
    """The `transformers` depth pipeline with the processor's published settings (preprocessor_config.json)."""
    torch.set_num_threads(threads)
    processor = DPTImageProcessorPil(
        size={"height": PHOTO_SIDE_PX, "width": PHOTO_SIDE_PX},
        ensure_multiple_of=PATCH_PX,
        keep_aspect_ratio=True,
        image_mean=list(network.MEAN),
        image_std=list(network.STD),
    )
    model = random_model(depth_card())
    estimate = pipeline("depth-estimation", model=model, image_processor=processor, device="cpu")

    def run(jpeg: bytes) -> bytes:
        buffer = BytesIO()
        estimate(Image.open(BytesIO(jpeg)))["depth"].save(buffer, "PNG")
        return buffer.getvalue()

    return run


def face_analysis(pack: Path, threads: int) -> Callable[[bytes], Answer]:
    """`insightface.app.FaceAnalysis` on the files of a pack, detection of automatic size."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    with contextlib.redirect_stdout(io.StringIO()):
        faces = FaceAnalysis(name=str(pack), providers=["CPUExecutionProvider"], sess_options=options)
        faces.prepare(ctx_id=-1, det_size=None)

    def run(jpeg: bytes) -> Answer:
        found = faces.get(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR))
        return {name: np.array([getattr(face, _FIELDS[name]) for face in found]) for name in EVERYTHING}

    return run


def depth_stages(
    repository: Path, variant: Variant, threads: int, stack: contextlib.ExitStack
) -> Callable[[bytes], bytes]:
    """The floor: the exported network in the plain runtime, with this project's own code before and after it."""
    run_network = plain_network(repository / f"{DEPTH}_network" / "1" / ONNX_FILE, variant, threads, stack)

    def run(jpeg: bytes) -> bytes:
        pixels, size = processing.preprocess(jpeg, variant.precision)
        png = processing.postprocess({"png8"}, run_network(pixels[None])[0], size)["png8"]
        assert isinstance(png, bytes)
        return png

    return run


def plain_network(path: Path, variant: Variant, threads: int, stack: contextlib.ExitStack) -> Network:
    """An exported network in the variant's own runtime: its engine in TensorRT, which `stack` closes, or ONNX Runtime,
    or for bf16, which that one has no CPU kernels for, OpenVINO.

    `(B, h, w, 3) uint8 RGB` to `(B, h, w) float32`. It may be called from several threads.

    Raises:
        DepthfaceError: CUDA does not start.
    """
    if variant.provider == "tensorrt":
        (spec,) = depth_card().networks
        infer = stack.enter_context(tensorrt.runner(path.with_name(ENGINE_FILE), spec))
        turn = threading.Lock()  # an engine's context is for one at a time

        def in_turn(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
            with turn:
                return infer({spec.inputs[0].name: pixels})[spec.outputs[0].name]

        return in_turn
    if variant.precision == "bf16":
        compiled = openvino.Core().compile_model(
            path, "CPU", {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": threads}
        )
        return lambda pixels: np.array(compiled.create_infer_request().infer([pixels])[0])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    providers = [*([CUDA] if variant.provider == "cuda" else []), "CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(path, options, providers=providers)
    if session.get_providers() != providers:
        raise DepthfaceError(f"{CUDA} did not start, and ONNX Runtime would run on the CPU; its warning says why.")
    (name,) = (tensor.name for tensor in session.get_inputs())

    def run(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        (depth,) = session.run(None, {name: pixels})
        return np.asarray(depth)

    return run
