"""What is fuzzed: how its inputs are made, and what may come of one. Anything else is a finding.

Inputs are good files with a few edits, since bytes at random are refused at the first of them.
"""

from __future__ import annotations

import json
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from fixtures import face_networks, photo_files
from fuzz import over_http
from fuzz.inputs import JSON, edited, good_photos
from hypothesis import strategies as st

from depthface import image, limits, manifest
from depthface.contract import MANIFEST_FILE
from depthface.errors import ExportError, InvalidInput, MismatchError, ServeError
from depthface.families import card_named
from depthface.families.insightface import network
from depthface.verify import refuse_mismatches, verdicts
from depthface.weights import warning_of
from depthface_export import staging
from depthface_server.repository import contents
from depthface_standins.insightface import synthetic

__all__ = ["TARGETS", "Target"]


@dataclass(frozen=True)
class Target:
    """One thing that reads what anybody may send.

    Attributes:
        inputs: makes inputs.
        check: takes one; raises where it finds something that may not be. Gets the server's address.
    """

    inputs: st.SearchStrategy[bytes]
    check: Callable[[bytes, str], None]


# Photos


_KINDS = st.sampled_from(
    [
        *b"tEXt zTXt iTXt iCCP eXIf tRNS gAMA cHRM pHYs sRGB PLTE IDAT IHDR IEND acTL fcTL fdAT abcd ABCD a1cd".split(),
        bytes(4),
    ]
)
_TEXTS = st.sampled_from([b"Raw profile type exif\0", b"XML:com.adobe.xmp\0", b"Comment\0", b"\0", b""])
_CHUNK_DATA = st.one_of(
    st.binary(max_size=40),
    st.tuples(_TEXTS, st.sampled_from([b"", b"\0", b"\1\0\0\0", b"\0\0\0\0"]), st.binary(max_size=30)).map(b"".join),
    st.sampled_from([b"key\0\0" + zlib.compress(bytes(3 * 2**20)), photo_files.exif(6), photo_files.exif(0xFFFF)]),
)


def _chunk_edited(seeds: list[bytes]) -> st.SearchStrategy[bytes]:
    """PNGs with whole chunks put in, left out, repeated, moved, of wrong checksums and wrong lengths."""
    edit = st.tuples(
        st.sampled_from(["put", "put odd", "leave out", "repeat", "move", "change", "lengthen"]),
        st.floats(0, 1, exclude_max=True),
        _KINDS,
        _CHUNK_DATA,
    )

    def apply(drawn: tuple[bytes, list[tuple[str, float, bytes, bytes]]]) -> bytes:
        parts = [photo_files.chunk(kind, data) for kind, data in photo_files.chunks(drawn[0])]
        for what, place, kind, data in drawn[1]:
            at = int(place * len(parts))
            if what == "put":
                parts.insert(at, photo_files.chunk(kind, data))
            elif what == "put odd":
                parts.insert(at, photo_files.chunk(kind, data, crc=7))
            elif what == "repeat":
                parts.insert(at, parts[at])
            elif what == "change":
                parts[at] = photo_files.chunk(parts[at][4:8], data)
            elif what == "lengthen":
                parts[at] = b"\0\0\1\0" + parts[at][4:]
            elif len(parts) > 1:
                part = parts.pop(at)
                if what == "move":
                    parts.append(part)
        return photo_files.png_of(parts)

    return st.tuples(st.sampled_from(seeds), st.lists(edit, min_size=1, max_size=5)).map(apply)


def _images() -> st.SearchStrategy[bytes]:
    seeds = good_photos()
    return edited(seeds) | _chunk_edited([data for data in seeds if data.startswith(b"\x89PNG")])


def _check_image(data: bytes, host: str) -> None:
    try:
        pixels = image.decode(data)
    except InvalidInput as error:
        assert str(error).rstrip().endswith(".")
        return
    assert pixels.dtype == np.uint8
    assert pixels.shape[2:] == (3,)
    assert 0 < pixels.shape[0] * pixels.shape[1] <= limits.LARGEST_PIXELS
    assert pixels.flags.c_contiguous
    assert image.size_of(data) == pixels.shape[:2]


# Packs


def _networks() -> list[bytes]:
    small = [
        synthetic.pack()["det_synthetic.onnx"],
        face_networks.scrfd(),
        face_networks.regressor(112, 8, "conv"),
        face_networks.regressor(96, 3, "bn_data"),
        face_networks.regressor(192, 212, "minus"),
    ]
    return [model.SerializeToString() for model in small]


