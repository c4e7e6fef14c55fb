"""InsightFace's networks: the files of a pack as the graphs that are served, and InsightFace itself as reference."""

from __future__ import annotations

import contextlib
import io
import tempfile
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx

from depthface.contract import ONNX_FILE, Precision
from depthface.errors import ExportError, WeightsCorrupt
from depthface.families.insightface.card import PackFile, pack_card
from depthface.families.insightface.facts import PACK_NAME, PACK_NAME_RULE
from depthface.families.insightface.graphs import crops, kinds, reading, scrfd
from depthface.spec import HubFile, ModelCard, Source

__all__ = ["card_of_folder", "load", "sources"]


def card_of_folder(folder: Path) -> ModelCard:
    """Return the card of a folder of InsightFace's ONNX files; the pack's name is the folder's.

    Raises:
        ExportError: a file that is not ONNX or of no kind that is known, two of one kind, or no detector; or a folder
            whose name cannot be part of a model's.
    """
    name = folder.resolve().name
    if not PACK_NAME.fullmatch(name):
        raise ExportError(
            f"A pack cannot be called {name!r}: its models are named after the folder.",
            f"Rename the folder to {PACK_NAME_RULE}.",
        )
    files: dict[str, PackFile] = {}
    # Hidden files are the file system's own: macOS leaves ._<name> beside each on a foreign disk.
    for path in sorted(path for path in folder.glob("*.onnx") if not path.name.startswith(".")):
        model = reading.read(path)
        with _name_in_errors(path):
            file = _pack_file(path, model)
        if file.kind == "swapper":
            continue
        if file.kind in files:
            raise ExportError(
                f"{folder.name} holds two files of kind {file.kind}: {files[file.kind].file.name} and {path.name}.",
                "Leave one of them in it.",
            )
        files[file.kind] = file
    if "detector" not in files:
        raise ExportError(
            f"{folder} holds no face detector (an SCRFD file).", "A pack needs one, whatever else it has."
        )
    order = ("detector", "recognizer", "landmarks_106", "landmarks_68", "attributes")
    return pack_card(name, tuple(files[kind] for kind in order if kind in files))


def load(card: ModelCard, folder: Path, precision: Precision) -> dict[str, Source]:
    """Return the graphs of a pack, by the names of their networks, with InsightFace's model of the file as reference.

    Args:
        folder: of the pack's files.

    Raises:
        ExportError: naming the file that is missing, damaged, or of another kind than it should be.
    """
    return sources(card, lambda file: reading.read(folder / file.file.name), precision)


def sources(
    card: ModelCard,
    original: Callable[[PackFile], onnx.ModelProto],
    precision: Precision,
    *,
    is_published: bool = True,
) -> dict[str, Source]:
    """As `load`, of files from anywhere.

    Args:
        original: gives the model of each of the card's files.
        is_published: hold it against what is known of the published file.
    """
    made = {}
    for network, file in zip(card.networks, card.architecture.values(), strict=True):
        assert isinstance(file, PackFile)
        model = original(file)
        with _name_in_errors(Path(file.file.name)):
            mean, std = _check(model, file, is_published)
            made[network.name] = Source(model=_graph(model, file, mean, std), reference=_reference(model, file.kind))
    return made


def _pack_file(path: Path, model: onnx.ModelProto) -> PackFile:
    kind = kinds.kind(model)
    if kind == "detector" and len(model.graph.output) != 9:
        raise ExportError("It gives no keypoints, and faces are aligned by them.", "Use a detector that does.")
    kinds.check_size(model)
    mean, std = kinds.normalization(model)
    return PackFile(
        kind,
        HubFile(path.name, None, None),
        mean,
        std,
        columns=_columns(model) if kind == "recognizer" else 0,
        side_px=kinds.fixed_side(model) if kind == "detector" else None,
    )


def _check(model: onnx.ModelProto, file: PackFile, is_published: bool) -> tuple[float, float]:
    """Return the mean and std of a file that is what the card says of it."""
    kind = kinds.kind(model)
    if kind != file.kind:
        raise WeightsCorrupt(f"It is a network of kind {kind}, where the {file.kind} should be.")
    kinds.check_size(model)
    if kind == "detector" and kinds.fixed_side(model) != file.side_px:
        raise ExportError(
            f"It takes {_size(kinds.fixed_side(model))}, and the file of that name takes {_size(file.side_px)}.",
            "Give its folder in the place of the model's name: depthface export FOLDER.",
        )
    normalization = kinds.normalization(model)
    if is_published and normalization != (file.mean, file.std):
        raise WeightsCorrupt(
            f"It wants mean and std {normalization}, the published file {(file.mean, file.std)}.",
            "Use the file as it was published.",
        )
    return normalization


def _size(side_px: int | None) -> str:
    return "photos of any size" if side_px is None else f"{side_px}×{side_px} alone"


def _graph(original: onnx.ModelProto, file: PackFile, mean: float, std: float) -> onnx.ModelProto:
    if file.kind == "detector":
        return scrfd.detector(original, mean=mean, std=std, two_sizes=file.side_px is None)
    if file.kind == "recognizer":
        return crops.recognizer(original, mean=mean, std=std)
    if file.kind == "attributes":
        return crops.attributes(original, mean=mean, std=std)
    if file.kind == "swapper":
        return crops.swapper(original)
    return crops.landmarks(original, mean=mean, std=std)


def _columns(model: onnx.ModelProto) -> int:
    """Return the length of an embedding, asked of the network itself: not every file declares it."""
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

    with contextlib.ExitStack() as stack:
        path = Path(stack.enter_context(tempfile.TemporaryDirectory()), ONNX_FILE)
        onnx.save(original, path)
        with contextlib.redirect_stdout(io.StringIO()):
            model = get_model(str(path), providers=["CPUExecutionProvider"])
        if model is None:
            raise ExportError(f"InsightFace does not recognise the {kind}.", "Use the file as it was published.")
        weakref.finalize(model, stack.pop_all().close)
    return model


@contextlib.contextmanager
def _name_in_errors(path: Path) -> Iterator[None]:
    """Put the file's name before an error of its graph, and make one of whatever onnx or ONNX Runtime raise for it."""
    try:
        yield
    except ExportError as error:
        raise type(error)(f"{path.name}: {error.what}", error.remedy) from error
    except OSError:  # a full disk is nobody's graph
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise WeightsCorrupt(
            f"{path.name}: it cannot be used as the network that it looks like ({reason}).",
            "Use the ONNX files of an InsightFace pack as they were published.",
        ) from error
