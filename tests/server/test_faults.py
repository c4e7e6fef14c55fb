"""Bad input, overload and dead processes, each met on the real server, which goes on answering."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
from fixtures.photos import VARIETY, bomb, encoded, photo
from fixtures.serving import Server
from fixtures.waiting import settled

from depthface.errors import decode
from depthface_client import Client

MODEL = "depth_anything_v2_small"
GOOD = VARIETY["tiny 40×30"]


def post(server: Server, body: bytes, *, model: str = MODEL, header: str | None = "0") -> tuple[int, str]:
    """Send a body as curl would; the status and the text of the answer."""
    headers = {"Content-Type": "application/octet-stream"}
    if header is not None:
        headers["Inference-Header-Content-Length"] = header
    request = urllib.request.Request(f"http://{server.host}/v2/models/{model}/infer", data=body, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=300) as response:
            return response.status, ""
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["error"]


def resized(width: int, height: int) -> bytes:
    return encoded(photo().resize((width, height)), "PNG")


BAD_PHOTOS = {
    "empty": b"",
    "text": b"hello, I am not a photo",
    "truncated JPEG": VARIETY["landscape JPEG"][:4000],
    "1×1": resized(1, 1),
    "2000×27": resized(2000, 27),
    "300×4000": resized(300, 4000),
    "bomb": bomb(),
    "100 MB of noise": np.random.default_rng(0).bytes(100_000_000),
}


@pytest.mark.parametrize("name", BAD_PHOTOS)
def test_a_bad_photo_gets_a_400_and_a_sentence(server, name):
    status, text = post(server, BAD_PHOTOS[name])
    assert status == 400
    error = decode(text)
    assert error is not None
    assert error.what.endswith(".")
    assert error.remedy.endswith(".")
    assert "Traceback" not in text
    assert ".py" not in text
    assert post(server, GOOD) == (200, "")


def request(
    name: str = "image", datatype: str = "BYTES", shape: tuple[int, ...] = (1, 1), data: object = ("x",)
) -> bytes:
    return json.dumps({"inputs": [{"name": name, "datatype": datatype, "shape": shape, "data": data}]}).encode()


@pytest.mark.parametrize(
    ("body", "model", "said"),
    [
        (request(datatype="FP32", data=[1.0]), MODEL, "data-type"),
        (request(name="picture"), MODEL, "picture"),
        (request(), "no_such_model", "no_such_model"),
        (request(shape=(1, 2), data=["x", "y"]), MODEL, "shape"),
        (request(shape=(9, 1), data=["x"] * 9), MODEL, "batch"),
    ],
    ids=["dtype", "name", "model", "shape", "batch"],
)
def test_a_request_of_another_form_gets_a_4xx_and_a_sentence(server, body, model, said):
    status, text = post(server, body, model=model, header=None)
    assert 400 <= status < 500
    assert said in text
    assert post(server, GOOD) == (200, "")


def test_a_request_that_the_network_fails_on_spoils_none_of_the_shape_before(server):
    """OpenVINO's graph would fail them all, until one of another shape came."""
    less_than_a_patch = request(name="pixels", datatype="UINT8", shape=(1, 13, 13, 3), data=[0] * (13 * 13 * 3))
    with Client(server.host) as client:
        before = client.depth_png(GOOD)
        status, text = post(server, less_than_a_patch, model=f"{MODEL}_network", header=None)
        assert (status, "tensors of these shapes" in text) == (400, True)
        assert client.depth_png(GOOD) == before


def test_a_lack_of_memory_is_the_servers_fault_and_passes(server):
    """By a limit on the network's address space."""
    from tritonclient.http import InferenceServerClient, InferInput
    from tritonclient.utils import InferenceServerException

    large = InferInput("pixels", [8, 1036, 1036, 3], "UINT8")
    large.set_data_from_numpy(np.zeros((8, 1036, 1036, 3), np.uint8))
    with Client(server.host) as client, InferenceServerClient(server.host, network_timeout=300) as raw:
        before = client.depth_png(GOOD)
        (network,) = server.steps(f"{MODEL}_network")
        whole = network.rlimit(psutil.RLIMIT_AS)
        network.rlimit(psutil.RLIMIT_AS, (network.memory_info().vms + 500 * 2**20, whole[1]))
        try:
            # Where it is that memory fails is chance, and not each place says why: test_failures.py.
            said = "not enough memory for this request|The network failed on this request"
            with pytest.raises(InferenceServerException, match=said) as caught:
                raw.infer(f"{MODEL}_network", [large])
        finally:
            network.rlimit(psutil.RLIMIT_AS, whole)
        assert caught.value.status() == "500"
        assert client.depth_png(GOOD) == before


def test_several_photos_of_one_grid_in_one_request(server):
    from tritonclient.http import InferenceServerClient, InferInput

    with InferenceServerClient(server.host, network_timeout=60) as client, Client(server.host) as single:
        photos = [resized(40, 30), resized(80, 60)]
        tensor = InferInput("image", [2, 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[data] for data in photos], np.object_))
        depth = client.infer(MODEL, [tensor]).as_numpy("depth")
        for got, data in zip(depth, photos, strict=True):
            np.testing.assert_allclose(got, single.depth(data).array, atol=1e-5)


def test_several_photos_of_different_grids_in_one_request_are_refused_with_a_remedy(server):
    from tritonclient.http import InferenceServerClient, InferInput
    from tritonclient.utils import InferenceServerException

    with InferenceServerClient(server.host, network_timeout=60) as client:
        tensor = InferInput("image", [2, 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[resized(40, 30)], [resized(30, 40)]], np.object_))

        def count() -> int:
            return int(client.get_inference_statistics(f"{MODEL}_network")["model_stats"][0]["inference_count"])

        before = settled(count)
        with pytest.raises(InferenceServerException, match="requests of their own"):
            client.infer(MODEL, [tensor])
        assert settled(count) == before  # neither was computed


