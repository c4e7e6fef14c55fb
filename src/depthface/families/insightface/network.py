"""InsightFace's networks: the files of a pack as the graphs that are served, and InsightFace itself as reference."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx

from depthface.contract import ONNX_FILE, Precision
from depthface.errors import ExportError, WeightsCorrupt
from depthface.families.insightface import architectures, graphs, reading, synthetic
from depthface.families.insightface.card import PackFile, pack_card
from depthface.limits import MAX_FACES
from depthface.spec import HubFile, ModelCard, Source

__all__ = ["card_of_folder", "load"]

SYNTHETIC_FILES = {
    "detector": "det_synthetic.onnx",
    "recognizer": "w600k_synthetic.onnx",
    "landmarks_106": "2d106det.onnx",
    "landmarks_68": "1k3d68.onnx",
    "attributes": "genderage.onnx",
}

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def card_of_folder(folder: Path) -> ModelCard:
    """The card of a folder of InsightFace's ONNX files; the pack's name is the folder's.

    Raises:
        ExportError: a file that is not ONNX or of no kind that is known, two of one kind, or no detector; or a folder
            whose name cannot be part of a model's.
    """
    name = folder.resolve().name
    if not _NAME.fullmatch(name):
        raise ExportError(
            f"A pack cannot be called {name!r}: its models are named after the folder. Rename the folder to letters, "
            "digits, '_', '-' and '.', starting with a letter or digit, at most 64."
        )
    files: dict[str, PackFile] = {}
    for path in sorted(folder.glob("*.onnx")):
        model = reading.read(path)
        with _naming(path):
            kind = graphs.kind(model)
            mean, std = graphs.normalization(model)
            columns = _columns(model) if kind == "recognizer" else 0
        if kind == "swapper":
            continue
        if kind == "detector" and len(model.graph.output) != 9:
            raise ExportError(
                f"{path.name} gives no keypoints, and faces are aligned by them. Use a detector that does."
            )
        if kind in files:
            raise ExportError(f"{folder.name} holds two files of kind {kind}: {files[kind].file.name} and {path.name}.")
        files[kind] = PackFile(kind, HubFile(path.name, None, None), mean, std, columns)
    if "detector" not in files:
        raise ExportError(f"{folder} holds no face detector (an SCRFD file). A pack needs one, whatever else it has.")
    order = ("detector", "recognizer", "landmarks_106", "landmarks_68", "attributes")
    return pack_card(name, tuple(files[kind] for kind in order if kind in files))


def load(card: ModelCard, weights: Path | int | str, precision: Precision) -> dict[str, Source]:
    """The graphs of a pack, each under its network's name, with InsightFace's own model of the file as reference.

    Args:
        weights: a folder of the pack's files, the seed of random networks, or `synthetic`.

    Raises:
        ExportError: naming the file that is missing, damaged, or of another kind than it should be.
    """
    if precision not in card.tolerances:
        possible = " or ".join(card.tolerances)
        raise ExportError(f"{card.title} is exported in {possible}, not in {precision}. Choose another --precision.")
    sources = {}
    for network, (kind, file) in zip(card.networks, card.architecture.items(), strict=True):
        assert isinstance(file, PackFile)
        original = _original(file, weights)
        with _naming(Path(file.file.name)):
            found = graphs.kind(original)
            if found != kind:
                raise WeightsCorrupt(f"it is a network of kind {found}, where the {kind} should be")
            normalization = graphs.normalization(original)
            expected = (file.mean, file.std) if not isinstance(weights, int | str) else normalization
            if normalization != expected:
                raise WeightsCorrupt(f"it wants mean and std {normalization}, the published file {expected}")
            graph = _graph(original, kind, *normalization)
            sources[network.name] = Source(model=graph, reference=_reference(original, kind))
    return sources


def _graph(original: onnx.ModelProto, kind: str, mean: float, std: float) -> onnx.ModelProto:
    if kind == "detector":
        return graphs.detector(original, mean=mean, std=std, max_faces=MAX_FACES, two_sizes=True)
    if kind == "recognizer":
        return graphs.recognizer(original, mean=mean, std=std)
    if kind == "attributes":
        return graphs.attributes(original, mean=mean, std=std)
    if kind == "swapper":
        return graphs.swapper(original)
    return graphs.landmarks(original, mean=mean, std=std)


def _original(file: PackFile, weights: Path | int | str) -> onnx.ModelProto:
    if isinstance(weights, int):
        return architectures.random_model(file.random, weights)  # type: ignore[arg-type]
    if isinstance(weights, str):
        return synthetic.pack()[SYNTHETIC_FILES[file.kind]]
    return reading.read(weights / file.file.name)


def _columns(model: onnx.ModelProto) -> int:
    """The length of an embedding, asked of the network itself: not every file declares it."""
    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    fed = session.get_inputs()[0]
    side = fed.shape[2]
    (embedding,) = session.run(None, {fed.name: np.zeros((1, 3, side, side), np.float32)})
    return int(embedding.shape[1])


def _reference(original: onnx.ModelProto, kind: str) -> Any:
    """InsightFace's own object for the file. It reads from a path, and again later for other input sizes."""
    from insightface.model_zoo import get_model

    folder = Path(tempfile.mkdtemp())
    path = folder / ONNX_FILE
    onnx.save(original, path)
    with contextlib.redirect_stdout(io.StringIO()):
        model = get_model(str(path), providers=["CPUExecutionProvider"])
    if model is None:
        shutil.rmtree(folder)
        raise ExportError(f"insightface does not recognise the {kind}")
    weakref.finalize(model, shutil.rmtree, folder)
    return model


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the file's name before an error of its graph, and make one of whatever onnx or ONNX Runtime raise for it."""
    try:
        yield
    except ExportError as error:
        raise type(error)(f"{path.name}: {error}") from error
    except OSError:  # a full disk is nobody's graph
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise WeightsCorrupt(
            f"{path.name}: it cannot be used as the network that it looks like ({reason}). Use the ONNX files of an "
            "InsightFace pack as they were published."
        ) from error