def _reshaped(drawn: tuple[bytes, list[tuple[int, int, int]]]) -> bytes:
    """A whole ONNX file with other numbers in it: dimensions, attributes, types, operators."""
    model = onnx.ModelProto.FromString(drawn[0])
    graph = model.graph
    numbers = [0, -1, 1, 2, 7, 2**31, 2**62]
    for what, which, value in drawn[1]:
        number = numbers[value % len(numbers)]
        node = graph.node[which % len(graph.node)]
        if what == 0 and graph.initializer:
            tensor = graph.initializer[which % len(graph.initializer)]
            if tensor.dims:
                tensor.dims[value % len(tensor.dims)] = number
        elif what == 1 and node.attribute:
            attribute = node.attribute[value % len(node.attribute)]
            attribute.i = number
            attribute.ints[:] = [number] * (which % 5)
        elif what == 2:
            node.op_type = graph.node[value % len(graph.node)].op_type
        elif what == 3 and node.input:
            node.input[0] = graph.node[value % len(graph.node)].output[0]
        elif what == 4:
            ends = [*graph.input, *graph.output]
            dims = ends[which % len(ends)].type.tensor_type.shape.dim
            if dims:
                dims[value % len(dims)].dim_value = min(number, 2**40)
        elif what == 5 and graph.initializer:
            graph.initializer[which % len(graph.initializer)].data_type = value % 25
        elif what == 6:
            model.opset_import[0].version = value % 30
        else:
            ends = [graph.input, graph.output][value % 2]
            if ends:
                del ends[which % len(ends)]
    return model.SerializeToString()


def _packs() -> st.SearchStrategy[bytes]:
    seeds = _networks()
    change = st.tuples(st.integers(0, 7), st.integers(0, 300), st.integers(0, 300))
    return edited(seeds) | st.tuples(st.sampled_from(seeds), st.lists(change, min_size=1, max_size=3)).map(_reshaped)


def _check_pack(data: bytes, host: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "pack")
        folder.mkdir()
        (folder / "any.onnx").write_bytes(data)
        onnx.save(DETECTOR, folder / "det.onnx")
        for alone in (False, True):
            if alone:
                (folder / "det.onnx").unlink()
            try:
                network.load(card_named(str(folder)), folder, "fp32")
            except ExportError as error:
                assert "\n" not in str(error)


DETECTOR = synthetic.pack()["det_synthetic.onnx"]


# Manifests


GOOD = manifest.Manifest(
    serves={"public": ["network"]},
    weights={"origin": "random, seed 0", "sha256": {}},
    license=None,
    precision="fp32",
    onnx={"sha256": "0" * 64, "opset": 17, "ir_version": 10},
    tensors={"inputs": [], "outputs": []},
    exporters={"depthface": "0"},
    fingerprint={"network": "0"},
    checks=[{"case": "a", "metric": "b", "value": 0.0, "tolerance": 1.0}],
    command=["depthface", "export", "one"],
    engine={
        "sha256": "0" * 64,
        "tensorrt": "10.16.1",
        "gpu": "NVIDIA A10",
        "compute_capability": "8.6",
        "driver": "580.95",
        "options": {"version_compatible": False, "hardware_compatible": "none"},
    },
)


def _replaced(drawn: tuple[list[tuple[str, object]], str]) -> bytes:
    changes, path = drawn
    text = {name: getattr(GOOD, name) for name in vars(GOOD)}
    for name, value in changes:
        if path and isinstance(text.get(name), dict):
            text[name] = {**text[name], path: value}
        else:
            text[name] = value
    return json.dumps(text).encode()


def _manifests() -> st.SearchStrategy[bytes]:
    names = st.sampled_from([*vars(GOOD), "more"])
    paths = st.sampled_from(["", "origin", "sha256", "public", "../up", "network", "driver", "options"])
    changed = st.tuples(st.lists(st.tuples(names, JSON), min_size=1, max_size=2), paths).map(_replaced)
    return changed | edited([_replaced(([], ""))])


def _check_manifest(data: bytes, host: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name, "repository")
        for model in ("public", "network"):
            (root / model / "1").mkdir(parents=True)
            (root / model / "config.pbtxt").write_text(f'name: "{model}"\n')
        (root / "network" / "1" / MANIFEST_FILE).write_bytes(data)
        try:
            found = contents(root)
            refuse_mismatches(verdicts(root))
        except (ServeError, MismatchError) as error:
            assert "Traceback" not in str(error)
        else:
            raise AssertionError(f"{found} is served, though there is no network")
        found_manifest = manifest.read(root / "network" / "1")
        assert found_manifest is None or isinstance(warning_of(found_manifest.weights["origin"]), str | None)
        with staging.stage(root):
            pass


TARGETS: dict[str, Callable[[], Target]] = {
    "image": lambda: Target(_images(), _check_image),
    "pack": lambda: Target(_packs(), _check_pack),
    "manifest": lambda: Target(_manifests(), _check_manifest),
    "http": lambda: Target(over_http.bodies(), over_http.check),
    "parameters": lambda: Target(over_http.requests(), over_http.check),
}
