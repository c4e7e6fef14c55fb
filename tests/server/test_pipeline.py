"""What stands between Triton and a pipeline's coroutine, by small pipelines on the real server."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fixtures.lab import Lab
from fixtures.waiting import until
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from depthface import admin
from depthface.contract import CONTRACT

OUTER = """
import json
import numpy as np
from depthface.errors import ImageTooLarge
from depthface_server.pipeline import Pipeline

async def run(wanted, infer, parameters, image, *, fast_decode: bool = False):
    if image == b"too large":
        raise ImageTooLarge("This one is too large. Send a smaller one.")
    found = await infer("inner", {"image": np.array([[image]], np.object_)}, ("seen",))
    told = {"wanted": sorted(wanted), "fast_decode": fast_decode, "mark": parameters.facts["mark"]}
    return {
        "seen": found["seen"][0, 0],
        "told": json.dumps(told).encode(),
        "length": np.array([len(image)], np.int32),
    }

class TritonPythonModel(Pipeline):
    run = staticmethod(run)
"""

INNER = """
import json
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            image = pb_utils.get_input_tensor_by_name(request, "image").as_numpy()
            known = {"id": request.request_id(), "timeout_us": request.timeout(), "image": image[0, 0].decode()}
            seen = np.array([[json.dumps(known).encode()]], np.object_)
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("seen", seen)]))
        return answers
"""


def text_of_contract(number: int) -> str:
    return f'parameters {{ key: "contract" value {{ string_value: "{number}" }} }}'


INPUT = 'input { name: "image" data_type: TYPE_STRING dims: [ 1 ] }\n'
SEEN = 'output { name: "seen" data_type: TYPE_STRING dims: [ 1 ] }\n'
OUTER_CONFIG = f"""
max_batch_size: 8
{INPUT}{SEEN}
output {{ name: "told" data_type: TYPE_STRING dims: [ 1 ] }}
output {{ name: "length" data_type: TYPE_INT32 dims: [ 1 ] }}
instance_group {{ count: 1 kind: KIND_CPU }}
dynamic_batching {{ preferred_batch_size: [ 8 ] max_queue_delay_microseconds: 50000 }}
{text_of_contract(CONTRACT)}
parameters {{ key: "networks" value {{ string_value: "asked=inner" }} }}
parameters {{ key: "fact.mark" value {{ string_value: "of the config" }} }}
"""


# A network under a backend that is not ours, as NVIDIA's: what it gives is the text that it is asked with.
SAYING = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        asked = [pb_utils.get_input_tensor_by_name(request, "image").as_numpy() for request in requests]
        said = [np.array([[float(row[0])] for row in rows], np.float32) for rows in asked]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("value", value)]) for value in said]
"""

SAID = """
import numpy as np
from depthface_server.pipeline import Pipeline

async def run(wanted, infer, parameters, image):
    found = await infer("saying", {"image": np.array([[image]], np.object_)}, ("value",))
    return {"seen": repr(float(found["value"][0, 0])).encode()}

class TritonPythonModel(Pipeline):
    run = staticmethod(run)
"""

# A step after a network, which is handed what that gave.
STEP = """
from depthface_server.pipeline import Pipeline

async def run(wanted, infer, parameters, value):
    return {"seen": repr(float(value[0])).encode()}

class TritonPythonModel(Pipeline):
    run = staticmethod(run)
"""


@pytest.fixture(scope="module")
def pipelines(lab) -> Lab:
    """`outer` asks `inner`, which says what it was asked."""
    lab.load_code("inner", INNER, f"max_batch_size: 8\n{INPUT}{SEEN}dynamic_batching {{ }}")
    lab.load_code("outer", OUTER, OUTER_CONFIG)
    return lab


WAITING = """
import asyncio
import pathlib
import numpy as np
from depthface_server.pipeline import Pipeline

async def run(wanted, infer, parameters, image):
    folder = pathlib.Path(image.decode())
    (folder / "asked").touch()
    while not (folder / "go").exists():
        await asyncio.sleep(0.01)
    found = await infer("left", {"image": np.array([[image]], np.object_)}, ("seen",))
    return {"seen": found["seen"][0, 0]}

class TritonPythonModel(Pipeline):
    run = staticmethod(run)
"""


def ask(lab: Lab, *images: bytes, outputs: tuple[str, ...] = ("seen", "told", "length"), **options: object) -> dict:
    """A request of several photos: the outputs by name, a row for each photo."""
    tensor = InferInput("image", [len(images), 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[image] for image in images], np.object_))
    with InferenceServerClient(lab.host, network_timeout=60) as client:
        result = client.infer("outer", [tensor], outputs=[InferRequestedOutput(name) for name in outputs], **options)
    rows = {each["name"]: result.as_numpy(each["name"])[:, 0] for each in result.get_response()["outputs"]}
    return {name: [json.loads(x) for x in row] if row.dtype == object else row.tolist() for name, row in rows.items()}


def test_what_a_pipeline_asks_carries_the_requests_id_and_time_limit(pipelines):
    (seen,) = ask(pipelines, b"x", request_id="mine-7", timeout=12_345_678)["seen"]
    assert (seen["id"], seen["timeout_us"]) == ("mine-7", 12_345_678)
    (seen,) = ask(pipelines, b"x")["seen"]
    assert (seen["id"], seen["timeout_us"]) == ("", 0)