def tensors(photos: list[bytes], **more: object) -> tuple[bytes, str]:
    """A request of several photos, as the client sends it: the body, and the length of its JSON."""
    data = b"".join(len(photo).to_bytes(4, "little") + photo for photo in photos)
    image = {
        "name": "image",
        "shape": [len(photos), 1],
        "datatype": "BYTES",
        "parameters": {"binary_data_size": len(data)},
    }
    header = json.dumps({"inputs": [image], **more}).encode()
    return header + data, str(len(header))


@pytest.mark.parametrize("value", ["false", "true", 0, 1, 1.5])
def test_a_parameter_of_another_type_is_a_400(server, value):
    body, length = tensors([GOOD], parameters={"fast_decode": value}, outputs=[{"name": "size"}])
    status, text = post(server, body, header=length)
    assert (status, "fast_decode" in text, "true or false" in text) == (400, True, True)


@pytest.mark.parametrize(
    "parameters",
    [{"fast_decode": True}, {"priority": 3}, {"sequence_id": 5, "sequence_start": True}, {"sequence_id": "a"},
     {"timeout": 300_000_000}, {"anybodys": "own", "number": 1.5}],
    ids=str,
)  # fmt: skip
def test_parameters_of_tritons_own_and_of_others_do_no_harm(server, parameters):
    body, length = tensors([GOOD], parameters=parameters, outputs=[{"name": "size"}])
    assert post(server, body, header=length) == (200, "")


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xff\xff\x7fabc", b"\x01\0\0\0", b"abc"], ids=["none", "too long", "cut", "no length"]
)
def test_items_that_are_not_bytes_are_a_400(server, data):
    image = {"name": "image", "shape": [1, 1], "datatype": "BYTES", "parameters": {"binary_data_size": len(data)}}
    header = json.dumps({"inputs": [image]}).encode()
    assert post(server, header + data, header=str(len(header)))[0] == 400
    assert post(server, request(data=[5]), header=None)[0] in (400, 500)  # Triton's own JSON reader says 500
    assert post(server, request(shape=(0, 1), data=[]), header=None)[0] == 400
    assert post(server, GOOD) == (200, "")


def test_outputs_come_in_the_order_of_the_config_however_they_are_asked_for(server):
    """In every process, each of which has its own order of a set."""
    orders = set()
    for wanted in (["png8", "size", "depth", "png16"], ["depth", "size"], ["size", "png8"]) * 4:
        body, length = tensors([GOOD], outputs=[{"name": name, "parameters": {"binary_data": True}} for name in wanted])
        connection = http.client.HTTPConnection(server.host, timeout=60)
        headers = {"Inference-Header-Content-Length": length}
        connection.request("POST", f"/v2/models/{MODEL}/infer", body, headers)
        answer = connection.getresponse()
        size = int(answer.headers["Inference-Header-Content-Length"])
        orders.add(tuple(output["name"] for output in json.loads(answer.read()[:size])["outputs"]))
        connection.close()
    assert orders == {("depth", "size", "png16", "png8"), ("depth", "size"), ("size", "png8")}


def test_a_server_at_rest_computes_nothing_and_counts_nothing(server):
    """The watchdog looks at processes; a request of its own would be an answer or a failure that nobody asked for."""

    def counted() -> dict[str, str]:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port('metrics')}/metrics", timeout=60) as response:
            lines = response.read().decode().splitlines()
        return dict(line.rsplit(" ", 1) for line in lines if line.startswith(("nv_inference_", "depthface_")))

    before = settled(counted)
    assert before
    time.sleep(5)
    assert counted() == before


def test_the_answer_is_what_was_asked_for_and_the_size_alone_asks_no_network(server):
    """That no PNG is encoded for the others is seen without a server (test_depth_processing.py)."""
    from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

    tensor = InferInput("image", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[GOOD]], np.object_))
    with InferenceServerClient(server.host, network_timeout=60) as client:

        def count() -> int:
            (found,) = client.get_inference_statistics(f"{MODEL}_network")["model_stats"]
            return int(found["inference_count"])

        def ask(*outputs: str) -> int:
            """Ask ten times; how often the network has run for it."""
            before = settled(count)
            for _ in range(10):
                answer = client.infer(MODEL, [tensor], outputs=[InferRequestedOutput(name) for name in outputs])
                assert {output["name"] for output in answer.get_response()["outputs"]} == set(outputs)
            return settled(count) - before

        assert ask("size") == 0
        for outputs in (["depth"], ["png8"], ["depth", "size", "png16", "png8"]):
            assert ask(*outputs) == 10


@pytest.mark.slow
def test_200_concurrent_requests_are_all_right_and_bad_ones_fail_alone(server):
    """Small photos of four shapes, every tenth of them broken."""
    photos = [resized(w, h) for w, h in ((40, 30), (30, 40), (48, 48), (60, 20))]
    with Client(server.host, timeout_s=300) as client:
        expected = [client.depth(data).array for data in photos]

        def call(index: int) -> bool:
            if index % 10 == 0:
                return post(server, BAD_PHOTOS["truncated JPEG"])[0] == 400
            return np.allclose(client.depth(photos[index % 4]).array, expected[index % 4], atol=1e-5)

        with ThreadPoolExecutor(200) as pool:
            assert all(pool.map(call, range(200)))
