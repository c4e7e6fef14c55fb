"""Both forms on the real server, one beside the other: the same bits, the same errors, and what an operator does."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fixtures import impatient
from fixtures.exporting import job_of, traced_once
from fixtures.photos import VARIETY, encoded, photo
from fixtures.processes import ended, kill
from fixtures.serving import Server, depthface, serving
from fixtures.tiny import TINY
from fixtures.waiting import until
from PIL import Image
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from depthface import manifest
from depthface.contract import ENSEMBLE, Form
from depthface.errors import DepthfaceError, ServerOverloaded
from depthface.families import card_named
from depthface_client import Client
from depthface_export.pipeline import export
from depthface_standins.insightface import scenes, synthetic

DEPTH = TINY.name
STEPS = (f"{DEPTH}_prepare", f"{DEPTH}_finish")
STAYS = "stays a pipeline, its steps depend on what is found in the photo"
CROWD = scenes.draw_crowd(6)
OUTPUTS = {"depth": ("depth", "size", "png16", "png8"), "faces": ("boxes", "scores", "keypoints", "size")}
SHAPES = ("landscape JPEG", "portrait JPEG", "tiny 40×30", "wide 3:1", "grey PNG", "EXIF 6")
Forms = dict[Form, Server]


@pytest.fixture(scope="module")
def repositories(tmp_path_factory, shared) -> dict[Form, Path]:
    """The same networks in both forms, made once: a change of form alone makes none anew."""
    from fixtures.clip import TINY as TINY_CLIP
    from fixtures.clip import write_folder

    folder = tmp_path_factory.mktemp("forms")
    found: dict[Form, Path] = {"pipeline": folder / "pipeline", ENSEMBLE: folder / ENSEMBLE}
    pack = folder / "drawn"
    pack.mkdir()
    onnx.save(synthetic.detector(), pack / "detector.onnx")
    clip = write_folder(folder / "clip")
    for form, target in found.items():
        if form == ENSEMBLE:
            shutil.copytree(found["pipeline"], target)
        lines: list[str] = []
        for card, weights in ((TINY, "random"), (card_named(str(pack)), str(pack)), (TINY_CLIP, str(clip))):
            job = job_of(card, target, weights, accepts_license=True, form=form, report=lines.append)
            with traced_once(shared):
                assert export(job) == "exported"
        assert any("onnx:" in line for line in lines) == (form == "pipeline"), lines
        staying = [f"{name}: {STAYS}" for name in ("face_analysis_drawn", "clip_vit_b_32_text")]
        assert [line for line in lines if "stays a pipeline" in line] == (staying if form == ENSEMBLE else [])
    return found


@pytest.fixture(scope="module")
def served(repositories: dict[Form, Path]) -> Iterator[Forms]:
    other_server = serving(repositories[ENSEMBLE], command=impatient.COMMAND)
    with serving(repositories["pipeline"]) as one, other_server as other:
        yield {"pipeline": one, ENSEMBLE: other}


def ask(server: Server, model: str, inputs: dict[str, Any], outputs: tuple[str, ...], **options: Any) -> Any:
    """The outputs by name, or what the server says of the request: its status, and its sentence."""
    tensors = []
    for name, value in inputs.items():
        items = value if isinstance(value, list) else [value]
        array = np.array([[item] for item in items], np.object_ if isinstance(items[0], bytes) else None)
        tensor = InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        tensors.append(tensor)
    with InferenceServerClient(server.host, network_timeout=120, connection_timeout=120) as triton:
        wanted = [InferRequestedOutput(name) for name in outputs]
        try:
            result = triton.infer(model, tensors, outputs=wanted, **options)
        except InferenceServerException as error:
            return error.status(), error.message().removeprefix(f"in ensemble '{model}', ")
        assert {each["name"] for each in result.get_response()["outputs"]} == set(outputs)
        return {name: result.as_numpy(name) for name in outputs}


def both(served: Forms, *arguments: Any, **options: Any) -> Any:
    """What both forms answer, which is held to be the same."""
    one, other = (ask(server, *arguments, **options) for server in served.values())
    assert_same(one, other)
    return other


def assert_same(one: Any, other: Any) -> None:
    if isinstance(one, tuple) or isinstance(other, tuple):
        assert one == other
        return
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert (value.dtype, value.shape) == (other[name].dtype, other[name].shape), name
        assert value.tolist() == other[name].tolist(), name


@pytest.mark.parametrize("name", SHAPES)
def test_depth_is_the_same_in_every_output_alone_and_together(served, name):
    whole = both(served, DEPTH, {"image": VARIETY[name]}, OUTPUTS["depth"])
    assert whole["depth"].std() > 0
    for output in OUTPUTS["depth"]:
        alone = both(served, DEPTH, {"image": VARIETY[name]}, (output,))
        assert alone[output].tolist() == whole[output].tolist()


def spoil(network: Path) -> None:
    """Have all that a network gives in floats be NaN, as one that is past the largest of fp16 does."""
    model = onnx.load(network / "model.onnx")
    model.graph.initializer.append(onnx.helper.make_tensor("spoilt/nan", onnx.TensorProto.FLOAT, [], [float("nan")]))
    for output in model.graph.output:
        if output.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            for node in model.graph.node:
                node.output[:] = [f"{name}/sound" if name == output.name else name for name in node.output]
                node.input[:] = [f"{name}/sound" if name == output.name else name for name in node.input]
            model.graph.node.append(
                onnx.helper.make_node("Mul", [f"{output.name}/sound", "spoilt/nan"], [output.name], output.name)
            )
    onnx.save(model, network / "model.onnx")
    found = manifest.read(network)
    sha256 = {"sha256": manifest.sha256_of(network / "model.onnx")}
    dataclasses.replace(found, onnx=found.onnx | sha256).write(network)


@pytest.mark.parametrize("form", ["pipeline", ENSEMBLE])
def test_an_answer_that_is_no_number_is_a_failure_that_is_logged_and_counted(repositories, form, tmp_path):
    """And no black map, no photo without faces, and no vector that is like no other."""
    copy = Path(shutil.copytree(repositories[form], tmp_path / "spoilt"))
    for folder in manifest.folders(copy):
        spoil(folder)
    photo_bytes = VARIETY["landscape JPEG"]
    asked = [
        (DEPTH, {"image": photo_bytes}, ("png8",)),
        (DEPTH, {"image": photo_bytes}, ("depth",)),
        ("face_detection_drawn", {"image": encoded(Image.fromarray(CROWD.image), "PNG")}, OUTPUTS["faces"]),
        ("clip_vit_b_32_image", {"image": photo_bytes}, ("embedding",)),
        ("clip_vit_b_32_text", {"text": b"a cat"}, ("embedding",)),
    ]
    with serving(copy, "--log-format", "json") as server:
        for model, inputs, outputs in asked:
            status, said = ask(server, model, inputs, outputs)
            assert (status, "the server's log says why" in said) == ("500", True), (model, status, said)
        until(lambda: sum("not finite" in line for line in server.lines) >= len(asked), "the log's lines")
        failed = {name for name, count in server.metrics().items() if count and "depthface_failed_total" in name}
    networks = {folder.parent.name for folder in manifest.folders(copy)}
    # An ensemble itself counts nothing.
    public = {model for model, *_ in asked if form == "pipeline" or "_text" in model}
    assert failed == {f'depthface_failed_total{{model="{name}"}}' for name in networks | public}


def test_a_requests_parameters_reach_the_first_step(served):
    data = encoded(photo("coffee.png").resize((3000, 2000)), "JPEG")
    slow = both(served, DEPTH, {"image": data}, ("depth",))
    quick = both(served, DEPTH, {"image": data}, ("depth",), parameters={"fast_decode": True})
    assert not np.array_equal(slow["depth"], quick["depth"])


def test_photos_of_many_shapes_at_the_same_time(served):
    photos = [VARIETY[name] for name in SHAPES] * 3
    with ThreadPoolExecutor(len(photos)) as pool:
        for one, other in zip(
            *(
                pool.map(lambda data, server=server: ask(server, DEPTH, {"image": data}, OUTPUTS["depth"]), photos)
                for server in served.values()
            ),
            strict=True,
        ):
            assert isinstance(other, dict)
            assert_same(one, other)


def test_several_photos_in_one_request(served):
    small = photo("coffee.png").resize((200, 150))
    photos = [encoded(picture, "PNG") for picture in (small, small.rotate(180), small.resize((400, 300)))]
    answer = both(served, DEPTH, {"image": photos}, OUTPUTS["depth"])
    assert answer["size"].tolist() == [[150, 200], [150, 200], [300, 400]]


@pytest.mark.parametrize(
    ("images", "status", "words"),
    [
        ([b"garbage"], "400", "invalid_image"),
        ([b""], "400", "invalid_image"),
        ([VARIETY["landscape JPEG"][:5000]], "400", "damaged or truncated"),
        ([encoded(photo().resize((900, 40)), "PNG")], "400", "times as long as it is wide"),
        ([VARIETY["landscape JPEG"], VARIETY["portrait JPEG"]], "400", "same shape on the network's grid"),
        ([VARIETY["landscape JPEG"], b"garbage", VARIETY["portrait JPEG"]], "400", "not an image"),
        ([VARIETY["tiny 40×30"]] * 9, "400", "batch-size must be <= 8"),
    ],
    ids=["garbage", "empty", "cut off", "long", "mixed", "one bad", "too many"],
)
def test_a_bad_request_for_depth_is_the_same_error(served, images, status, words):
    found = both(served, DEPTH, {"image": images}, OUTPUTS["depth"])
    assert found[0] == status
    assert words in found[1]


def test_a_parameter_of_a_wrong_type_is_the_same_error(served):
    image = {"image": VARIETY["tiny 40×30"]}
    found = both(served, DEPTH, image, ("size",), parameters={"fast_decode": 3})
    assert found[0] == "400"
    assert found[1].startswith("invalid_input: fast_decode is 3.")


DETECTION = "face_detection_drawn"


def options(min_score: float | None = None, **whole: int) -> dict[str, Any]:
    given = {} if min_score is None else {"min_score": np.float32(min_score)}
    return given | {name: np.int32(value) for name, value in whole.items()}


@pytest.mark.parametrize(
    "asked", [{}, {"max_faces": 2}, {"min_score": 0.9}, {"det_size": 320, "max_faces": 1}], ids=str
)
def test_faces_are_the_same_with_and_without_each_option(served, asked):
    scene = encoded(Image.fromarray(CROWD.image), "PNG")
    answer = both(served, DETECTION, {"image": scene, **options(**asked)}, OUTPUTS["faces"])
    assert len(answer["boxes"][0]) > 0
    for output in OUTPUTS["faces"]:
        assert_same({output: answer[output]}, both(served, DETECTION, {"image": scene, **options(**asked)}, (output,)))


def test_no_face_is_no_error(served):
    answer = both(served, DETECTION, {"image": VARIETY["tiny 40×30"]}, OUTPUTS["faces"])
    assert answer["boxes"].shape == (1, 0, 4)


@pytest.mark.parametrize("asked", [{"min_score": 0.0}, {"max_faces": -1}, {"det_size": 33}], ids=str)
def test_an_option_out_of_range_is_the_same_error(served, asked):
    found = both(served, DETECTION, {"image": VARIETY["tiny 40×30"], **options(**asked)}, ("boxes",))
    assert found[0] == "400"
    assert next(iter(asked)) in found[1]


def test_a_missing_photo_is_the_same_status(served):
    found = [ask(server, DETECTION, options(max_faces=1), ("boxes",)) for server in served.values()]
    assert [status for status, _ in found] == ["400", "400"], found


def test_vectors_are_the_same(served):
    for name in SHAPES:
        answer = both(served, "clip_vit_b_32_image", {"image": VARIETY[name]}, ("embedding",))
        assert np.linalg.norm(answer["embedding"]) == pytest.approx(1, abs=1e-5)
    assert both(served, "clip_vit_b_32_image", {"image": b"no photo"}, ("embedding",))[0] == "400"


def test_the_clients_say_the_same_of_both(served):
    told = []
    for server in served.values():
        with Client(server.host) as client:
            errors = []
            for data in (b"garbage", b""):
                with pytest.raises(DepthfaceError) as caught:
                    client.depth(data)
                error = caught.value
                errors.append((type(error), error.status, error.what, error.remedy))
            told.append((client.models(), sorted(client.check()), errors))
    assert told[0] == told[1]
    for command in ("models", "health"):
        done = [depthface(command, "--url", server.host) for server in served.values()]
        assert [each.returncode for each in done] == [0, 0]


def test_both_count_the_same_under_the_public_name(served):
    before = [server.metrics() for server in served.values()]
    scene = encoded(Image.fromarray(CROWD.image), "PNG")
    both(served, DETECTION, {"image": scene}, ("boxes",))
    both(served, DETECTION, {"image": b"garbage"}, ("boxes",))
    changes = []
    for server, earlier in zip(served.values(), before, strict=True):
        now = server.metrics()
        changes.append({name: now[name] - earlier.get(name, 0) for name in now if now[name] != earlier.get(name, 0)})
    assert changes[0] == changes[1]
    assert any(name.startswith("depthface_refused_total") and DETECTION in name for name in changes[1])
    assert any(name.startswith("depthface_faces_per_photo_count") and DETECTION in name for name in changes[1])


def test_a_step_that_dies_comes_back_and_the_ensemble_with_it(served):
    server = served[ENSEMBLE]
    for name in STEPS:
        kill(server.steps(name))
        until(lambda name=name: any(f"{name}: serves again" in line for line in server.lines), f"{name}'s recovery")
        answer = ask(server, DEPTH, {"image": VARIETY["tiny 40×30"]}, OUTPUTS["depth"])
        assert isinstance(answer, dict), answer
    assert server.metrics()[f'depthface_recoveries{{model="{STEPS[0]}"}}'] == 1


def test_an_ensemble_is_unloaded_and_loaded_with_its_steps(served):
    server = served[ENSEMBLE]
    parts = (*STEPS, TINY.networks[0].name)
    with Client(server.host) as client:
        steps = [process for name in parts for process in server.steps(name)]
        client.unload(DEPTH)
        assert DEPTH not in {model.name for model in client.models()}
        assert ended(steps)
        client.load(DEPTH)
        assert client.depth(VARIETY["tiny 40×30"]).array.size
        client.unload(DETECTION)  # its detector is the analysis' too
        assert client.faces(VARIETY["tiny 40×30"], model="face_analysis_drawn") == []
        client.load(DETECTION)
        assert DETECTION in client.check()


def test_a_full_queue_refuses_at_once(repositories):
    """Photos that take long to decode: the first step is what is overloaded."""
    slow = encoded(photo("coffee.png").resize((4500, 3000)), "PNG")
    with serving(repositories[ENSEMBLE], "--queue-size", "1") as server:

        def one(_: int) -> str:
            try:
                with Client(server.host, timeout_s=300, retries=0) as client:
                    client.depth(slow)
            except ServerOverloaded as error:
                return error.what
            return "answered"

        full = f"{server.host} has as many requests waiting as it takes."
        answers: list[str] = []
        with ThreadPoolExecutor(24) as pool:
            while set(answers) != {"answered", full} and len(answers) < 5 * 24:  # they may come one after the other
                answers += pool.map(one, range(24))
    assert set(answers) == {"answered", full}
