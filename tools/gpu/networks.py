"""A network alone: the exported file in ONNX Runtime against PyTorch, and against its reference in the card's units."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from pytorch import in_torch
from setting import Setting, median_ms
from ways import ARITHMETIC, Arithmetic, Way, parity, pixels_of, row, source_of, text_of

from depthface.errors import DepthfaceError
from depthface.families import card_named, module_of
from depthface.families.insightface.facts import RECOGNITION_CROP_PX
from depthface.families.insightface.processing import letterboxes
from depthface.machine import CUDA_OPTIONS
from depthface.spec import ModelCard
from depthface.tasks.faces import DET_SIZE_AUTO
from depthface_bench import photos
from depthface_bench.repositories import DEPTH, depth_card
from depthface_bench.variants import CUDA
from depthface_export import validate

__all__ = [
    "AIM_BATCH",
    "Bound",
    "face_feed",
    "faces",
    "larger",
    "session_of",
    "small",
]

Arrays = Mapping[str, npt.NDArray[Any]]

AIM_MS, AIM_BATCH = 0.8, 8
"""Small in fp16, a photo."""


def small(setting: Setting) -> None:
    """Depth Anything V2 Small: every arithmetic and batch, every runtime."""
    card = depth_card()
    (name,) = (network.name for network in card.networks)
    sources = {one: source_of(card, one) for one in ("fp16", "fp32")}
    for arithmetic in ARITHMETIC:
        path = setting.network(arithmetic.precision, name)
        batches = (_aim_batch(setting),) if arithmetic.tf32 else setting.scale.batches  # that holds no card
        with setting.part(f"ONNX Runtime, {arithmetic.name}"):
            _in_onnxruntime(setting, card, path, arithmetic, batches)
        with setting.part(f"ONNX Runtime, {arithmetic.name}, parity"):
            session = session_of(setting, path, arithmetic)
            way = Way(card, "ONNX Runtime", arithmetic)
            parity(setting, way, sources[arithmetic.precision], _by_session(session))
        in_torch(setting, card, arithmetic, batches)
    _otherwise(setting, card, setting.network("fp16", name))
    with setting.part("ONNX Runtime, fp16, a photo of 4:3"):
        path = setting.network("fp16", name)
        _in_onnxruntime(setting, card, path, ARITHMETIC[0], (_aim_batch(setting),), setting.scale.wide_px)


def _aim_batch(setting: Setting) -> int:
    return min(AIM_BATCH, max(setting.scale.batches))


def _otherwise(setting: Setting, card: ModelCard, exported: Path) -> None:
    """Small in fp16 in other ways; and what it costs that batches differ."""
    batch = _aim_batch(setting)
    feed = {"pixels": pixels_of(batch, setting.scale.grid_px)}
    nhwc = {"prefer_nhwc": "1"}
    for how, path, more in (
        ("attention as three operators", setting.in_operators, {}),
        ("channels last", exported, nhwc),
        ("algorithms by exhaustive search", exported, {"cudnn_conv_algo_search": "EXHAUSTIVE"}),
    ):
        with setting.part(f"ONNX Runtime, {how}"):
            begins = time.perf_counter()
            session = session_of(setting, path, ARITHMETIC[0], more=more)
            bound = Bound(session, feed, setting)
            setting.fact(f"{how}: loaded and computed once, seconds", round(time.perf_counter() - begins, 1))
            row(setting, Way(card, f"ONNX Runtime, {how}", ARITHMETIC[0]), batch, text_of(setting.scale.grid_px), bound)
    with setting.part("ONNX Runtime, batches in turn"):
        session = session_of(setting, exported, ARITHMETIC[0])
        smaller = Bound(session, {"pixels": pixels_of(max(1, batch - 1), setting.scale.grid_px)}, setting)
        larger = Bound(session, feed, setting)

        def both() -> None:
            smaller()
            larger()

        ms = median_ms(both, setting.scale.seconds)
        setting.fact(f"one session, batches of {max(1, batch - 1)} and {batch} in turn, ms for both", round(ms, 1))


def larger(setting: Setting) -> None:
    """Base and Large, in fp16."""
    for size in setting.scale.larger:
        card = card_named(DEPTH.replace("small", size))
        path, arithmetic = setting.larger(size), ARITHMETIC[0]
        with setting.part(f"{card.title}, ONNX Runtime"):
            _in_onnxruntime(setting, card, path, arithmetic, setting.scale.batches)
        in_torch(setting, card, arithmetic, setting.scale.batches)
        with setting.part(f"{card.title}, parity"):
            run = _by_session(session_of(setting, path, arithmetic))
            parity(setting, Way(card, "ONNX Runtime", arithmetic), source_of(card, "fp16"), run)


def faces(setting: Setting, pack: Path) -> None:
    """The detector and the recogniser, in the one precision that they have."""
    card = card_named(str(pack))
    sources = module_of(card, "network").load(card, pack, "fp32")
    for network in card.networks:
        path = setting.network("fp32", network.name)
        for arithmetic in ARITHMETIC[1:]:
            with setting.part(f"{network.name}, {arithmetic.name}"):
                session = session_of(setting, path, arithmetic)
                for batch in setting.scale.batches:
                    bound = Bound(session, face_feed(session, batch), setting)
                    row(setting, Way(card, "ONNX Runtime", arithmetic), batch, network.name, bound)
            with setting.part(f"{network.name}, {arithmetic.name}, parity"):
                run = _by_session(session_of(setting, path, arithmetic))
                parity(setting, Way(card, network.name, arithmetic), sources[network.name], run)


def session_of(
    setting: Setting,
    path: Path,
    arithmetic: Arithmetic,
    fixed: Mapping[str, int] | None = None,
    options: onnxruntime.SessionOptions | None = None,
    more: Mapping[str, str] | None = None,
) -> onnxruntime.InferenceSession:
    """Load a file as the server's backend does; with `fixed` sizes of its dimensions also as one CUDA graph.

    Args:
        more: options of the CUDA provider.

    Raises:
        DepthfaceError: CUDA does not start.
    """
    options = options or onnxruntime.SessionOptions()
    options.log_severity_level = 3
    for dimension, size in (fixed or {}).items():
        options.add_free_dimension_override_by_name(dimension, size)
    if not setting.on_gpu:
        options.intra_op_num_threads = setting.cores
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    onnxruntime.preload_dlls()
    cuda = CUDA_OPTIONS | {"device_id": "0", "enable_cuda_graph": str(int(bool(fixed)))}
    cuda["use_tf32"] = str(int(arithmetic.tf32))
    cuda |= dict(more or {})
    session = onnxruntime.InferenceSession(path, options, providers=[(CUDA, cuda), "CPUExecutionProvider"])
    if CUDA not in session.get_providers():
        raise DepthfaceError(f"{CUDA} did not start; ONNX Runtime's warning in the log says why.")
    return session


class Bound:
    """A session with its inputs and outputs in the device's memory; called, it computes once and waits for it."""

    def __init__(self, session: onnxruntime.InferenceSession, feed: Arrays, setting: Setting) -> None:
        self._session, self._binding = session, session.io_binding()
        for name, value in feed.items():
            self._binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(value, setting.device, 0))
        for output in session.get_outputs():
            self._binding.bind_output(output.name, setting.device, 0)
        self()
        # Kept for every run: a CUDA graph writes where it wrote when it was recorded.
        outputs = zip(session.get_outputs(), self._binding.get_outputs(), strict=True)
        self._kept = [(output.name, value) for output, value in outputs]
        for name, value in self._kept:
            self._binding.bind_ortvalue_output(name, value)

    def __call__(self) -> None:
        self._session.run_with_iobinding(self._binding)