def test_the_coroutine_is_told_what_is_wanted_the_parameters_and_the_options_that_it_knows(pipelines):
    (told,) = ask(pipelines, b"x", outputs=("told",), parameters={"fast_decode": True, "unknown": 3})["told"]
    assert told == {"wanted": ["told"], "fast_decode": True, "mark": "of the config"}
    (told,) = ask(pipelines, b"x", outputs=("told", "length"))["told"]
    assert told == {"wanted": ["length", "told"], "fast_decode": False, "mark": "of the config"}


def test_no_more_is_answered_than_was_asked_for(pipelines):
    assert set(ask(pipelines, b"x", outputs=("length",))) == {"length"}


def test_every_photo_of_a_request_has_its_own_row_in_order(pipelines):
    images = [b"x" * length for length in (5, 1, 4, 2, 3, 8, 7, 6)]
    answer = ask(pipelines, *images)
    assert answer["length"] == [len(image) for image in images]
    assert [seen["image"] for seen in answer["seen"]] == [image.decode() for image in images]


def test_requests_that_are_batched_get_each_their_own_answer(pipelines):
    def call(index: int) -> tuple[object, ...]:
        try:
            answer = ask(pipelines, b"too large" if index % 5 == 0 else b"%d" % index, request_id=f"r{index}")
        except InferenceServerException as error:
            return error.status(), "too large" in error.message()
        return answer["seen"][0]["id"], answer["seen"][0]["image"]

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(call, range(40)))
    for index, answer in enumerate(answers):
        assert answer == (("400", True) if index % 5 == 0 else (f"r{index}", str(index)))
    (statistics,) = pipelines.client.get_inference_statistics("outer")["model_stats"]
    assert int(statistics["execution_count"]) < int(statistics["inference_count"]), "nothing was batched"


def test_a_bad_photo_among_good_ones_in_one_request_is_a_400_for_it(pipelines):
    with pytest.raises(InferenceServerException, match="too large") as caught:
        ask(pipelines, b"good", b"too large", b"good")
    assert caught.value.status() == "400"


@pytest.mark.parametrize("gathers", ["", "true"])
def test_what_a_network_gives_that_is_no_number_is_a_failure(lab, gathers):
    """Of the photo alone that it is of, also where several are one batch."""
    value = '{ name: "value" data_type: TYPE_FP32 dims: [ 1 ] }'
    if not gathers:
        lab.load_code("saying", SAYING, f"max_batch_size: 8\n{INPUT}output {value}")
        part_of = 'parameters { key: "part_of" value { string_value: "whole" } }'
        lab.load_code("step", STEP, f"max_batch_size: 8\ninput {value}\n{SEEN}{part_of}{text_of_contract(CONTRACT)}")
    batching = "dynamic_batching { preferred_batch_size: [ 4 ] max_queue_delay_microseconds: 500000 }"
    facts = f'parameters {{ key: "gathers" value {{ string_value: "{gathers}" }} }}{batching}'
    name = f"said{gathers}"
    lab.load_code(name, SAID, f"max_batch_size: 8\n{INPUT}{SEEN}{facts}{text_of_contract(CONTRACT)}")

    def call(text: str) -> str:
        tensor = InferInput("image", [1, 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[text.encode()]], np.object_))
        of_step = InferInput("value", [1, 1], "FP32")
        of_step.set_data_from_numpy(np.array([[text]], np.float32))
        said = []
        with InferenceServerClient(lab.host, network_timeout=60) as client:
            for model, fed in ((name, tensor), ("step", of_step)):
                try:
                    said.append(client.infer(model, [fed]).as_numpy("seen")[0, 0].decode())
                except InferenceServerException as error:
                    said.append(f"{error.status()} {error.message()}")
        return " ".join(said)

    failed = f"500 {name} failed; the server's log says why 500 whole failed; the server's log says why"
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(call, ("1", "nan", "2", "-inf"))) == ["1.0 1.0", failed, "2.0 2.0", failed]


def test_who_still_waits_in_a_pipeline_that_is_unloaded_loads_no_network_again(lab: Lab, tmp_path: Path):
    lab.load_code("left", INNER, f"max_batch_size: 8\n{INPUT}{SEEN}")
    more = 'parameters { key: "networks" value { string_value: "asked=left" } }' + text_of_contract(CONTRACT)
    lab.load_code("leaving_pipeline", WAITING, f"max_batch_size: 8\n{INPUT}{SEEN}{more}")
    tensor = InferInput("image", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[str(tmp_path).encode()]], np.object_))

    def call() -> str:
        with InferenceServerClient(lab.host, network_timeout=300) as client:
            try:
                client.infer("leaving_pipeline", [tensor])
            except InferenceServerException as error:
                return str(error)
        return "answered"

    headers = admin.headers("", lab.triton.options.admin_key)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(call)
        until((tmp_path / "asked").exists, "the request")
        for name in ("leaving_pipeline", "left"):
            lab.client.unload_model(name, headers=headers)
            until(lambda name=name: not lab.client.is_model_ready(name), "its leaving")
        (tmp_path / "go").touch()
        assert "leaving_pipeline is not ready any more" in answer.result()
    assert not lab.client.is_model_ready("left")


@pytest.mark.parametrize(("contract", "said"), [("", "an older"), (text_of_contract(CONTRACT + 1), "a newer")])
def test_what_another_depthface_laid_out_is_not_loaded_and_says_why(lab: Lab, contract: str, said: str):
    """`serve` looks before it starts; this came to a server that runs, or to a plain `tritonserver`."""
    with pytest.raises(InferenceServerException, match=f"was laid out by {said} depthface, .* Export it anew"):
        lab.load_code(f"laid_out_{len(contract)}", WAITING, f"max_batch_size: 8\n{INPUT}{SEEN}{contract}")
