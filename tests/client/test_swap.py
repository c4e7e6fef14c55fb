"""The swapper on the real server: against InsightFace's own, and only there while it is used.

The weights are random, in an architecture of the published size: right for arithmetic and memory, blind as a swap.
"""

from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest
from fixtures.serving import Server, depthface, serving
from fixtures.shared import linked
from fixtures.waiting import until
from PIL import Image

from depthface_client import Client, InvalidImage, InvalidInput, ModelUnavailable, ServerOverloaded
from depthface_standins.insightface import architectures, scenes

MODEL = "face_swap_inswapper_128"
NETWORK = "face_inswapper_128_swapper"

pytestmark = pytest.mark.slow

SOURCE = scenes.draw_scene([scenes.Placed(scenes.Person(3), 200, 220, 90)], (480, 640), seed=3).image
TARGET = scenes.draw_scene([scenes.Placed(scenes.Person(4), 380, 240, 110)], (480, 640), seed=4).image


@pytest.fixture
def client(face_server):
    with Client(face_server.host, timeout_s=300) as client:
        yield client


def wait_until_gone(server: Server) -> None:
    """The network's process; the pipeline's stays, and loads it when it is used again."""
    until(lambda: not server.steps(NETWORK), "the end of the network's process")


def test_it_is_loaded_when_it_is_first_used_and_gives_its_memory_back(face_server, client):
    assert any(MODEL in line and "loaded when it is first used" in line for line in face_server.lines)
    client.unload(MODEL)  # another test may have used it
    wait_until_gone(face_server)
    assert not {model.name: model.ready for model in client.models()}[MODEL]
    client.faces(TARGET)
    before = face_server.memory_bytes()

    client.swap(SOURCE, TARGET)
    loaded = face_server.memory_bytes()
    processes = face_server.steps(NETWORK)
    client.swap(SOURCE, TARGET)
    assert face_server.steps(NETWORK) == processes  # the second loads nothing

    done = depthface("unload", MODEL, "--url", face_server.host)
    assert done.returncode == 0, done.stderr
    wait_until_gone(face_server)
    after = face_server.memory_bytes()
    assert loaded - before > 500e6  # the network is half a gigabyte
    assert after - before < 100e6
    client.swap(SOURCE, TARGET)  # and comes again


@pytest.mark.filterwarnings("ignore:`estimate` is deprecated:FutureWarning")  # insightface on skimage 0.26
def test_it_equals_insightfaces_own(client, tmp_path):
    import onnx
    from insightface.model_zoo import get_model

    path = tmp_path / "inswapper_128.onnx"
    onnx.save(architectures.random_model("inswapper_128", 0), path)
    reference = get_model(str(path), providers=["CPUExecutionProvider"])
    (source,), (target,) = client.faces(SOURCE), client.faces(TARGET)
    expected = reference.get(
        TARGET[:, :, ::-1].copy(),
        SimpleNamespace(kps=target.keypoints),
        SimpleNamespace(normed_embedding=source.embedding),
    )[:, :, ::-1]
    got = np.asarray(Image.open(BytesIO(client.swap(SOURCE, TARGET))))
    assert got.shape == TARGET.shape
    assert np.abs(got.astype(int) - TARGET).max() > 20  # something was swapped
    assert np.abs(got.astype(int) - expected).max() <= 2


def test_the_largest_face_of_the_target_alone_may_be_changed(client):
    places = [scenes.Placed(scenes.Person(person), x, 240, size) for person, x, size in ((4, 140, 60), (5, 440, 110))]
    two = scenes.draw_scene(places, (480, 640), seed=4).image
    small, large = sorted(client.faces(two, parts=()), key=lambda face: face.area)
    for asked, changed in (("all", [small, large]), ("largest", [large])):
        after = np.asarray(Image.open(BytesIO(client.swap(SOURCE, two, target_faces=asked)))).astype(int)
        differs = np.abs(after - two).max(axis=2) > 0
        for face in (small, large):
            x, y = face.keypoints[2].round().astype(int)  # its nose
            assert differs[y - 2 : y + 3, x - 2 : x + 3].any() == (face in changed)


@pytest.mark.parametrize("option", [{"source_face": "all"}, {"target_faces": "first"}, {"det_size": 100}])
def test_an_option_that_is_none_is_refused_here(client, option):
    (name,) = option
    with pytest.raises(InvalidInput, match=name):
        client.swap(SOURCE, TARGET, **option)


def test_a_swapper_that_was_exported_before_there_were_options_is_named(swap_repository, tmp_path):
    old = linked(swap_repository, to=tmp_path / "old")
    for config in list((old / MODEL).rglob("*.pbtxt")):
        text = re.sub(
            r'input \{\s*name: "(source_face|target_faces|det_size)".*?\n\}\n', "", config.read_text(), flags=re.S
        )
        config.unlink()  # it is a link
        config.write_text(text)
    with serving(old) as server, Client(server.host, timeout_s=300) as client:
        assert client.swap(SOURCE, TARGET)
        with pytest.raises(InvalidInput, match=r"does not take target_faces\. Export it"):
            client.swap(SOURCE, TARGET, target_faces="largest")


def test_a_photo_without_a_face_is_named(client):
    nobody = scenes.draw_scene([], (480, 640)).image
    with pytest.raises(InvalidInput, match="source"):
        client.swap(nobody, TARGET)
    with pytest.raises(InvalidInput, match="target"):
        client.swap(SOURCE, nobody)


def test_what_the_analysis_refuses_the_swap_refuses_too(client):
    with pytest.raises(InvalidImage, match="not an image"):
        client.swap(b"hello", TARGET)
    for which, given in (("source", (b"hello", TARGET)), ("target", (SOURCE, b"hello"))):
        with pytest.raises(InvalidImage, match=f"The {which} photo: .*not an image"):
            client.swap(*given)
    with pytest.raises(InvalidImage, match="The target photo: list is not a photo"):
        client.swap(SOURCE, [])
    with pytest.raises(ModelUnavailable, match="face_analysis_nobody"):
        client.swap(SOURCE, TARGET, analysis="face_analysis_nobody")


def test_a_full_queue_inside_a_pipeline_is_a_503_too(swap_repository):
    """Analyses leave no room in their queue of two for the one that a swap asks for."""
    with serving(swap_repository, "--queue-size", "2") as server, Client(server.host, timeout_s=300) as client:
        model, is_enough = client.face_model(), threading.Event()
        client.swap(SOURCE, TARGET)

        def crowd() -> None:
            while not is_enough.is_set():
                with suppress(ServerOverloaded):
                    client.faces(TARGET, model=model)

        def is_refused() -> bool:
            try:
                client.swap(SOURCE, TARGET)
            except ServerOverloaded:
                return True
            return False

        with ThreadPoolExecutor(8) as pool:
            crowds = [pool.submit(crowd) for _ in range(8)]
            try:
                until(is_refused, "a swap that is refused")
            finally:
                is_enough.set()
        assert [each.result() for each in crowds] == [None] * 8
        assert server.metrics()[f'depthface_refused_total{{model="{MODEL}",reason="overloaded"}}'] > 0
        client.swap(SOURCE, TARGET)
