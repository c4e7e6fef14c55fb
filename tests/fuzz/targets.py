"""What is fuzzed: how its inputs are made, and what may come of one. Anything else is a finding.

Inputs are good files with a few edits, since bytes at random are refused at the first of them.
"""

from __future__ import annotations

import http.client
import json
import math
import struct
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import onnx
import pillow_heif
from fixtures import face_networks, photo_files
from hypothesis import strategies as st
from PIL import Image

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

MODEL = "depth_anything_v2_small"


@dataclass(frozen=True)
class Target:
    """One thing that reads what anybody may send.

    Attributes:
        inputs: makes inputs.
        check: takes one; raises where it finds something that may not be. Gets the server's address.
    """

    inputs: st.SearchStrategy[bytes]
    check: Callable[[bytes, str], None]


def _edited(seeds: list[bytes], *, edits: int = 6) -> st.SearchStrategy[bytes]:
    """Seeds with bytes changed, cut out, put in and repeated."""
    place = st.floats(0, 1, exclude_max=True)
    patch = st.one_of(
        st.binary(min_size=1, max_size=8),
        st.sampled_from([b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\xff\xd8", b"../", b"1e999"]),
    )
    edit = st.tuples(st.sampled_from(["put", "change", "cut", "end", "repeat"]), place, place, patch)

    def apply(drawn: tuple[bytes, list[tuple[str, float, float, bytes]]]) -> bytes:
        data = bytearray(drawn[0])
        for what, at, length, put in drawn[1]:
            start = int(at * at * len(data))  # headers come first
            stop = start + int(length * min(len(data) - start, 64))
            if what == "put":
                data[start:start] = put
            elif what == "change":
                data[start : start + len(put)] = put
            elif what == "cut":
                del data[start:stop]
            elif what == "end":
                del data[start:]
            else:
                data[start:start] = data[start:stop] * 3
        return bytes(data)

    return st.tuples(st.sampled_from(seeds), st.lists(edit, max_size=edits)).map(apply)


# Photos


def _photos() -> list[bytes]:
    gradient = Image.merge("RGB", [Image.linear_gradient("L").resize((48, 32)).rotate(turn) for turn in (0, 90, 180)])
    exif = Image.Exif()
    exif[0x0112] = 6
    made = []
    pillow_heif.register_heif_opener(thumbnails=False)
    for format, mode, options in (
        ("JPEG", "RGB", {"exif": exif}), ("JPEG", "RGB", {"progressive": True}), ("JPEG", "L", {}),
        ("JPEG", "CMYK", {}),
        ("PNG", "RGB", {}), ("PNG", "RGBA", {}), ("PNG", "P", {}), ("PNG", "I;16", {}), ("PNG", "1", {}),
        ("WEBP", "RGB", {}), ("WEBP", "RGB", {"lossless": True}), ("BMP", "RGB", {}), ("BMP", "P", {}),
        ("TIFF", "RGB", {}), ("TIFF", "RGB", {"compression": "tiff_lzw"}), ("TIFF", "RGB", {"compression": "jpeg"}),
        ("TIFF", "L", {"compression": "packbits"}), ("TIFF", "RGB", {"compression": "tiff_adobe_deflate"}),
        ("TIFF", "L", {"big_tiff": True, "exif": exif}), ("TIFF", "I;16", {}), ("GIF", "P", {}), ("GIF", "L", {}),
        ("WEBP", "RGBA", {"exif": exif, "xmp": b"<x/>"}), ("AVIF", "RGB", {"exif": exif}), ("AVIF", "L", {}),
        ("HEIF", "RGB", {}),
    ):  # fmt: skip
        buffer = BytesIO()
        picture = gradient.convert("L").convert("I;16") if mode == "I;16" else gradient.convert(mode)
        picture.save(buffer, format, **options)
        made.append(buffer.getvalue())
    return made


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
    seeds = _photos()
    return _edited(seeds) | _chunk_edited([data for data in seeds if data.startswith(b"\x89PNG")])


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
    return _edited(seeds) | st.tuples(st.sampled_from(seeds), st.lists(change, min_size=1, max_size=3)).map(_reshaped)


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


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["..", "/", "a/b"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
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
    return changed | _edited([_replaced(([], ""))])


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


# The body of an HTTP request


def _bodies() -> st.SearchStrategy[bytes]:
    """The header's length (4 bytes, as text in the request's header), then the body."""
    photos = _photos()[:5]
    request = json.dumps(
        {
            "id": "x",
            "inputs": [
                {"name": "image", "shape": [1, 1], "datatype": "BYTES", "parameters": {"binary_data_size": 1000}}
            ],
            "outputs": [{"name": "png8", "parameters": {"binary_data": True}}, {"name": "size"}],
        }
    ).encode()
    seeds = [b"0000" + photo for photo in photos]
    for photo in photos:
        sized = request.replace(b"1000", str(len(photo) + 4).encode())
        seeds.append(f"{len(sized):04}".encode() + sized + len(photo).to_bytes(4, "little") + photo)
    seeds.append(b"null" + request.replace(b', "parameters": {"binary_data_size": 1000}', b', "data": ["eA=="]'))
    return _edited(seeds)


def _check_http(data: bytes, host: str) -> None:
    connection = http.client.HTTPConnection(host, timeout=60)
    length = data[:4].decode("latin-1")
    headers = {"Content-Type": "application/octet-stream"}
    if length != "null" and all(" " <= letter <= "~" for letter in length):
        headers["Inference-Header-Content-Length"] = length
    try:
        connection.request("POST", f"/v2/models/{MODEL}/infer", data[4:], headers)
        response = connection.getresponse()
        text = response.read()
    finally:
        connection.close()
    assert response.status in (200, 400, 500, 501, 503), response.status  # 501: what Triton does not know
    if response.status != 200:
        assert b"Traceback" not in text
        assert b".py" not in text
        assert b"healthy" not in text  # a step that died


# The JSON of an HTTP request: its parameters, shapes and types


def _with_json(request: dict[str, object]) -> bytes:
    return b"null" + json.dumps(request).encode()


def _text_request(**changes: object) -> dict[str, object]:
    tensor = {"name": "image", "shape": [1, 1], "datatype": "BYTES", "data": ["x"]}
    return {"inputs": [tensor], "outputs": [{"name": "size"}], **changes}


def _with_photo(**changes: object) -> bytes:
    """Return a request in Triton's binary form: the length of its JSON in four digits, the JSON, a photo."""
    buffer = BytesIO()
    Image.new("RGB", (40, 30), "teal").save(buffer, "PNG")
    photo = struct.pack("<I", buffer.tell()) + buffer.getvalue()
    tensor = {"name": "image", "shape": [1, 1], "datatype": "BYTES", "parameters": {"binary_data_size": len(photo)}}
    text = json.dumps({"inputs": [tensor], **changes}).encode()
    return f"{len(text):04}".encode() + text + photo


ENDING: dict[str, tuple[str, bytes]] = {
    "a classification of bytes": (
        MODEL,
        _with_photo(outputs=[{"name": "png8", "parameters": {"classification": 3}}]),
    ),
    "a side of 63 bits": (
        f"{MODEL}_network",
        _with_json({"inputs": [{"name": "pixels", "shape": [1, 2**63 - 1, 2, 3], "datatype": "UINT8", "data": []}]}),
    ),
    "numbers as text, of more bytes than there is memory": (
        MODEL,
        _with_json({"inputs": [{"name": "x", "shape": [2**31 - 1, 2**16, 9], "datatype": "FP32", "data": [0]}]}),
    ),
}
"""What ends a Triton 24.10, model and body: found by hand, and left out of what is drawn here, since each costs a
restart. `tests/server/test_recovery.py` sends them."""


def _is_in_memory(shape: list[int]) -> bool:
    """Whether Triton can set aside what numbers of this shape take: it tries before it looks at them (`ENDING`)."""
    return math.prod(abs(side) for side in shape) <= 2**31


def _requests() -> st.SearchStrategy[bytes]:
    """Requests of a good form whose parameters and shapes are anybody's."""
    side = st.sampled_from([-1, 0, 1, 2, 9, 14, 2**16, 2**31 - 1])
    value = JSON | st.sampled_from([0, 1, -1, 2**31, 2**63 - 1, -(2**63), 1e308, "true", "false", "", "x" * 300, True])
    names = [
        "priority",
        "timeout",
        "sequence_id",
        "sequence_start",
        "sequence_end",
        "fast_decode",
        "binary_data_output",
    ]
    parameters = st.dictionaries(st.sampled_from([*names, "more"]), value, max_size=3)
    kinds = st.sampled_from(["BYTES", "UINT8", "FP32", "INT64", "BOOL", "FP16", "", "bytes"])
    tensor = st.fixed_dictionaries(
        {
            "name": st.sampled_from(["image", "pixels", "", "x"]),
            "shape": st.lists(side, max_size=4).filter(_is_in_memory) | st.just([1, 1]),
            "datatype": kinds,
            "data": st.lists(value, max_size=3) | st.just(["x"]),
        }
    )
    output = st.fixed_dictionaries(
        {"name": st.sampled_from(["size", "depth", "png8", "none"])},
        optional={"parameters": st.dictionaries(st.sampled_from(["binary_data", "more"]), value, max_size=2)},
    )
    request = st.fixed_dictionaries(
        {"inputs": st.lists(tensor, min_size=1, max_size=2)},
        optional={"parameters": parameters, "outputs": st.lists(output, max_size=3), "id": st.text(max_size=20)},
    )
    sound = st.builds(lambda parameters: _text_request(parameters=parameters), parameters)
    # Outputs that hold something: a classification of bytes, or of nothing, is in `ENDING`.
    classes = st.dictionaries(st.sampled_from(["binary_data", "classification", "more"]), value, max_size=2)
    name = st.sampled_from(["size"] * 9 + ["depth"])  # the depth itself takes its time
    asked = st.fixed_dictionaries({"name": name}, optional={"parameters": classes})
    photo = st.builds(
        lambda parameters, outputs: _with_photo(parameters=parameters, outputs=outputs),
        parameters,
        st.lists(asked, min_size=1, max_size=2),
    )
    return (sound | request).map(_with_json) | photo


TARGETS: dict[str, Callable[[], Target]] = {
    "image": lambda: Target(_images(), _check_image),
    "pack": lambda: Target(_packs(), _check_pack),
    "manifest": lambda: Target(_manifests(), _check_manifest),
    "http": lambda: Target(_bodies(), _check_http),
    "parameters": lambda: Target(_requests(), _check_http),
}
