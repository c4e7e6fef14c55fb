"""The photos of one request, as a pipeline is given them; without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pytest

from depthface.errors import InvalidImage, InvalidInput
from depthface_server.photos import run_together
from depthface_server.tensors import refuse_shape


class Network:
    """One that notes what it was asked, and takes its time."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, ...]] = []

    async def __call__(
        self, model: str, inputs: Mapping[str, np.ndarray], outputs: Collection[str]
    ) -> dict[str, np.ndarray]:
        self.asked.append(inputs["x"].shape)
        await asyncio.sleep(0)
        return {"y": inputs["x"] * 2}


async def ask_once(infer: Any, photo: tuple[Any, ...]) -> dict[str, np.ndarray]:
    side, *_ = photo
    if side == 0:
        raise InvalidImage("This is no photo.")
    if side < 0:  # asks no network
        return {"y": np.zeros(1)}
    await asyncio.sleep(0.001 * side)  # photos are decoded in times of their own
    first, _ = await asyncio.gather(*(infer("m", {"x": np.ones((1, side))}, ("y",)) for _ in range(2)))
    return first


def together(network: Network, *sides: int) -> list[Mapping[str, Any]]:
    return asyncio.run(run_together(ask_once, network, [(side,) for side in sides]))


def test_photos_of_different_shapes_are_refused_before_one_is_computed():
    network = Network()
    with pytest.raises(InvalidInput, match="requests of their own"):
        together(network, 3, 9, 3)
    assert network.asked == []


def test_a_bad_photo_beside_good_ones_is_refused_before_one_is_computed():
    for sides in ((0, 3), (3, 0), (3, 3, 0)):
        network = Network()
        with pytest.raises(InvalidImage, match="no photo"):
            together(network, *sides)
        assert network.asked == []


def test_photos_of_one_shape_are_computed_and_answered_in_order():
    network = Network()
    answers = together(network, 4, -1, 4)
    assert [answer["y"].shape for answer in answers] == [(1, 4), (1,), (1, 4)]
    assert network.asked == 4 * [(1, 4)]


@pytest.mark.parametrize(
    "shape",
    [
        [1, 2**32, 2**32, 3], [1, 2**61, 8, 3], [8, 2**40, 2**24, 3], [1, 2**63 - 1, 2, 3], [1, 2**62, 0, 3],
        [0, 4], [1, -1, 3], [2**31, 1], [2**16, 2**16],
    ],
)  # fmt: skip
def test_shapes_that_overflow_or_hold_nothing_are_refused(shape):
    with pytest.raises(InvalidInput, match="shape"):
        refuse_shape("pixels", shape)


def test_shapes_that_networks_run_on_are_not():
    for shape in ([1], [8, 1036, 1036, 3], [32, 3, 112, 112], []):
        refuse_shape("pixels", shape)
