"""What is asked at the same moment is one batch, and everybody gets an answer of his own."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from depthface.families import all_cards
from depthface_server.gathering import Gathering
from depthface_server.photos import run_together


class Network:
    """Doubles what it is given; notes how it was asked."""

    def __init__(self, fails: bool = False) -> None:
        self.batches: list[tuple[int, ...]] = []
        self.fails = fails

    async def infer(self, model, inputs, outputs):
        self.batches.append(inputs["x"].shape)
        await asyncio.sleep(0)
        if self.fails or (inputs["x"] < 0).any():
            raise RuntimeError("it broke")
        return dict.fromkeys(outputs, 2 * inputs["x"])


async def embed(infer, inputs):
    (value,) = inputs
    found = await infer("network", {"x": value[None]}, ("y",))
    return {"y": found["y"][0]}


def all_of(network: Network, requests: list[list[np.ndarray]], *, of_any_shape: bool = True) -> list:
    """Run requests of several items each, as one execution of a pipeline does."""

    async def run():
        together = Gathering(network.infer).ask
        return await asyncio.gather(
            *(
                run_together(embed, together, [(item,) for item in items], of_any_shape=of_any_shape)
                for items in requests
            ),
            return_exceptions=True,
        )

    return asyncio.run(run())


def test_items_of_one_and_of_several_requests_are_one_batch():
    network = Network()
    requests = [[np.array([index, count]) for index in range(count)] for count in (1, 3, 1, 2)]
    found = all_of(network, requests)
    assert network.batches == [(7, 2)]
    for items, answers in zip(requests, found, strict=True):
        for item, answer in zip(items, answers, strict=True):
            np.testing.assert_array_equal(answer["y"], 2 * item)


def test_each_shape_is_a_batch():
    network = Network()
    requests = [[np.arange(2)], [np.arange(3), np.arange(2)], [np.arange(3.0)]]
    found = all_of(network, requests)
    assert sorted(network.batches) == [(1, 3), (1, 3), (2, 2)]  # floats are not put to whole numbers
    assert [len(answer["y"]) for answers in found for answer in answers] == [2, 3, 2, 3]


def test_items_of_different_shapes_are_refused_where_the_answers_would_be_too():
    found = all_of(Network(), [[np.arange(2), np.arange(3)], [np.arange(2)]], of_any_shape=False)
    assert "same shape" in str(found[0])
    np.testing.assert_array_equal(found[1][0]["y"], [0, 2])


def test_what_breaks_is_told_to_everybody_and_nobody_waits():
    found = all_of(Network(fails=True), [[np.arange(2)], [np.arange(2), np.arange(2)]])
    assert [str(error) for error in found] == ["it broke", "it broke"]


def test_one_that_the_network_fails_on_fails_alone():
    network = Network()
    first, broken, last = all_of(network, [[np.array([1])], [np.array([2]), np.array([-1])], [np.array([3])]])
    assert (first[0]["y"].tolist(), str(broken), last[0]["y"].tolist()) == ([2], "it broke", [6])
    assert network.batches == [(4, 1)] + 4 * [(1, 1)]


def test_one_that_is_refused_takes_nobody_along():
    network = Network()

    async def embed_or_refuse(infer, inputs):
        if inputs[0][0] < 0:
            raise ValueError("refused")
        return await embed(infer, inputs)

    async def run():
        together = Gathering(network.infer).ask
        ways = (run_together(embed_or_refuse, together, [(np.array([value]),)]) for value in (1, -1, 2))
        return await asyncio.gather(*ways, return_exceptions=True)

    first, refused, last = asyncio.run(run())
    assert (first[0]["y"].tolist(), str(refused), last[0]["y"].tolist()) == ([2], "refused", [4])
    assert network.batches == [(2, 1)]


@pytest.mark.parametrize("card", all_cards().values(), ids=lambda card: card.name)
def test_no_more_is_gathered_than_a_network_takes(card):
    networks = {network.name: network for network in card.networks}
    for pipeline in card.pipelines:
        if pipeline.parameters.gathers:
            asked = [networks[name] for name in pipeline.parameters.networks.values()]
            assert all(network.max_batch_size >= pipeline.max_batch_size for network in asked)
