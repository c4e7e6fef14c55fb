"""What a user would take instead, as its own documentation uses it, in this process.

Each way takes a JPEG and gives what the server gives for it: an 8-bit PNG for depth; boxes, scores, keypoints and
embeddings for faces. All use the same weights, and as many threads as there are cores.
"""

from __future__ import annotations

import contextlib
import functools
import io
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
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
from transformers import DepthAnythingForDepthEstimation, DPTImageProcessorPil, pipeline
from transformers.modeling_outputs import DepthEstimatorOutput

from depthface.contract import Precision
from depthface.errors import DepthfaceError
from depthface.families.depth_anything_v2 import network, parity
from depthface.families.depth_anything_v2.card import PATCH_PX, PHOTO_SIDE_PX
from depthface.openvino import openvino
from depthface_bench.repositories import EVERYTHING, depth_card
from depthface_standins.depth_anything_v2 import random_model

__all__ = [
    "COMPILED",
    "LIBRARY",
    "ONNX",
    "OPENCLIP",
    "OPENVINO",
    "Answer",
    "Peer",
    "depth_peers",
    "depth_pipeline",
    "face_analysis",
    "face_peers",
]

LIBRARY, COMPILED, OPENVINO, ONNX, OPENCLIP = "library", "compiled", "openvino", "onnx", "openclip"
"""Kinds of ways: the library as it is, through `torch.compile`, by OpenVINO's own converter, as the usual ONNX file in
plain ONNX Runtime, and another library for the same."""

Answer = dict[str, npt.NDArray[Any]]

_FIELDS = {"boxes": "bbox", "scores": "det_score", "keypoints": "kps", "embeddings": "normed_embedding"}
"""What insightface calls the outputs of the server."""


@dataclass(frozen=True)
class Peer:
    """A way that is somebody else's.

    Attributes:
        make: loads it; what it raises leaves this one way out of the run.
        is_usual: it is what most people run, measured as often as this project itself.
        is_same_input: its network gets the pixels that the others' get; else its answer is held to the size alone.
        takes_minutes: to make, the calls before the first round among it.
        is_same_weights: False for one that only has random weights of its own; its answer is held against nothing.
    """

    kind: str
    precision: Precision
    make: Callable[[], Callable[[bytes], object]]
    is_usual: bool = True
    is_same_input: bool = True
    is_same_weights: bool = True
    takes_minutes: bool = False


def depth_peers(threads: int) -> list[Peer]:
    """Every way to depth, the usual one first."""
    return [
        Peer(LIBRARY, "fp32", lambda: depth_pipeline(threads)),
        Peer(LIBRARY, "bf16", lambda: depth_pipeline(threads, "bf16"), is_usual=False),
        Peer(COMPILED, "fp32", lambda: _compiled_pipeline(threads, "fp32"), is_usual=False, takes_minutes=True),
        Peer(COMPILED, "bf16", lambda: _compiled_pipeline(threads, "bf16"), is_usual=False, takes_minutes=True),
        Peer(OPENVINO, "fp32", lambda: _openvino_pipeline(threads, "fp32"), is_usual=False),
        Peer(OPENVINO, "bf16", lambda: _openvino_pipeline(threads, "bf16"), is_usual=False),
        Peer(ONNX, "fp32", lambda: _onnx_pipeline(threads), is_usual=False, is_same_input=False),
    ]


def face_peers(pack: Path, threads: int) -> list[Peer]:
    """Every way to faces."""
    return [Peer(LIBRARY, "fp32", lambda: face_analysis(pack, threads))]


def depth_pipeline(threads: int, precision: Precision = "fp32") -> Callable[[bytes], bytes]:
    """The `transformers` depth pipeline with the processor's published settings (preprocessor_config.json)."""
    return _pipeline(_model(precision), threads)


def _compiled_pipeline(threads: int, precision: Precision) -> Callable[[bytes], bytes]:
    """The same, its model through `torch.compile` as it comes; what it cannot compile is an error, not run as it is."""
    model = _model(precision)
    model.forward = torch.compile(model.forward)
    return _pipeline(model, threads)


