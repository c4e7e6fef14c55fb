"""Both clients have the same methods, over both protocols."""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path

import numpy as np
import pytest
from fixtures.photos import VARIETY
from fixtures.waiting import settled, until
from tritonclient.grpc import service_pb2 as pb

from depthface import asking
from depthface.asking import Describe, Description, Index, Together, Unload, Work, operation
from depthface.tasks.embedding import EmbeddingMethods
from depthface_client import AsyncClient, Client, InvalidImage, ModelUnavailable, NotAllowed
from depthface_client._methods import Methods
from depthface_client._transports.address import Address
from depthface_client._transports.grpc_codec import GrpcCodec

PHOTO = VARIETY["tiny 40×30"]


def operations(kind: type) -> dict[str, operation]:
    return {name: value for name, value in inspect.getmembers(kind) if isinstance(value, operation)}


def test_both_clients_have_every_method():
    assert operations(Client) == operations(AsyncClient)
    assert {"check", "compare", "depth", "depth_png", "faces", "load", "models", "swap", "unload"} <= set(
        operations(Client)
    )
    public = [{name for name in dir(kind) if not name.startswith("_")} for kind in (Client, AsyncClient)]
    assert public[0] == public[1]


def test_each_method_has_a_docstring_with_all_its_arguments():
    for name, method in operations(Client).items():
        assert method.__doc__, name
        signature = inspect.signature(getattr(Client("h:1"), name))
        for argument in signature.parameters:
            assert f"{argument}:" in method.__doc__ or len(signature.parameters) == 1, (name, argument)


@pytest.fixture(params=["http", "grpc"])
def url(request, server) -> str:
    return server.host if request.param == "http" else f"grpc://127.0.0.1:{server.port('grpc')}"


def test_over_both_protocols_they_answer_the_same(url, client):
    expected = client.depth(PHOTO)

    async def ask():
        async with AsyncClient(url, admin_key="a-wrong-key-of-some-length") as stranger:
            with pytest.raises(NotAllowed):
                await stranger.load("nothing")
        async with AsyncClient(url) as other:
            with pytest.raises(InvalidImage):
                await other.depth(b"no photo")
            with pytest.raises(ModelUnavailable):
                await other.depth(PHOTO, model="nothing")
            return await asyncio.gather(other.depth(PHOTO), other.depth_png(PHOTO), other.models(), other.check())

    with Client(url) as same:
        results = [same.depth(PHOTO), same.depth_png(PHOTO), same.models(), same.check()]
        with pytest.raises(InvalidImage):
            same.depth(b"no photo")
    for depth, png, models, checked in (results, asyncio.run(ask())):
        np.testing.assert_array_equal(depth.array, expected.array)
        assert (depth.size, depth.weights) == (expected.size, expected.weights)
        assert png == client.depth_png(PHOTO)
        assert models == client.models()
        assert checked == client.check()


def test_of_a_long_list_of_photos_no_more_are_read_than_can_be_under_way():
    way = EmbeddingMethods.embed.way(EmbeddingMethods("h", 60, 0), [Path("a.jpg")] * 300, model="m")
    waiting = most = 0
    answer, found = None, None
    while found is None:
        try:
            match way.send(answer):
                case Work():
                    waiting, answer = waiting + 1, b"a photo"
                case Describe():
                    answer = {"name": "m", "output": [{"name": "embedding"}], "max_batch_size": 16}
                case Together(ways):
                    sizes = [len(next(one).inputs["image"]) for one in ways]
                    most, waiting = max(most, waiting), waiting - sum(sizes)
                    answer = [{"embedding": np.zeros((size, 4), np.float32)} for size in sizes]
        except StopIteration as end:
            found = end.value
    assert (most, waiting, len(found)) == (8 * 16, 0, 300)


def test_a_model_that_leaves_meanwhile_keeps_no_other_from_being_unloaded():
    way = Methods.unload.way(Methods("h", 60, 0), "a")
    states = {"a": "READY", "b": "READY", "c": "UNAVAILABLE", "of_a": "READY", "of_b": "READY"}
    sent: list[object] = []
    step = next(way)
    with pytest.raises(StopIteration):
        while True:
            sent.append(step)
            match step:
                case Index():
                    step = way.send(states)
                case Describe("b"):
                    step = way.throw(ModelUnavailable("h does not serve 'b'."))
                case Describe(name):
                    steps = [{"model_name": "of_a"}] if name == "a" else []
                    step = way.send({"name": name, "ensemble_scheduling": {"step": steps}})
                case _:
                    step = way.send(None)
    assert [step for step in sent if isinstance(step, Unload)] == [Unload("a"), Unload("of_a")]


def test_a_model_that_is_gone_itself_is_said_to_be():
    way = Methods.unload.way(Methods("h", 60, 0), "a")
    assert next(way) == Index()
    assert way.send({"a": "READY"}) == Describe("a")
    with pytest.raises(ModelUnavailable):
        way.throw(ModelUnavailable("h does not serve 'a'."))


def test_a_parameter_without_a_text_is_read_over_grpc():
    """A model of somebody else's may have one, and every call that names no model looks at all of them."""
    said = pb.ModelConfigResponse()
    said.config.name = "theirs"
    for name, text in (("note", ""), ("task", "depth")):
        said.config.parameters[name].string_value = text
    codec = GrpcCodec(Address.of("grpc://h:1"), None)
    assert Description.of_config(codec.answer(Describe("theirs"), said)).parameters.task == "depth"


def test_what_is_loaded_and_how_much_it_has_answered(url):
    with Client(url) as client:
        before = settled(client.loaded)
        client.depth(PHOTO)
        until(lambda: client.loaded() == {name: count + 1 for name, count in before.items()}, "one more answer")
    assert len(before) == 2  # the pipeline and its network


def test_which_model_is_meant_is_asked_once_a_moment_and_again_after_a_failure(client, monkeypatch):
    sent: list[str] = []
    send = client._transport.send

    def counted(call, timeout_s):
        sent.append(type(call).__name__)
        return send(call, timeout_s)

    monkeypatch.setattr(client._transport, "send", counted)
    monkeypatch.setattr(asking, "_FRESH_S", 3600.0)

    def asked() -> list[str]:
        sent.clear()
        client.depth(PHOTO)
        return list(sent)

    assert "Served" in asked()
    assert asked() == ["Infer"]
    with pytest.raises(InvalidImage):
        client.depth(b"no photo")
    assert "Served" in asked()
    sent.clear()
    client.models()  # what they are now, whatever is known
    assert "Describe" in sent
    monkeypatch.setattr(asking, "_FRESH_S", 0.0)
    assert "Served" in asked()