def _by_session(session: onnxruntime.InferenceSession) -> validate.Run:
    """Return it as a function from inputs by name to outputs by name."""
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(None, inputs), strict=True))


def _in_onnxruntime(
    setting: Setting,
    card: ModelCard,
    path: Path,
    arithmetic: Arithmetic,
    batches: tuple[int, ...],
    wanted_px: tuple[int, int] | None = None,
) -> None:
    size = wanted_px or setting.scale.grid_px
    session = session_of(setting, path, arithmetic)
    for batch in batches:
        feed = {"pixels": pixels_of(batch, size)}
        ms = row(setting, Way(card, "ONNX Runtime", arithmetic), batch, text_of(size), Bound(session, feed, setting))
        if card == depth_card() and arithmetic.name == "fp16" and batch == AIM_BATCH and size[0] == size[1]:
            text = f"network ≤ {AIM_MS} ms a photo of Small at batch {AIM_BATCH} in fp16, ONNX Runtime as served"
            setting.aim(text, ms, ms <= AIM_MS)
    for batch in batches:
        with setting.part(f"ONNX Runtime, fixed shape, {arithmetic.name}, batch {batch}"):
            fixed = _fixed(path, batch, size)
            bound = Bound(session_of(setting, path, arithmetic, fixed), {"pixels": pixels_of(batch, size)}, setting)
            how = "ONNX Runtime, fixed shape" + (", CUDA graph" if setting.on_gpu else "")
            row(setting, Way(card, how, arithmetic), batch, text_of(size), bound)


def _fixed(path: Path, batch: int, size: tuple[int, int]) -> dict[str, int]:
    """Return the sizes of a depth network's varying dimensions, by their names in the file."""
    dimensions = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    sizes = zip(dimensions, (batch, *size), strict=False)
    return {dimension.dim_param: size for dimension, size in sizes if dimension.dim_param}


def face_feed(session: onnxruntime.InferenceSession, batch: int) -> dict[str, npt.NDArray[Any]]:
    """Return a batch for a network of faces: a drawn crowd for a detector, noise in the size of a crop for others."""
    if [tensor.name for tensor in session.get_inputs()] == ["faces"]:
        return {"faces": pixels_of(batch, (RECOGNITION_CROP_PX,) * 2)}
    photo = np.asarray(photos.opened(photos.crowd(photos.FACES_A_PHOTO)))
    return {name: np.stack([value] * batch) for name, value in letterboxes(photo, 0.5, DET_SIZE_AUTO).items()}