def _openvino_pipeline(threads: int, precision: Precision) -> Callable[[bytes], bytes]:
    """The same, its model by OpenVINO's own converter on the published module (docs.openvino.ai, "Convert a PyTorch
    Model").

    The converter follows one example, and the module's head keeps that example's size: one conversion for each grid.
    """
    options = {"INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision], "INFERENCE_NUM_THREADS": threads}

    @functools.cache
    def compiled(shape: tuple[int, ...]) -> Any:
        return openvino.Core().compile_model(_converted(shape), "CPU", options)

    def run(pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return np.array(compiled(pixels.shape).create_infer_request().infer([pixels])[0])

    return _pipeline(_by(run), threads)


@functools.cache
def _converted(shape: tuple[int, ...]) -> Any:
    with _hushed():
        example = {"pixel_values": torch.zeros(shape)}
        return openvino.convert_model(_model("fp32"), example_input=example, input=list(shape))


def _onnx_pipeline(threads: int) -> Callable[[bytes], bytes]:
    """A file of one size, 518×518, in plain ONNX Runtime, as the public conversions of the model are made and used: the
    photo is squeezed into a square, and the map is stretched to the photo.

    Raises:
        DepthfaceError: on a square, the file does not give what the model gives, within the card's tolerance.
    """
    model = _DepthAlone(_model("fp32"))
    square = torch.rand(1, 3, PHOTO_SIDE_PX, PHOTO_SIDE_PX, generator=torch.Generator().manual_seed(0))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    with tempfile.TemporaryDirectory() as folder, _hushed():
        file = Path(folder, "depth.onnx")
        torch.onnx.export(
            model, (square,), str(file), input_names=["pixel_values"], output_names=["predicted_depth"], dynamo=False
        )  # fmt: skip
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def run(pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        (depth,) = session.run(None, {"pixel_values": pixels})
        return np.asarray(depth)

    with torch.inference_mode():
        _hold(model(square).numpy(), run(square.numpy()), "fp32")
    return _pipeline(_by(run), threads, keeps_aspect=False)


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


def _pipeline(model: Any, threads: int, *, keeps_aspect: bool = True) -> Callable[[bytes], bytes]:
    torch.set_num_threads(threads)
    processor = DPTImageProcessorPil(
        size={"height": PHOTO_SIDE_PX, "width": PHOTO_SIDE_PX},
        ensure_multiple_of=PATCH_PX,
        keep_aspect_ratio=keeps_aspect,
        image_mean=list(network.MEAN),
        image_std=list(network.STD),
    )
    estimate = pipeline("depth-estimation", model=model, image_processor=processor, device="cpu")

    def run(jpeg: bytes) -> bytes:
        buffer = BytesIO()
        estimate(Image.open(BytesIO(jpeg)))["depth"].save(buffer, "PNG")
        return buffer.getvalue()

    return run


def _model(precision: Precision) -> DepthAnythingForDepthEstimation:
    model = random_model(depth_card()).to({"fp32": torch.float32, "bf16": torch.bfloat16}[precision])
    # The pipeline turns what comes into numpy's, which has no bf16.
    model.register_forward_hook(lambda *call: DepthEstimatorOutput(predicted_depth=call[-1].predicted_depth.float()))
    return model


class _DepthAlone(torch.nn.Module):
    """The model with its one tensor as its answer."""

    def __init__(self, model: DepthAnythingForDepthEstimation) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        depth: torch.Tensor = self.model(pixel_values).predicted_depth
        return depth


def _by(run: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]) -> DepthAnythingForDepthEstimation:
    """The model for `transformers`' pipeline, computed by another runtime."""
    model = _model("fp32")
    model.forward = lambda pixel_values: DepthEstimatorOutput(
        predicted_depth=torch.from_numpy(run(pixel_values.numpy()))
    )
    return model


def _hold(expected: npt.NDArray[np.float32], got: npt.NDArray[np.float32], precision: Precision) -> None:
    tolerances = depth_card().tolerances[precision]
    for metric, value in parity.measure(expected, got).items():
        if not value <= tolerances[metric]:
            raise DepthfaceError(f"It does not give what the model gives: {metric} {value:.1e}.")


@contextlib.contextmanager
def _hushed() -> Any:
    """Hide what converters say of each step."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
