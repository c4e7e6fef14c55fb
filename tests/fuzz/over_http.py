"""Requests over HTTP, whose bytes, parameters, shapes and types are anybody's."""

from __future__ import annotations

import http.client
import json
import math
import struct
from io import BytesIO

from fuzz.inputs import JSON, edited, good_photos
from hypothesis import strategies as st
from PIL import Image

MODEL = "depth_anything_v2_small"

# The body of an HTTP request


def bodies() -> st.SearchStrategy[bytes]:
    """The header's length (4 bytes, as text in the request's header), then the body."""
    photos = good_photos()[:5]
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
    return edited(seeds)


def check(data: bytes, host: str) -> None:
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


def requests() -> st.SearchStrategy[bytes]:
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
